"""The study is the memory of a run."""

import json
import math
import re
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import curve, make_run
from optuna.trial import Trial, TrialState

from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings, read_settings
from gmsearch.gmnet import gmnet, gmnet_within, without_gates
from gmsearch.record import interval_of
from gmsearch.run import RunData, RunFolder, check_run, write_settings
from gmsearch.search import as_begun, run_search
from gmsearch.space_file import read_space, read_space_data
from gmsearch.storage import open_storage, open_to_write, read_trials
from gmsearch.stored import epoch_faults, read_records
from gmsearch.study import SearchStudy
from gmsearch.training import EpochResult

SPACES = Path(__file__).parents[1] / "search_spaces"
BUDGET = 30_000_000

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def experiment() -> Experiment:
    data = read_space_data(SPACES / "tiny.yaml")
    return make_settings(Experiment, {"name": "r", "space": data, "budget": BUDGET, "trials": 5})


@pytest.fixture
def open_study(tmp_path, experiment):
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, experiment, RunData(90, 10, ("a", "b")))
    return lambda: SearchStudy(folder, experiment, experiment.search_space(folder.path))


def stored(tmp_path) -> list[optuna.trial.FrozenTrial]:
    """What anybody else reads from the file."""
    return optuna.load_study(storage=f"sqlite:///{tmp_path}/r/study.db", study_name="r").trials


def test_the_first_two_jobs_are_gmnet_at_the_budget_and_the_same_without_gates(open_study):
    study = open_study()
    first, second, third = study.ask(), study.ask(), study.ask()
    assert first.network == gmnet_within(BUDGET, resolution=224, num_classes=1000)
    assert second.network == without_gates(first.network)
    assert [study.records[n].baseline for n in range(3)] == ["GmNet", "no gates", None]
    space = read_space(SPACES / "tiny.yaml")
    wider = gmnet("gmnet_s1", first.network.stages[0].width + 1)
    assert space.cost(first.network).macs <= BUDGET < space.cost(wider).macs
    assert third.network.id not in (first.network.id, second.network.id)


def test_a_finished_trial_is_complete_with_its_values_and_curve(open_study, tmp_path):
    study = open_study()
    number, architecture, *_ = study.ask()
    study.report(number, curve(10.0))
    study.report(number, curve(10.0, 12.5))
    record = study.tell(number)
    assert (record.state, record.top1, record.epochs, record.seconds) == ("complete", 12.5, 2, 4.0)
    (trial,) = stored(tmp_path)
    assert trial.state.name == "COMPLETE"
    assert trial.values == [12.5, record.macs]
    assert trial.user_attrs["curve"] == curve(10.0, 12.5)
    assert trial.user_attrs["id"] == architecture.id
    assert open_study().records[number] == record


def test_more_than_is_wanted_may_be_spent_already(open_study, tmp_path, experiment):
    study = open_study()
    while (job := study.ask()) is not None:
        for epochs in range(1, experiment.recipe.num_epochs + 1):
            if not study.report(job.number, curve(*range(epochs))):
                study.tell_stopped(job.number)
                break
        else:
            study.tell(job.number)
    spent = sum(record.epochs for record in study.records.values())
    assert study.is_finished and study.num_spent == experiment.trials == 5
    fewer = experiment.model_copy(update={"trials": 2})
    resumed = SearchStudy(RunFolder(tmp_path / "r"), fewer, fewer.search_space(tmp_path))
    assert resumed.is_finished
    assert resumed.num_spent == math.ceil(spent / experiment.recipe.num_epochs) > 2


def test_a_failed_trial_keeps_its_reason_in_one_line(open_study, tmp_path):
    study = open_study()
    number = study.ask().number
    study.report(number, curve(10.0))
    study.tell_failed(number, "the loss\n  is nan")
    (trial,) = stored(tmp_path)
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["reason"] == "the loss is nan"
    assert open_study().records[number].reason == "the loss is nan"


