"""Syne Tune's multi-objective ASHA as jobs: networks drawn at random within the budget, and its own
rule of which go on. Needs `pip install syne-tune`.

Its version 0.16 takes the order of a sort (which trial is first, second, …) for the rank of each
trial, so that a trial that beats all others is often stopped. `is_corrected` takes the place of
each trial in the same order instead. Among trials that none beats the order is Syne Tune's in both.
"""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from problems import Problem
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import (
    NonDominatedPriority,
)

from gmsearch.designs import Design, network_designs
from gmsearch.record import EpochDict, Job, TrialRecord
from gmsearch.stopping import REDUCTION

NUM_DRAWS = 200  # for a network that is new
OBJECTIVES = ["error", "macs"]  # minimised, both as shares


class Places(NonDominatedPriority):
    """The place of each trial in the order of the sort."""

    def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
        return np.argsort(super().priority_unsafe(objectives))


class MoAsha:
    """Jobs until the epochs of `trainings` trainings are spent; what is stopped stays stopped."""

    def __init__(self, problem: Problem, seed: int, trainings: int, is_corrected: bool) -> None:
        self.records: dict[int, TrialRecord] = {}
        self._problem = problem
        self._budget = trainings * problem.num_epochs
        limits = {"macs": float(problem.budget)}
        self._designs = network_designs(problem.space, problem.budget, limits, problem.allowed)
        self._rng = np.random.default_rng(seed)
        self._scheduler = MOASHA(
            {},
            OBJECTIVES,
            time_attr="epoch",
            multiobjective_priority=Places() if is_corrected else NonDominatedPriority(),
            max_t=problem.num_epochs,
            reduction_factor=REDUCTION,
            random_seed=seed,
        )

    @property
    def is_finished(self) -> bool:
        running = any(record.state == "running" for record in self.records.values())
        return not running and self._epochs_left < self._problem.num_epochs

    def ask(self) -> Job | None:
        design = self._fresh() if self._epochs_left >= self._problem.num_epochs else None
        if design is None:
            return None
        number = len(self.records)
        network = self._problem.space.decode(design.picks)
        macs, params, activations, _ = self._problem.space.cost(network)
        self.records[number] = TrialRecord(
            number, network.id, "running", network, macs, params, activations, picks=design.picks
        )
        self._scheduler.on_trial_add(_trial(number))
        return Job(number, network, 0, Path())

    def report(self, number: int, curve: list[EpochDict]) -> bool:
        record = self._change(number, curve=curve)
        if record.epochs == self._problem.num_epochs:
            return True
        verdict = self._scheduler.on_trial_result(_trial(number), self._result(record))
        return verdict != SchedulerDecision.STOP

    def tell(self, number: int) -> TrialRecord:
        record = self._change(number, state="complete")
        self._scheduler.on_trial_complete(_trial(number), self._result(record))
        return record

    def tell_stopped(self, number: int) -> TrialRecord:
        self._scheduler.on_trial_remove(_trial(number))
        return self._change(number, state="stopped")

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        self._scheduler.on_trial_error(_trial(number))
        return self._change(number, state="failed", reason=reason)

    @property
    def _epochs_left(self) -> int:
        spent = (
            record.epochs if record.state == "stopped" else self._problem.num_epochs
            for record in self.records.values()
        )
        return self._budget - sum(spent)

    def _fresh(self) -> Design | None:
        known = {record.id for record in self.records.values()}
        for _ in range(NUM_DRAWS):
            design = self._designs.draw(self._rng)
            if design is not None and design.known.id not in known:
                return design
        return next((d for d in self._designs.listed() if d.known.id not in known), None)

    def _result(self, record: TrialRecord) -> dict[str, float]:
        last = record.curve[-1]
        share = record.macs / self._problem.budget
        return {"epoch": last["epoch"], "error": 1 - last["top1"] / 100, "macs": share}

    def _change(self, number: int, **changes: Any) -> TrialRecord:
        self.records[number] = replace(self.records[number], **changes)
        return self.records[number]


def _trial(number: int) -> Trial:
    return Trial(number, {}, datetime.datetime.min)
