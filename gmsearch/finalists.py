"""The networks of a run that are trained in full: which they are, how they did before and after."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gmsearch.errors import SettingsError
from gmsearch.experiment import read_full_training, read_settings
from gmsearch.files import as_word
from gmsearch.network import Network, read_network
from gmsearch.run import RunFolder, read_curve


@dataclass(frozen=True)
class Finalist:
    """A network of a run that is trained in full, and how it did before and after."""

    id: str
    network: Network
    folder: Path
    searched: float | None  # top1 on minival after the search's few epochs
    searched_epochs: int  # that the search trained it
    whole_epochs: int  # of a training of the search to its end
    baseline: str | None = None

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json has; None before the training is done. Raises SettingsError."""
        file = self.folder / "result.json"
        if not file.is_file():
            return None
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            float(figures(result)["top1"])
            return result
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            raise SettingsError(
                f"{file}: not what a full training wrote; remove it, and retrain writes it again"
            ) from None

    @property
    def top1(self) -> float | None:
        """On val after the full training."""
        return None if self.result is None else figures(self.result)["top1"]

    @property
    def is_searched_whole(self) -> bool:
        """Whether the search trained it to the end, and did not stop it before."""
        return self.searched is not None and self.searched_epochs >= self.whole_epochs

    @property
    def searched_in_words(self) -> str:
        """Such as `54.4`, or `19.6 after 2 of 6 epochs`."""
        if self.searched is None:
            return ""
        part = f" after {self.searched_epochs} of {self.whole_epochs} epochs"
        return f"{self.searched:.1f}" + ("" if self.is_searched_whole else part)

    @cached_property
    def fidelity(self) -> dict[str, Any] | None:
        """What its full training must have alike with others for their top1 to be compared; None
        where that is not on record. Raises SettingsError.
        """
        file = self.folder / "settings.yaml"
        return read_full_training(file).fidelity if file.is_file() else None

    @property
    def words(self) -> str:
        words = self.network.in_words()
        return f"{words} [{self.baseline} baseline]" if self.baseline else words


def choose(
    run: RunFolder, *, top: int | None, ids: list[str], with_baselines: bool
) -> list[Finalist]:
    """The networks of a run that are asked for, the best of its front first.

    Raises SettingsError for a run without a front, for an id that it does not have, and where
    baselines are asked for and it has none.
    """
    if not run.experiment_file.exists():
        raise SettingsError(
            f"{run.path} is not a run, it has no experiment.yaml; give a folder like runs/NAME"
        )
    rows, front = _rows(run), run.front_ids()
    if top is not None and not front:
        raise SettingsError(f"{run.path} has no front yet; let it finish a trial, or give --id")
    chosen = list(dict.fromkeys([*front[: top or 0], *ids]))
    if with_baselines:
        baselines = [each for each, row in rows.items() if row["baseline"]]
        if not baselines:
            raise SettingsError(f"--with-baselines: {_without_baselines(run)}")
        chosen += [each for each in baselines if each not in chosen]
    whole = read_settings(run.experiment_file).recipe.num_epochs
    return [_finalist(run, each, rows, whole) for each in chosen]


def _without_baselines(run: RunFolder) -> str:
    """Why no baselines are found, and what to do."""
    file = run.path / "trials.csv"
    if not file.exists():
        line = f"gmsearch resume {as_word(run.path)}"
        return f"{file} is not there, which names them; `{line}` writes it"
    return f"{file} has none; leave it out, or give networks with --id"


def trained_in_full(run: RunFolder) -> list[Finalist]:
    """The networks of a run whose full training is done, best top1 first."""
    rows = _rows(run)
    whole = read_settings(run.experiment_file).recipe.num_epochs
    done = sorted(run.path.glob("retrained/*/result.json"))
    found = [_finalist(run, file.parent.name, rows, whole) for file in done]
    return sorted(found, key=lambda each: -(each.top1 or 0.0))


def _rows(run: RunFolder) -> dict[str, dict[str, str]]:
    """trials.csv by id."""
    file = run.path / "trials.csv"
    if not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            return {row["id"]: row for row in csv.DictReader(opened) if row["baseline"] is not None}
    except (KeyError, UnicodeDecodeError):
        raise SettingsError(
            f"{file}: not what a run wrote; `gmsearch resume {as_word(run.path)}` writes it again"
        ) from None


def _finalist(
    run: RunFolder, network_id: str, rows: dict[str, dict[str, str]], whole: int
) -> Finalist:
    """One of a run whose trainings have `whole` epochs. Raises SettingsError."""
    trial = None if "/" in network_id else run.find_trial(network_id)
    if trial is None:
        raise SettingsError(f"{run.path} has no network {network_id!r}; its trials.csv lists them")
    curve = read_curve(trial)
    return Finalist(
        network_id,
        read_network(trial / "architecture.json"),
        run.path / "retrained" / network_id,
        curve[-1]["top1"] if curve else None,
        len(curve),
        whole,
        rows.get(network_id, {}).get("baseline") or None,
    )


def figures(result: dict[str, Any]) -> dict[str, float]:
    """The figures of the average of the weights, or of the weights where there is none."""
    return result.get("average") or result["raw"]