def test_running_trials_are_handed_out_again_under_their_own_numbers(open_study, tmp_path):
    """The first driver is dropped without a word, as by a kill."""
    first = open_study()
    jobs = [first.ask() for _ in range(3)]
    first.report(jobs[0].number, curve(1.0))
    first.tell(jobs[0].number)
    second = open_study()
    assert second.num_finished == 1
    assert [second.ask(), second.ask()] == jobs[1:]
    fresh = second.ask()
    assert fresh.number == 3
    for number in (1, 2, 3):
        second.report(number, curve(5.0))
        second.tell(number)
    assert [t.state.name for t in stored(tmp_path)] == ["COMPLETE"] * 4


@pytest.mark.parametrize("sampler", ["gated", "random"])
def test_what_another_program_wants_tried_is_not_trained(tmp_path, sampler):
    """Neither over the budget, nor twice, nor of another space; and whenever it comes."""
    folder, study = make_run(tmp_path / "r", [20.0, 21.0, 22.0], sampler=sampler, early_stop="off")
    dear = {choice.name: choice.options[-1] for choice in study._space.choices} | {"form": "twin"}
    dear |= {f"stage{stage}.placement": "expand" for stage in range(1, 5)}
    assert study._space.cost(study._space.decode(dear)).macs > BUDGET
    theirs = optuna.load_study(study_name="r", storage=f"sqlite:///{folder.study_file}")
    for wanted in (dear, study.records[2].picks, {"ratio": 77}, {"foo": "bar"}):
        theirs.enqueue_trial(wanted)
        record = study.records[study.ask().number]
        assert record.picks and record.picks != wanted
        assert record.macs <= BUDGET
    assert len({record.id for record in study.records.values()}) == 7
    assert [t.state.name for t in stored(tmp_path)].count("FAIL") == 4


@pytest.mark.parametrize("is_in_between", [False, True])
@pytest.mark.parametrize("sampler", ["gated", "nsga2"])
def test_a_copy_of_a_trial_that_another_program_wants_counts_for_nothing(
    tmp_path, monkeypatch, sampler, is_in_between
):
    folder, study = make_run(tmp_path / "r", [20.0] * 12, sampler=sampler, early_stop="off")
    theirs = optuna.load_study(study_name="r", storage=f"sqlite:///{folder.study_file}")
    done = theirs.trials[4]
    theirs.enqueue_trial(done.params, user_attrs=done.user_attrs)
    theirs.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING, params=done.params, distributions=done.distributions
        )
    )
    if is_in_between:
        monkeypatch.setattr(study, "_start_what_waits", lambda: [])
    assert study.ask().network.id != done.user_attrs["id"]
    states = [t.state.name for t in stored(tmp_path)]
    assert states == ["COMPLETE"] * 12 + ["FAIL", "FAIL", "RUNNING"]
    again = SearchStudy(folder, study._experiment, study._space)
    assert [(r.id, r.state, r.epochs) for r in again.records.values()] == [
        (r.id, r.state, r.epochs) for r in study.records.values()
    ]
    assert len(read_records(folder, study._experiment).records) == 13


def test_epochs_that_are_trained_again_say_nothing_new(open_study, tmp_path):
    """A worker is lost, and its training begins again: what it had shown stays known."""
    study = open_study()
    number = study.ask().number
    assert study.report(number, curve(1.0, 2.0, 3.0))
    assert study.report(number, curve(1.0))
    assert study.records[number].epochs == 3
    assert study.report(number, curve(1.0, 2.0, 3.5))
    study.tell(number)
    assert stored(tmp_path)[number].values[0] == 3.5


@pytest.mark.parametrize("cut_off", ["stopped", "failed"])
@pytest.mark.parametrize("ending", ["complete", "stopped", "failed"])
def test_an_ending_that_a_kill_cut_off_leaves_nothing_behind(open_study, tmp_path, cut_off, ending):
    """Its notes are there, its state is not: the training goes on, to any other end."""

    def end(study, how, number):
        told = {"complete": study.tell, "stopped": study.tell_stopped, "failed": study.tell_failed}
        return told[how](number, *["the loss is nan"] * (how == "failed"))

    def die(*_, **__):
        raise KeyboardInterrupt

    first = open_study()
    number = first.ask().number
    first.report(number, curve(10.0))
    first.records[number] = replace(first.records[number], reason="others are better")
    first._study.tell = die
    with pytest.raises(KeyboardInterrupt):
        end(first, cut_off, number)
    assert stored(tmp_path)[number].state.name == "RUNNING"
    second = open_study()
    assert second.ask().number == number
    assert second.records[number].reason is None
    second.report(number, curve(10.0, 12.0))
    record = end(second, ending, number)
    assert record.reason == {"failed": "the loss is nan"}.get(ending)
    assert record.top1 == 12.0 and open_study().records[number] == record


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_trial_that_is_gone_is_noticed(open_study, experiment, tmp_path, gone):
    change = f"DELETE FROM trials WHERE number={gone}"
    refused = changed_in_trial_2(open_study, tmp_path, change)
    assert f"trial {gone + 1} was changed by another program: there is no trial {gone}" in refused
    found, others, _ = read_records(RunFolder(tmp_path / "r"), experiment)
    assert [record.number for record in found] == sorted({0, 1, 2, 3} - {gone}) and others == 1


