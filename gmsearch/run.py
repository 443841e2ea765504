"""The run folder: what a run leaves on disk, written atomically and read by eye.

runs/NAME/
  experiment.yaml      the resolved settings
  environment.json     versions, devices, git revision, command line, where the time went
  data.json            the data in figures, and the names of its classes
  study.db             the Optuna study
  decisions.jsonl      what the search decided, and on what: a line for each event
  trials/ID/           architecture.json, metrics.jsonl (one line per epoch), checkpoint.pt
  trials.csv           one row per trial
  front.json, front.png
  exported/ID/         the export of a network
  tensorboard/ID/      curves for TensorBoard, where they are asked for

A comparison has trials/ID-seedS/ and comparison.json instead of study.db and the front, and
bands.png where bands were watched.
"""

import contextlib
import csv
import datetime
import glob
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gmsearch import lock, speedups
from gmsearch.errors import SettingsError
from gmsearch.experiment import Settings, read_settings, without_password
from gmsearch.files import as_word, write_atomically
from gmsearch.network import Network, network_to_json
from gmsearch.record import EpochDict, TrialRecord

PACKAGES = ("gmsearch", "torch", "torchvision", "timm", "ray", "optuna", "numpy", "pandas")


@dataclass(frozen=True)
class RunData:
    """What a run trains on, in figures."""

    train: int  # images
    minival: int  # images
    classes: tuple[str, ...]  # their names, by label


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run and how they are written."""

    path: Path

    @property
    def experiment_file(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def data(self) -> "RunData | None":
        """What the run trains on; None before it was read. Raises SettingsError for a file that is
        not what was written.
        """
        if not self.data_file.exists():
            return None
        try:
            # Names of folders that are no UTF-8 lie in it as on the disk.
            text = self.data_file.read_text(encoding="utf-8", errors="surrogateescape")
            told = json.loads(text)
            found = RunData(**{**told, "classes": tuple(map(str, told["classes"]))})
            if not all(isinstance(n, int) and n > 0 for n in (found.train, found.minival)):
                raise ValueError
            return found
        except (OSError, ValueError, TypeError, LookupError):
            raise SettingsError(
                f"{self.data_file}: not what a run wrote; "
                f"`gmsearch resume {as_word(self.path)}` writes it"
            ) from None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """What the networks of the run tell apart, by label."""
        about = self.data
        return None if about is None else about.classes

    @property
    def study_file(self) -> Path:
        return self.path / "study.db"

    @property
    def decisions_file(self) -> Path:
        return self.path / "decisions.jsonl"

    @property
    def front_file(self) -> Path:
        return self.path / "front.json"

    @property
    def comparison_file(self) -> Path:
        return self.path / "comparison.json"

    @property
    def bands_picture(self) -> Path:
        return self.path / "bands.png"

    @property
    def front_picture(self) -> Path:
        return self.path / "front.png"

    @property
    def trials_folder(self) -> Path:
        return self.path / "trials"

    @property
    def tensorboard_folder(self) -> Path:
        return self.path / "tensorboard"

    def trial_folder(self, architecture_id: str) -> Path:
        return self.trials_folder / architecture_id

    def exported_folder(self, architecture_id: str) -> Path:
        return self.path / "exported" / architecture_id

    def sessions(self) -> list[dict[str, Any]]:
        """Where the run was worked on: environment.json. Raises SettingsError."""
        file = self.path / "environment.json"
        try:
            return [dict(each) for each in json.loads(file.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError):
            raise SettingsError(f"{file}: not what a run wrote; move it away") from None

    def note_session(self, facts: dict[str, Any]) -> None:
        """Adds to what environment.json has of the session that is open."""
        *others, this = self.sessions()
        write_atomically(
            self.path / "environment.json", json.dumps([*others, this | facts], indent=2) + "\n"
        )

    def front_ids(self) -> list[str]:
        """The networks of the front, best first; none before there is one. Raises SettingsError."""
        if not self.front_file.exists():
            return []
        try:
            front = json.loads(self.front_file.read_text(encoding="utf-8"))
            return [str(member["id"]) for member in front]
        except (ValueError, TypeError, LookupError):
            raise SettingsError(
                f"{self.front_file}: not what a run wrote; "
                f"`gmsearch resume {as_word(self.path)}` writes it again"
            ) from None

    def baseline_ids(self) -> list[str]:
        """The baselines of a search that its trials.csv has. Raises SettingsError."""
        file = self.path / "trials.csv"
        if not file.exists():
            return []
        try:
            with file.open(encoding="utf-8", newline="") as opened:
                return [row["id"] for row in csv.DictReader(opened) if row["baseline"]]
        except (KeyError, UnicodeDecodeError):
            raise SettingsError(
                f"{file}: not what a run wrote; "
                f"`gmsearch resume {as_word(self.path)}` writes it again"
            ) from None

    def find_trial(self, network_id: str) -> Path | None:
        """The folder of a network's trial, the first of its seeds in a comparison."""
        candidates = [
            self.trial_folder(network_id),
            *self.trials_folder.glob(f"{glob.escape(network_id)}-seed*"),
        ]
        known = [path for path in candidates if (path / "architecture.json").is_file()]
        return min(known, key=lambda path: (len(path.name), path.name), default=None)

    def remove_beginnings(self) -> None:
        """Takes back a run in which nothing was trained, and leaves alone what is not ours."""
        for path in self.path.iterdir():
            if _is_beginning(path) or path == self.experiment_file:
                path.unlink()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run, and makes its folder, against a second driver; a kill frees it too."""
        self.path.mkdir(parents=True, exist_ok=True)
        with lock.locked(self.path / ".lock", self.path):
            yield

    def write_trials(
        self,
        records: Sequence[TrialRecord],
        choices: Sequence[str] = (),
        also: Sequence[str] = (),
    ) -> None:
        """Writes trials.csv: what is known of each trial, the fields of `also`, every choice."""
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        known = ["id", "number", "state", "reason", "baseline", "top1", "macs", "params"]
        known += ["activations", "epochs", "seconds", *also]
        writer.writerow((*known, *choices))
        for record in records:
            values = [record.figure(name) for name in known]
            writer.writerow((*values, *(record.picks.get(choice) for choice in choices)))
        write_atomically(self.path / "trials.csv", rows.getvalue())

    def write_front(self, records: Sequence[TrialRecord]) -> None:
        """Writes front.json, best top1 first as given."""
        front = [
            {
                "id": record.id,
                "number": record.number,
                "top1": record.top1,
                **record.bands,
                "macs": record.macs,
                "params": record.params,
                "activations": record.activations,
                "baseline": record.baseline,
                "architecture": record.network.to_dict(),
            }
            for record in records
        ]
        write_atomically(self.front_file, json.dumps(front, indent=2) + "\n")


def _is_beginning(path: Path) -> bool:
    """Whether a file is one that a run has before it has settings."""
    ours = (
        r"(study\.db.*|decisions\.jsonl|\.lock|\.?(environment|data)\.json.*"
        r"|\.experiment\.yaml\..*)"
    )
    return re.fullmatch(ours, path.name) is not None and path.is_file()


def read_curve(trial_folder: Path) -> list[dict[str, Any]]:
    """The epochs that a trial has finished so far."""
    file = trial_folder / "metrics.jsonl"
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise SettingsError(
            f"{file}: not what a training wrote; remove it, and its training writes it again"
        ) from None


def write_trial(trial_folder: Path, network: Network, curve: list[EpochDict]) -> None:
    """Writes what a training elsewhere would have written here, but for its checkpoint."""
    trial_folder.mkdir(parents=True, exist_ok=True)
    file = trial_folder / "architecture.json"
    if not file.is_file():
        write_atomically(file, network_to_json(network))
    lines = "".join(json.dumps(epoch) + "\n" for epoch in curve)
    write_atomically(trial_folder / "metrics.jsonl", lines)


def check_run(folder: RunFolder, settings: Settings) -> bool:
    """Whether the run is there already, to go on with. Nothing is written.

    Raises SettingsError where the folder has a run that searches something else, or is no run.
    """
    if not folder.path.exists():
        return False
    if not folder.experiment_file.exists():
        # A kill may leave beginnings before there are settings.
        if not folder.path.is_dir() or not all(map(_is_beginning, folder.path.iterdir())):
            raise SettingsError(
                f"{folder.path} exists and is not a run (no experiment.yaml); choose another --name"
            )
        return False
    before = read_settings(folder.experiment_file)
    if None in (settings.data_digest, before.data_digest):  # the data is not read yet
        settings = settings.model_copy(update={"data_digest": before.data_digest})
    differences = before.differences(settings)
    if differences:
        raise SettingsError(
            f"{folder.path} exists with other settings ({'; '.join(differences[:3])}); "
            "choose another --name"
        )
    return True


def write_settings(folder: RunFolder, settings: Settings, data: RunData) -> None:
    """Writes what was asked for, on which data, and where it runs, with an entry for each
    session.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    file = folder.path / "environment.json"
    sessions = folder.sessions()
    write_atomically(file, json.dumps([*sessions, _environment()], indent=2) + "\n")
    told = json.dumps(asdict(data), indent=1, ensure_ascii=False)
    write_atomically(folder.data_file, told + "\n")
    write_atomically(folder.experiment_file, settings.to_yaml())


def _environment() -> dict[str, Any]:
    return {
        "command": list(map(without_password, sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "switched_off": speedups.switched_off(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Names of this machine's GPUs, as `nvidia-smi -L` lists them."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _git_revision() -> str | None:
    """The revision of the working tree that the package lies in, where it lies in one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
