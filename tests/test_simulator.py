"""The simulator: schedules by hand, and searches whose epochs are counted one by one."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made_runs import BUDGET, SPACE
from optuna.storages import InMemoryStorage

from gmsearch import candidates
from gmsearch.experiment import Experiment, make_settings
from gmsearch.recipe import Recipe
from gmsearch.record import Job
from gmsearch.run import RunFolder
from gmsearch.simulator import simulate
from gmsearch.space_file import read_space, read_space_data
from gmsearch.study import SearchStudy

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@dataclass
class Known:
    """Of a record, what the simulator asks for."""

    epochs: int = 0


@dataclass
class Listed:
    """Trainings by number, of (seconds of an epoch, epochs, epochs after which it stops or None).
    The last ones come only when as many have ended as `held_back` says.
    """

    trainings: list[tuple[float, int, int | None]]
    held_back: dict[int, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)  # epochs that were there before
    events: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self):
        numbers = range(len(self.trainings))
        self.records = {number: Known(self.begun.get(number, 0)) for number in numbers}
        self._waiting = list(numbers)
        self._ended = 0

    def ask(self):
        if not self._waiting or self._ended < self.held_back.get(self._waiting[0], 0):
            return None
        return Job(self._waiting.pop(0), None, 0, Path())

    def curve(self, job):
        seconds, num_epochs, _ = self.trainings[job.number]
        return [{"epoch": epoch, "seconds": seconds} for epoch in range(1, num_epochs + 1)]

    def report(self, number, curve):
        assert [epoch["epoch"] for epoch in curve] == list(range(1, len(curve) + 1))
        self.events.append(("epoch", number))
        return len(curve) != self.trainings[number][2]

    def tell(self, number):
        self.events.append(("complete", number))
        self._ended += 1

    def tell_stopped(self, number):
        self.events.append(("stopped", number))
        self._ended += 1


def test_two_workers_do_what_a_schedule_on_paper_says():
    """0 takes 3 s for each of 2 epochs; 1 takes 2 s and stops after the second of 3; 2 is done by
    the worker that this frees:

        seconds   0  1  2  3  4  5  6
        worker a  0------ 0-------       complete at 6
        worker b  1---- 1---- 2-- 2--    stopped at 4, complete at 6
    """
    jobs = Listed([(3.0, 2, None), (2.0, 3, 2), (1.0, 2, None)])
    done = simulate(jobs, jobs.curve, 2)
    assert jobs.events == [
        ("epoch", 1),  # at 2 s
        ("epoch", 0),  # 3
        ("epoch", 1),  # 4
        ("stopped", 1),
        ("epoch", 2),  # 5
        ("epoch", 0),  # 6
        ("complete", 0),
        ("epoch", 2),
        ("complete", 2),
    ]
    assert (done.epochs, done.seconds, done.busy) == (6, 6.0, 12.0)
    assert done.endings == [(3, 1), (5, 0), (6, 2)]
    assert done.deciding > 0


def test_a_worker_that_gets_nothing_is_idle_until_another_training_ends():
    """Worker b has nothing to do before 0 ends at 4 s; then 1 and 2 take 1 s each."""
    jobs = Listed([(2.0, 2, None), (1.0, 1, None), (1.0, 1, None)], held_back={1: 1})
    done = simulate(jobs, jobs.curve, 2)
    assert (done.epochs, done.seconds, done.busy) == (4, 5.0, 6.0)


def test_more_workers_than_trainings_change_nothing_but_their_idle_time():
    jobs = [Listed([(1.0, 3, None)]) for _ in range(2)]
    one, ten = (simulate(each, each.curve, n) for each, n in zip(jobs, (1, 10), strict=True))
    assert (one.seconds, one.busy, one.endings) == (ten.seconds, ten.busy, ten.endings)


def test_a_training_goes_on_behind_its_last_epoch():
    jobs = Listed([(1.0, 5, None)], begun={0: 3})
    done = simulate(jobs, jobs.curve, 1)
    assert jobs.events == [("epoch", 0), ("epoch", 0), ("complete", 0)]
    assert (done.epochs, done.seconds) == (2, 2.0)


def test_it_ends_when_it_is_told_to():
    jobs = Listed([(1.0, 2, None)] * 5)
    done = simulate(jobs, jobs.curve, 1, stop_after=lambda done: len(done.endings) == 2)
    assert done.endings == [(2, 0), (4, 1)]
    assert done.epochs == 4


# A search


NUM_EPOCHS = 9


class Watched:
    """A study that notes each epoch that it hears of."""

    def __init__(self, study):
        self.study = study
        self.epochs = Counter()

    def __getattr__(self, name):
        return getattr(self.study, name)

    def report(self, number, curve):
        self.epochs[self.study.records[number].id, len(curve)] += 1
        return self.study.report(number, curve)

    def curve(self, job):
        record = self.study.records[job.number]
        top1 = 20 + record.macs / 1e6 + int(record.id[:2], 16) / 16
        return [
            {"epoch": i, "top1": top1 * i / (i + 1), "seconds": 1 + record.macs / 1e7}
            for i in range(1, NUM_EPOCHS + 1)
        ]


def watched(trials, sampler="gated", early_stop="gated", allowed=lambda network: True) -> Watched:
    said = {"name": "s", "space": read_space_data(SPACE), "budget": BUDGET, "trials": trials}
    said |= {"sampler": sampler, "early_stop": early_stop, "recipe": Recipe(num_epochs=NUM_EPOCHS)}
    experiment = make_settings(Experiment, said)
    return Watched(
        SearchStudy(
            RunFolder(Path("/nonexistent")),
            experiment,
            read_space(SPACE),
            storage=InMemoryStorage(),
            allowed=allowed,
        )
    )


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize(
    ("sampler", "early_stop"),
    [("gated", "gated"), ("gated", "off"), ("random", "asha"), ("evolution", "off")],
)
def test_a_search_trains_no_epoch_twice_and_spends_what_it_may(sampler, early_stop, workers):
    jobs = watched(15, sampler, early_stop)
    done = simulate(jobs, jobs.curve, workers)
    assert set(jobs.epochs.values()) == {1}
    assert done.epochs == len(jobs.epochs) == sum(r.epochs for r in jobs.records.values())
    assert 14 * NUM_EPOCHS < done.epochs <= 15 * NUM_EPOCHS
    assert jobs.is_finished and "running" not in {r.state for r in jobs.records.values()}
    assert len({record.id for record in jobs.records.values()}) == len(jobs.records)
    assert done.busy == pytest.approx(sum(r.seconds for r in jobs.records.values()), abs=0.1)
    assert done.busy <= workers * done.seconds
    ends = {record.epochs for record in jobs.records.values() if record.state == "complete"}
    stops = {record.epochs for record in jobs.records.values() if record.state == "stopped"}
    assert ends == {NUM_EPOCHS} and stops <= ({1, 3} if early_stop != "off" else set())


def test_where_a_space_is_used_up_all_that_was_stopped_is_gone_on_with_to_its_end(monkeypatch):
    monkeypatch.setattr(candidates, "POOL", 20)  # few of the draws are allowed
    names = set()

    def allowed(network):
        if len(names) < 12:
            names.add(network.id)
        return network.id in names

    jobs = watched(99, allowed=allowed)
    done = simulate(jobs, jobs.curve, 3)
    complete = [record for record in jobs.records.values() if record.state == "complete"]
    assert {r.id for r in complete if r.baseline is None} == names
    assert {record.epochs for record in complete} == {NUM_EPOCHS}
    assert done.epochs == len(complete) * NUM_EPOCHS == len(jobs.epochs)
    stops = len(done.endings) - len(complete)
    assert stops > 0  # of trainings that were taken up again