@pytest.mark.parametrize("claimed", [0, 1, 3, 9])
def test_a_trial_that_goes_on_with_none_that_was_stopped_is_noticed(
    open_study, experiment, tmp_path, claimed
):
    change = (
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
        f"SELECT trial_id, 'continues', '{claimed}' FROM trials WHERE number=2"
    )
    refused = changed_in_trial_2(open_study, tmp_path, change)
    assert f"trial 2 was changed by another program: it goes on with trial {claimed}, " in refused
    found, others, _ = read_records(RunFolder(tmp_path / "r"), experiment)
    assert [record.number for record in found] == [0, 1, 2, 3] and others == 0


def test_a_trial_that_was_cut_off_before_it_had_an_id_counts_for_nothing(
    open_study, tmp_path, experiment
):
    study = open_study()
    study.ask()
    study._study.ask()  # the driver died here
    again = open_study()
    assert again.ask().number == 0
    numbers = []
    while (job := again.ask()) is not None:
        numbers.append(job.number)
    assert 1 + len(numbers) == experiment.trials
    assert stored(tmp_path)[1].state.name == "FAIL"


def test_no_more_jobs_than_trials_and_more_when_asked_for_more(open_study, experiment, tmp_path):
    study = open_study()
    assert [study.ask() is not None for _ in range(6)] == [True] * 5 + [False]
    ids = [record.id for record in study.records.values()]
    assert len(set(ids)) == 5
    folder = RunFolder(tmp_path / "r")
    more = experiment.model_copy(update={"trials": 6})
    longer = SearchStudy(folder, more, more.search_space(folder.path))
    assert [longer.ask() is not None for _ in range(7)] == [True] * 6 + [False]


def test_a_reopened_study_knows_the_epochs_of_running_trials(open_study, tmp_path):
    study = open_study()
    job = study.ask()
    folder = RunFolder(tmp_path / "r").trial_folder(job.network.id)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in curve(1.0, 2.0)))
    assert open_study().records[job.number].curve == curve(1.0, 2.0)


def test_a_space_of_points_ends_when_all_are_tried(tmp_path):
    data = read_space_data(SPACES / "gmnet.yaml")
    settings = {"name": "r", "space": data, "budget": 3_000_000_000, "trials": 50}
    experiment = make_settings(Experiment, settings)
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, experiment, RunData(90, 10, ("a", "b")))
    study = SearchStudy(folder, experiment, experiment.search_space(folder.path))
    ids = []
    while (job := study.ask()) is not None:
        ids.append(job.network.id)
    # Ten networks, less the one over budget (fc); the baselines are two more.
    assert len(ids) == len(set(ids)) == 2 + 9
    assert study.is_exhausted
    study.report(study.num_finished + 2, curve(10.0))
    study.tell_stopped(study.num_finished + 2)
    assert not study.is_exhausted  # it may be taken up again


