"""Trials at once: what is planned fits the nodes, and leaves no room for one more."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.cluster import Resources, plan_resources, replan
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings
from gmsearch.space_file import read_space_data

SPACE = read_space_data(Path(__file__).parents[1] / "search_spaces" / "tiny.yaml")
GB = 1e9

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def plan(nodes, **settings) -> Resources:
    base = {"name": "r", "space": SPACE, "budget": 30_000_000, "trials": 100}
    experiment = make_settings(Experiment, {**base, **settings})
    return plan_resources(experiment, [{"memory": 64 * GB, **node} for node in nodes])


def fit_at_once(nodes, cpus: float, gpus: float) -> int:
    """Puts trials on the nodes one after the other, as Ray does."""
    count = 0
    for node in nodes:
        free_cpus = node["CPU"]
        free_gpus = [1.0] * int(node.get("GPU", 0))
        while free_cpus + 1e-6 >= cpus:
            if 0 < gpus <= 1:
                device = next((i for i, f in enumerate(free_gpus) if f + 1e-6 >= gpus), None)
                if device is None:
                    break
                free_gpus[device] -= gpus
            elif gpus > 1:
                if len(free_gpus) < gpus:
                    break
                del free_gpus[: int(gpus)]
            free_cpus -= cpus
            count += 1
    return count


@st.composite
def clusters(draw):
    with_gpus = draw(st.booleans())
    cores = st.integers(1, 12)
    nodes = [{"CPU": draw(cores)} for _ in range(draw(st.integers(1, 4)))]
    for node in nodes:
        if with_gpus and draw(st.booleans()):
            node["GPU"] = draw(st.integers(1, 4))
    return nodes


@given(clusters(), st.sampled_from([0.25, 0.5, 0.6, 1.0, 2.0]), st.integers(1, 30))
def test_all_that_is_planned_at_once_fits_and_more_threads_would_not(nodes, gpus_each, trials):
    try:
        planned = plan(nodes, gpus_per_trial=gpus_each, trials=trials)
    except SettingsError as error:
        assert "trials fit at once" in str(error)
        assert fit_at_once(nodes, 0.01, gpus_each) == 0
        return
    assert 1 <= planned.workers <= trials
    assert fit_at_once(nodes, planned.cpus, planned.gpus) >= planned.workers
    assert fit_at_once(nodes, planned.threads + 1, planned.gpus) < planned.workers
    if planned.workers < trials and planned.gpus == 0:
        assert planned.workers == sum(node["CPU"] for node in nodes)


def test_one_worker_on_two_nodes_takes_the_cores_of_one():
    assert plan([{"CPU": 1}, {"CPU": 1}], workers=1) == Resources(1, 1, 0.0)
    assert plan([{"CPU": 8}] * 4, trials=2) == Resources(2, 8, 0.0)


@given(clusters(), clusters(), st.sampled_from([0.25, 1.0]), st.integers(1, 30))
def test_where_nodes_come_and_go_as_many_trials_run_as_fit_then(before, after, gpus_each, trials):
    base = {"name": "r", "space": SPACE, "budget": 30_000_000, "trials": trials}
    experiment = make_settings(Experiment, {**base, "gpus_per_trial": gpus_each})
    before, after = ([{"memory": 64 * GB, **node} for node in nodes] for nodes in (before, after))
    planned = plan_resources(experiment, before)
    now = replan(experiment, planned, after)
    assert (now.cpus, now.gpus) == (planned.cpus, planned.gpus)
    fit = fit_at_once(after, planned.cpus, planned.gpus)
    assert now.workers == max(1, min(fit, trials))
    fixed = experiment.model_copy(update={"workers": 3})
    assert replan(fixed, planned, after) == planned


def test_little_memory_means_fewer_workers():
    assert plan([{"CPU": 16, "memory": 6 * GB}]).workers == 5


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([{"CPU": 8, "GPU": 2}], {"workers": 3}, "--workers 3 with --gpus-per-trial 1: only 2 "),
        ([{"CPU": 8, "GPU": 2}], {"workers": 3, "gpus_per_trial": 0.6}, "only 2 trials fit"),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_trial": 1.5}, "above one it must be a whole number"),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_trial": 4}, "only 0 trials fit at once"),
    ],
)
def test_what_cannot_fit_is_refused(nodes, settings, message):
    with pytest.raises(SettingsError, match=message):
        plan(nodes, **settings)
