"""Repeats the decisions of a search from its log and its recorded results: `gmsearch replay RUN`.

A new study, in memory, is asked and told what the run's was, in the order of the log. Each answer
must be the same, and so must the trials at the end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import load_study
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from gmsearch.decisions import Event, read_decisions
from gmsearch.history import History, HistoryReader
from gmsearch.record import EpochDict, TrialRecord
from gmsearch.run import RunFolder
from gmsearch.study import SearchStudy


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    num_decisions: int
    differences: tuple[str, ...]  # decisions and trials that came out otherwise


def replay(path: Path) -> Replay:
    """Repeats a run's decisions. Nothing is written. Raises SettingsError, also for a trial whose
    costs, values or parameters are not those of its network and curve: nothing comes of replaying
    what another program changed.
    """
    reader = HistoryReader(path)
    reader.study.check()
    history = reader.read()
    events = read_decisions(history.folder.decisions_file)
    player = _Player(history)
    for event in events:
        player.play(event)
    return Replay(player.num_decisions, (*player.differences, *player.compare()))


class _Player:
    """A study that relives a run."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._results = {record.id: record for record in history.records}
        self._storage = InMemoryStorage()
        self._study: SearchStudy | None = None
        self.num_decisions = 0
        self.differences: list[str] = []

    def play(self, event: Event) -> None:
        """Does what an event tells of."""
        kind, number = event["event"], event.get("number", -1)
        if kind == "session":
            self._begin_session(event)
        elif self._study is None or number < 0:
            self.differences.append(f"a {kind} before any session")
        elif kind == "ask":
            self._ask(event)
        elif number not in self._study.records:
            self.differences.append(f"a {kind} of trial {number}, which was not asked for")
        elif kind == "rung":
            self.num_decisions += 1
            goes_on = self._study.report(number, self._curve_at(event))
            if goes_on != event["goes_on"]:
                self.differences.append(f"trial {number} after {event['epochs']} epochs: {goes_on}")
        elif self._study.records[number].state == "running":
            self._end(number, kind, event["epochs"])

    def compare(self) -> list[str]:
        """How the trials at the end differ from those of the run."""
        ours = {} if self._study is None else self._study.records
        theirs = {record.number: record for record in self._history.records}
        return [
            f"trial {number}: {_told(ours.get(number))} instead of {_told(theirs.get(number))}"
            for number in sorted({*ours, *theirs})
            if _told(ours.get(number)) != _told(theirs.get(number))
        ]

    def _begin_session(self, event: Event) -> None:
        """A driver that finds the study as the one before left it. What a kill kept out of the log
        is in the event.
        """
        for number, (state, epochs) in _numbered(event["trials"]):
            if self._study is None:
                break
            if number not in self._study.records:
                self._skip_to(number)
                self._study.ask()
            known = self._study.records.get(number)
            if known is None or known.state != "running":
                continue
            if state == "running":
                self._keep_curve(number, epochs)
            else:
                self._end(number, state, epochs)
        # More may be wanted in a later session, of less of the space.
        effort = {"trials": event["wanted"], "narrowed": event.get("narrowed")}
        experiment = self._history.experiment.model_copy(update=effort)
        # The run's own folder has whole curves, also of what was not yet trained at the time.
        self._study = SearchStudy(
            RunFolder(self._history.folder.path / ".replay"),
            experiment,
            experiment.space_left(self._history.folder.experiment_file),
            storage=self._storage,
        )

    def _ask(self, event: Event) -> None:
        assert self._study is not None
        self.num_decisions += 1
        self._skip_to(event["number"])
        job = self._study.ask()
        found = None if job is None else (job.number, job.network.id)
        if found != (event["number"], event["id"]):
            self.differences.append(
                f"trial {event['number']}: {'nothing' if found is None else found[1]} was asked "
                f"for instead of {event['id']}"
            )

    def _keep_curve(self, number: int, epochs: int) -> None:
        """What the next session finds of a running trial; a run has it in the trial's folder."""
        study = self._storage.get_study_id_from_name(self._history.experiment.name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        self._storage.set_trial_user_attr(trial, "curve", self._curve(number)[:epochs])

    def _skip_to(self, number: int) -> None:
        """Uses up the numbers of trials that a kill cut off within their ask."""
        name = self._history.experiment.name
        study = load_study(study_name=name, storage=self._storage)
        cut_off = create_trial(state=TrialState.FAIL)
        study.add_trials([cut_off] * (number - len(study.get_trials(deepcopy=False))))

    def _end(self, number: int, state: str, epochs: int) -> None:
        assert self._study is not None
        reason = self._study.records[number].reason
        self._study.report(number, self._curve(number)[:epochs])
        if state == "complete":
            self._study.tell(number)
        elif state == "stopped":
            self._study.tell_stopped(number)
        else:
            recorded = self._results.get(self._study.records[number].id)
            self._study.tell_failed(number, (recorded and recorded.reason) or reason or "")

    def _curve_at(self, event: Event) -> list[EpochDict]:
        """What a training at a rung had shown. Epochs that were lost with a worker, and not trained
        as far again, are as the log has them.
        """
        curve = self._curve(event["number"])[: event["epochs"]]
        bands = {name: event.get(name) for name in self._history.experiment.accuracies[1:]}
        at_rung = {"epoch": event["epochs"], "top1": event["top1"], "bands": bands, "seconds": 0.0}
        return curve + [at_rung] * (event["epochs"] - len(curve))

    def _curve(self, number: int) -> list[EpochDict]:
        """The recorded results of a trial's network."""
        assert self._study is not None
        recorded = self._results.get(self._study.records[number].id)
        return [] if recorded is None else recorded.curve


def _numbered(trials: dict[str, list[Any]]) -> list[tuple[int, list[Any]]]:
    return sorted((int(number), told) for number, told in trials.items())


def _told(record: TrialRecord | None) -> Any:
    if record is None:
        return None
    epochs = None if record.state == "running" else record.epochs
    return record.id, record.state, epochs