def test_what_is_read_of_a_study_is_what_its_writer_knows(open_study, experiment, tmp_path):
    """Trials of each state, and two that another program wrote."""
    study = open_study()
    one, two, three = (study.ask().number for _ in range(3))
    for number in (one, two, three):
        study.report(number, curve(10.0, 20.0))
    study.tell(one)
    study.tell_failed(two, "why")
    foreign = optuna.load_study(storage=f"sqlite:///{tmp_path}/r/study.db", study_name="r")
    for notes in ({}, {"id": "x", "architecture": {}}):
        foreign.add_trial(optuna.create_trial(values=[1.0, 2.0], user_attrs=notes))
    found, others, _ = read_records(RunFolder(tmp_path / "r"), experiment)
    assert others == 2 and [record.state for record in found] == ["complete", "failed", "running"]
    for record in found[:2]:
        assert record == study.records[record.number]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@given(
    steps=st.lists(st.sampled_from(["ask", "note", "end", "fail", "wait", "other"]), max_size=25)
)
@settings(max_examples=10, deadline=None)
def test_trials_are_read_as_optuna_reads_them(kind, steps):
    """All of them, and then only those that had not ended; a second study is in the same place."""
    with tempfile.TemporaryDirectory() as scratch:
        place = f"sqlite:///{scratch}/s.db" if kind == "sqlite" else f"journal://{scratch}/s.log"
        folder = RunFolder(Path(scratch))
        study, other = (
            optuna.create_study(storage=open_to_write(folder, place), study_name=name)
            for name in ("r", "s")
        )
        ended: set[int] = set()
        for number, step in enumerate(steps):
            running = study.get_trials(states=[TrialState.RUNNING])
            match step:
                case "ask":
                    study.ask()
                case "note" if running:
                    trial = Trial(study, running[0]._trial_id)
                    trial.set_user_attr(f"note {number % 3}", {"of": [number, None, 0.1]})
                case "end" if running:
                    study.tell(running[-1].number, float(number))
                case "fail" if running:
                    study.tell(running[0].number, state=TrialState.FAIL)
                case "wait":
                    study.enqueue_trial({"x": 1}, user_attrs={"a": "ß'\""})
                case "other":
                    other.add_trial(optuna.create_trial(value=1.0, user_attrs={"theirs": number}))
            reader = open_storage(place)
            theirs = [(t.number, t.state, t.user_attrs) for t in study.trials]
            for known in (set(), ended):
                ours = read_trials(reader, reader.get_study_id_from_name("r"), known)
                assert [(t.number, t.state, t.user_attrs) for t in ours] == [
                    told for told in theirs if told[0] not in known
                ]
            ended = {number for number, state, _ in theirs if state.is_finished()}


def test_a_study_that_is_not_there_is_told(open_study, experiment, tmp_path):
    open_study()
    other = experiment.model_copy(update={"name": "other"})
    with pytest.raises(SettingsError, match="no study 'other' in it"):
        read_records(RunFolder(tmp_path / "r"), other)
    with pytest.raises(SettingsError, match="has no study.db yet"):
        read_records(RunFolder(tmp_path / "nothing"), other)


@pytest.mark.parametrize(
    "change",
    [
        "SET value_json='\"x\"' WHERE key='macs'",
        "SET value_json='-5' WHERE key='macs'",
        "SET value_json='\"../../x\"' WHERE key='id'",
        "SET value_json='[7]' WHERE key='id'",
        "SET value_json='7' WHERE key='curve'",
        "SET key='continues', value_json='[1]' WHERE key='seconds'",
        "SET value_json='no JSON' WHERE key='curve'",
    ],
)
def test_a_trial_that_was_changed_by_hand_is_refused_and_nothing_is_written(
    open_study, experiment, tmp_path, change
):
    study = open_study()
    number = study.ask().number
    study.report(number, curve(10.0, 20.0))
    study.tell(number)
    study.ask()
    with sqlite3.connect(tmp_path / "r" / "study.db") as opened:
        opened.execute(f"UPDATE trial_user_attributes {change}")
    before = list(sqlite3.connect(tmp_path / "r" / "study.db").iterdump())
    with pytest.raises(
        SettingsError, match="trial 0 was changed by another|cannot be used: Expect"
    ):
        open_study()
    assert list(sqlite3.connect(tmp_path / "r" / "study.db").iterdump()) == before


OF_TRIAL_2 = "trial_id=(SELECT trial_id FROM trials WHERE number=2)"


def note(name: str, value: str) -> str:
    """SQL that sets an attribute of trial 2."""
    return (
        f"UPDATE trial_user_attributes SET value_json={value} WHERE key='{name}' AND {OF_TRIAL_2}"
    )


def in_curve(old: str, new: str) -> str:
    return note("curve", f"replace(value_json, '{old}', '{new}')")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (note("macs", "'999'"), r"macs is 999, its architecture has [\d,]{9,}$"),
        (note("params", "'99999999999'"), "params is 99,999,999,999, its architecture has "),
        (note("activations", "'1.5'"), "activations is 1.5, its architecture has "),
        (note("id", "'\"0123456789\"'"), "id is 0123456789, its architecture has "),
        (note("id", "'null'"), "id is None, its architecture has "),
        (note("architecture", "'{}'"), "architecture: not an architecture: "),
        (note("baseline", "'\"mine\"'"), "baseline is mine"),
        (in_curve('"top1": 20.0', '"top1": 100020.0'), "epoch 2: top1 is 100,020.0"),
        (in_curve('"top1": 20.0', '"top1": -20.0'), "epoch 2: top1 is -20.0"),
        (in_curve('"top1": 10.0', '"top1": "high"'), "epoch 1: top1 is high"),
        (in_curve('"top1": 10.0', '"top5": 10.0'), "epoch 1: there is no top1"),
        (in_curve('"seconds": 2.0', '"seconds": -2.0'), "epoch 1: seconds is -2.0"),
        (in_curve('"loss": 1.0', '"loss": NaN'), "epoch 1: loss is nan"),
        (in_curve('"epoch": 2', '"epoch": 3'), "epoch 2 of its curve is 3"),
        (in_curve('"top1": 20.0', '"top1": 21.0'), "values are 20.0, .*; .* have 21.0, "),
        (note("curve", "json_remove(value_json, '$[1]')"), "epochs is 2, its curve has 1"),
        (f"UPDATE trial_values SET value=99 WHERE {OF_TRIAL_2}", "values are 99.0, 99.0; "),
        (f"DELETE FROM trial_values WHERE {OF_TRIAL_2}", "values are none; .* have 20.0, "),
        ("UPDATE trials SET state='FAIL' WHERE number=2", "values are 20.0, .*; .* have none"),
        ("UPDATE trials SET state='PRUNED' WHERE number=2", "values are 20.0, .* have none"),
    ],
)
def test_what_was_changed_of_a_trial_is_told_and_a_reader_counts_it(
    open_study, experiment, tmp_path, change, message
):
    refused = changed_in_trial_2(open_study, tmp_path, change)
    assert re.search(f"trial 2 was changed by another program: {message}", refused)
    found, others, _ = read_records(RunFolder(tmp_path / "r"), experiment)
    assert [record.number for record in found] == [0, 1, 3] and others == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (f"DELETE FROM trial_params WHERE {OF_TRIAL_2}", "its parameters are no network"),
        (
            "UPDATE trial_params SET param_value=(param_value = 0) "
            f"WHERE param_name='base_width' AND {OF_TRIAL_2}",
            "its parameters are those of [0-9a-f]{10}, its architecture is [0-9a-f]{10}$",
        ),
    ],
)
def test_parameters_of_another_network_are_told(open_study, tmp_path, change, message):
    refused = changed_in_trial_2(open_study, tmp_path, change)
    assert re.search(f"trial 2 was changed by another program: {message}", refused)


def changed_in_trial_2(open_study, tmp_path, change: str) -> str:
    """Why a study of three complete trials and one that runs is refused after a line of SQL."""
    study = open_study()
    for _ in range(3):
        number = study.ask().number
        study.report(number, curve(10.0, 20.0))
        study.tell(number)
    study.ask()
    assert open_study().num_finished == 3  # as it is, it is taken
    with sqlite3.connect(tmp_path / "r" / "study.db") as opened:
        assert opened.execute(change).rowcount > 0
    before = list(sqlite3.connect(tmp_path / "r" / "study.db").iterdump())
    with pytest.raises(SettingsError) as refusal:
        open_study()
    assert list(sqlite3.connect(tmp_path / "r" / "study.db").iterdump()) == before
    told, _, remedy = str(refusal.value).rpartition("; ")
    assert remedy == "restore it from a copy, or start a run with another --name"
    return told


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())


@given(
    epoch=st.fixed_dictionaries(
        {"top1": ANYTHING, "seconds": ANYTHING},
        optional={
            "epoch": st.integers(0, 2),
            "loss": ANYTHING,
            "band_images": ANYTHING,
            "bands": ANYTHING | st.dictionaries(st.just("high12"), ANYTHING),
        },
    )
)
def test_what_passes_for_an_epoch_can_be_reported(epoch):
    """What a report does with one is the referee of what may be in it."""
    fault = next(epoch_faults(epoch, 1), None)
    assert fault is None or "\n" not in fault
    if fault is None:
        interval = interval_of(epoch["top1"], 500)
        assert 0 <= interval.low <= epoch["top1"] <= interval.high <= 100
        assert math.isfinite(epoch["seconds"]) and epoch["seconds"] >= 0
        assert json.loads(json.dumps(epoch, allow_nan=False)) == epoch
        for band in (epoch.get("bands") or {}).values():
            assert band is None or 0 <= interval_of(band, 500).low <= 100


@given(top1=st.floats(0, 100), seconds=st.floats(0, 1e9), loss=st.none() | st.floats(-1e9, 1e9))
def test_what_a_training_may_say_is_an_epoch(top1, seconds, loss):
    result = EpochResult(1, top1, loss, 1.0, seconds, 10.0, top1, top1, {"high12": top1}, 5, 0.1)
    assert list(epoch_faults(result.to_dict(), 1, ("top1", "high12"))) == []
    assert list(epoch_faults(result.to_dict(), 1, ("high24",))) == ["epoch 1: there is no high24"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE alembic_version SET version_num='v99.z'", "cannot be used: "),
        ("UPDATE study_directions SET direction='MAXIMIZE'", "other objectives than this run"),
        ("UPDATE studies SET study_name='x'", "no study 'r' in it, and .* has trials"),
    ],
)
def test_a_study_of_another_version_or_run_is_refused(open_study, tmp_path, change, message):
    open_study().ask()
    (tmp_path / "r" / "trials" / "x").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "r" / "study.db") as opened:
        opened.execute(change)
    with pytest.raises(SettingsError, match=message):
        open_study()


def narrowed(experiment, **sections) -> Experiment:
    data = {**read_space_data(SPACES / "tiny.yaml"), **sections}
    return experiment.model_copy(update={"space": data})


@pytest.mark.parametrize("sampler", ["gated", "tpe", "nsga2", "evolution", "random"])
def test_a_narrower_space_goes_on_with_the_study_and_proposes_from_its_part_alone(
    experiment, tmp_path, sampler
):
    whole = experiment.model_copy(update={"sampler": sampler, "early_stop": "gated"})
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, whole, RunData(90, 10, ("a", "b")))
    study = SearchStudy(folder, whole, whole.search_space(folder.path))
    for _ in range(5):
        number = study.ask().number
        study.report(number, curve(10.0))
        study.tell(number)
    tiny = experiment.space
    part = narrowed(
        whole,
        fixed={**tiny["fixed"], "form": "self"},
        per_network={"base_width": [8, 12], "ratio": [3, 2]},
    )
    begun = as_begun(part.model_copy(update={"trials": 40}), folder)
    assert begun.space == tiny and begun.narrowed == part.space
    write_settings(folder, begun, RunData(90, 10, ("a", "b")))
    again = read_settings(folder.experiment_file)
    space = again.space_left(folder.experiment_file)
    assert space.went_away() == {"base_width": (16,), "form": ("norm", "twin")}
    narrower = SearchStudy(folder, again, space)
    assert len(narrower.records) == 5
    for _ in range(2):
        job = narrower.ask()
        narrower.report(job.number, curve(10.0))
        record = narrower.tell(job.number)
        assert record.picks["form"] == "self" and record.picks["base_width"] in (8, 12)
    assert as_begun(again.model_copy(update={"narrowed": None}), folder).narrowed is None  # whole


@pytest.mark.parametrize(
    "sections",
    [
        {"per_network": {"base_width": [8, 12, 24], "ratio": [2, 3], "form": ["self"]}},
        {"counted_at": {"resolution": 160, "num_classes": 1000}},
        {"name": "other"},
        {"per_network": {"base_width": [8], "ratio": [2], "kernel": [3], "form": ["self"]}},
    ],
)
def test_a_space_that_is_no_part_of_the_runs_is_refused(open_study, experiment, tmp_path, sections):
    open_study()
    folder = RunFolder(tmp_path / "r")
    if "kernel" in sections.get("per_network", {}):
        fixed = {name: v for name, v in experiment.space["fixed"].items() if name != "kernel"}
        sections["fixed"] = fixed
    other = as_begun(narrowed(experiment, **sections), folder)
    with pytest.raises(SettingsError, match=r"exists with other settings \(space\."):
        check_run(folder, other)


# Storages


def test_a_study_in_a_journal_survives_a_torn_line_and_is_no_other_runs(tmp_path, experiment):
    journal = tmp_path / "studies.log"
    kept = experiment.model_copy(update={"storage": f"journal://{journal}"})
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, kept, RunData(90, 10, ("a", "b")))
    space = kept.search_space(folder.path)
    study = SearchStudy(folder, kept, space)
    number = study.ask().number
    study.report(number, curve(10.0))
    with journal.open("a") as file:
        file.write('{"op_code": 5, "wor')
    write_settings(folder, kept, RunData(90, 10, ("a", "b")))  # another session
    again = SearchStudy(folder, kept, space)
    assert again.ask().number == number
    again.report(number, curve(10.0))
    again.tell(number)
    (record,), *_ = read_records(folder, read_settings(folder.experiment_file))
    assert record.state == "complete"
    other = RunFolder(tmp_path / "other")
    write_settings(other, kept, RunData(90, 10, ("a", "b")))
    with pytest.raises(SettingsError, match="has a study 'r' of another run already"):
        SearchStudy(other, kept, space)


@pytest.mark.parametrize("text", ["alpha\nlast words", '{"a": 1}\n{"op_', "SQLite format 3"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, experiment, text):
    notes = tmp_path / "notes.txt"
    notes.write_text(text)
    kept = experiment.model_copy(update={"storage": f"journal://{notes}"})
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, kept, RunData(90, 10, ("a", "b")))
    with pytest.raises(SettingsError, match="notes.txt: cannot be used: it is no journal"):
        SearchStudy(folder, kept, kept.search_space(folder.path))
    assert notes.read_text() == text


@pytest.mark.parametrize("place", ["postgresql://nobody@127.0.0.1:1/db", "sqlite:///{}/study.db"])
def test_a_run_keeps_its_settings_where_another_storage_is_refused(open_study, tmp_path, place):
    """One that does not answer, and one with a study of the same name that is another run's."""
    open_study()
    folder = RunFolder(tmp_path / "r")
    kept = read_settings(folder.experiment_file)
    other = RunFolder(tmp_path / "other" / "r")
    theirs = kept.model_copy(update={"budget": kept.budget // 2})
    write_settings(other, theirs, RunData(90, 10, ("a", "b")))
    SearchStudy(other, theirs, theirs.search_space(other.path)).ask()
    before = folder.experiment_file.read_bytes()
    moved = kept.model_copy(update={"storage": place.format(other.path)})
    with pytest.raises(SettingsError, match="cannot be read|is another run's"):
        run_search(moved, folder)
    assert folder.experiment_file.read_bytes() == before


SECRET = "postgresql://me:s3/cr?t@127.0.0.1:1/studies"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (SECRET, "--storage postgresql://me@127.0.0.1:1/studies: cannot be used: .*refused"),
        ("nonsense://x", "--storage nonsense://x: cannot be used: .*nonsense"),
        ("journal:///nowhere/at/all.log", "cannot be used: .*No such file"),
        ("sqlite:////nowhere/at/all.db", "cannot be used: .*unable to open"),
    ],
)
def test_a_storage_that_refuses_is_told_without_its_password(
    tmp_path, experiment, storage, message
):
    folder = RunFolder(tmp_path / "r")
    kept = experiment.model_copy(update={"storage": storage})
    write_settings(folder, kept, RunData(90, 10, ("a", "b")))
    assert "s3" not in folder.experiment_file.read_text()
    with pytest.raises(SettingsError, match=message) as refusal:
        SearchStudy(folder, kept, kept.search_space(folder.path))
    assert "s3" not in str(refusal.value)
