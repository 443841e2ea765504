"""What is exported: a network with weights, and what is known of it."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from gmsearch.cost import Cost, total
from gmsearch.data import AnyDataset
from gmsearch.data.selection import read_classes
from gmsearch.errors import SettingsError, WeightsError
from gmsearch.experiment import (
    Experiment,
    FullTraining,
    Settings,
    read_full_training,
    read_settings,
)
from gmsearch.exporting import FORMATS, printable
from gmsearch.folding import fold
from gmsearch.model import GatedNet
from gmsearch.network import Network, Peer, read_network
from gmsearch.run import RunFolder
from gmsearch.weights import classifier_of, fit_weights, read_weights
from gmsearch.what import resolve
from gmsearch.zoo import build_network, check_network, ledger_of

RESOLUTION, NUM_CLASSES = 224, 1000  # of a network that does not come from a run
SEED = 0  # of random weights


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode, float32, on the CPU, and its story in words."""

    name: str
    network: Network
    model: nn.Module
    resolution: int
    num_classes: int
    labels: tuple[str, ...] | None
    weights: str  # where they come from, a whole sentence
    facts: dict[str, Any]  # the same for programs; the accuracy too, where it is known
    settings: Settings | FullTraining | None = None  # of the training that it comes from
    run: RunFolder | None = None  # that it comes from

    def deployed(self) -> nn.Module:
        """The same function with the fewest operators that exact algebra leaves."""
        if isinstance(self.model, GatedNet):
            return fold(self.model)
        return reparameterize_model(copy.deepcopy(self.model))

    def formats(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """Those of FORMATS that it can have, or those that are wanted. Raises SettingsError for
        one of these that it cannot have.
        """
        if not isinstance(self.network, Peer):
            return wanted or FORMATS
        if wanted is not None and "code" in wanted:
            raise SettingsError(
                f"--to code: {self.network.name} is timm's, and has its code there; "
                "write --to timm,onnx,torch"
            )
        return wanted or tuple(name for name in FORMATS if name != "code")

    @property
    def cost(self) -> Cost:
        return total(
            ledger_of(self.network, resolution=self.resolution, num_classes=self.num_classes)
        )


def find_subject(
    what: str,
    *,
    network_id: str | None = None,
    weights: Path | None = None,
    resolution: int | None = None,
    classes: str | None = None,
) -> Subject:
    """A network of a run, the best of its front unless told otherwise, with the weights that it
    was trained to; or any network with weights from a file, or random ones. Raises UserError.
    """
    run, network_id = _run_of(what, network_id)
    if run is None:
        network, training, name = resolve(what), None, what
        settings: Settings | FullTraining | None = None
    else:
        network_id = network_id or _best_of(run)
        folder = None if "/" in network_id else run.find_trial(network_id)
        if folder is None:
            raise SettingsError(
                f"{run.path} has no network {network_id!r}; its trials.csv lists the ids"
            )
        network = read_network(folder / "architecture.json")
        training, name = _training_of(run, network_id, folder), network_id
        settings = training.settings
    origin = _origin(weights, training)
    resolution = resolution or (RESOLUTION if settings is None else settings.resolution)
    wanted = None if classes is None else read_classes(classes)
    if wanted == 0:
        raise SettingsError("--classes: 0 classes; give 1 or more, or a file that names them")
    model, num_classes = _build(network, origin, wanted, resolution)
    labels = wanted if isinstance(wanted, tuple) else training and training.labels
    return Subject(
        name=printable(name),
        network=network,
        model=model,
        resolution=resolution,
        num_classes=num_classes,
        labels=labels if labels and len(labels) == num_classes else None,
        weights=origin.words,
        facts=origin.facts,
        settings=settings,
        run=run,
    )


def _run_of(what: str, network_id: str | None) -> tuple[RunFolder | None, str | None]:
    """The run that is named, as RUN or RUN:ID, and the id."""
    folder = RunFolder(Path(what))
    if folder.experiment_file.exists():
        return folder, network_id
    if network_id is not None:
        raise SettingsError(f"--id {network_id}: {what} is no run, it has no experiment.yaml")
    path, colon, name = what.rpartition(":")
    folder = RunFolder(Path(path))
    if colon and "/" not in name and folder.experiment_file.exists():
        return folder, name
    return None, None


def _best_of(run: RunFolder) -> str:
    """The first network of a run's front."""
    for first in run.front_ids():
        return first
    raise SettingsError(
        f"{run.path} has no front yet; give --id ID, one of those in its trials.csv"
    )


class _Origin(NamedTuple):
    """Weights and where they come from."""

    state: Mapping[str, Any] | None
    path: Path | None
    words: str
    facts: dict[str, Any]


class _Result(NamedTuple):
    """What weights of a training reach."""

    average: bool  # whether they are the average
    epochs: int
    top1: float


class _Training(NamedTuple):
    """A training of a run, on disk."""

    file: Path  # of its weights
    kind: str  # what it is, in words
    split: str  # what its top1 is of
    settings: Settings | FullTraining  # what it was trained with
    labels: tuple[str, ...] | None  # the names of the classes
    result: _Result | None = None  # None: the file tells it


def trained_subject(run: RunFolder, folder: Path, name: str) -> Subject:
    """A network with the weights of one training of a run: the folder of a trial, or that of a full
    retraining. `name` is what the user calls it. Raises UserError.
    """
    network = read_network(folder / "architecture.json")
    training = _training_in(run, folder)
    origin = _origin(None, training)
    settings = training.settings
    model, num_classes = _build(network, origin, None, settings.resolution)
    return Subject(
        name=printable(name),
        network=network,
        model=model,
        resolution=settings.resolution,
        num_classes=num_classes,
        labels=training.labels,
        weights=origin.words,
        facts=origin.facts,
        settings=settings,
        run=run,
    )


def check_classes(subject: Subject, dataset: AnyDataset, source: str) -> None:
    """Raises SettingsError where a network tells other classes apart than those of the data."""
    if len(dataset.classes) != subject.num_classes:
        raise SettingsError(
            f"--data {source}: {len(dataset.classes):,} classes, but the network has "
            f"{subject.num_classes:,}; give the data that it was trained on"
        )
    if subject.labels is not None and dataset.classes != subject.labels:
        raise SettingsError(
            f"--data {source}: other classes than those of the network; "
            "give the data that it was trained on"
        )


def _training_of(run: RunFolder, network_id: str, trial: Path) -> _Training:
    """The training whose weights are exported: a retraining where there is one, else the trial."""
    retrained = run.path / "retrained" / network_id
    return _training_in(run, retrained if (retrained / "result.json").is_file() else trial)


def _training_in(run: RunFolder, folder: Path) -> _Training:
    """The training of a folder: a full one leaves a result, a trial does not."""
    if (folder / "result.json").is_file():
        full = read_full_training(folder / "settings.yaml")
        result, labels = _read_result(folder / "result.json")
        file = folder / "model.safetensors"
        return _Training(file, "full retraining", "val", full, labels, result)
    settings = read_settings(run.experiment_file)
    kind = "short search trial" if isinstance(settings, Experiment) else "single training"
    return _Training(folder / "checkpoint.pt", kind, "minival", settings, run.classes)


def _read_result(file: Path) -> tuple[_Result, tuple[str, ...]]:
    """What a full training reached, and its classes. Raises SettingsError for a file that is not
    what it wrote.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        average = bool(told.get("average"))
        top1 = told["average" if average else "raw"]["top1"]
        result = _Result(average, int(told["epochs"]), float(top1))
        return result, tuple(dict(told["by_class"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise SettingsError(
            f"{file}: not what a full training wrote; "
            "remove it, and the same `gmsearch retrain` writes it again"
        ) from None


def _origin(weights: Path | None, training: _Training | None) -> _Origin:
    if weights is not None:
        name = printable(weights.name)
        words = f"The weights are those of the file {name}, their average (EMA) if it holds one."
        facts = {"kind": "file", "file": name}
        return _Origin(read_weights(weights), weights, words, facts)
    if training is not None:
        return _trained(training)
    words = "The weights are random: the network is not trained, and its answers mean nothing."
    return _Origin(None, None, words, {"kind": "random", "seed": SEED})


def _trained(training: _Training) -> _Origin:
    """The weights that a training saved, the average where it has one. Raises WeightsError."""
    settings, kind, split = training.settings, training.kind, training.split
    if training.result is None:
        state, result = _read_checkpoint(training.file)
    else:
        state, result = read_weights(training.file), training.result
    data = printable(Path(settings.data).name)
    where = f" on {data} at {settings.resolution} px"
    facts = {
        "kind": kind,
        **result._asdict(),
        "split": split,
        "data": data,
        "resolution": settings.resolution,
        "recipe": settings.model_dump(mode="json")["recipe"],
    }
    if isinstance(settings, FullTraining) and settings.teacher is not None:
        facts["teacher"] = printable(Path(settings.teacher).name)
    average = "the average of the weights (EMA) of" if result.average else "those of"
    epochs = "1 epoch" if result.epochs == 1 else f"{result.epochs} epochs"
    if settings.recipe.num_epochs > result.epochs:
        epochs = f"{result.epochs} of {settings.recipe.num_epochs} epochs"
    words = (
        f"The weights are {average} a {kind}: {epochs}{where}, "
        f"top1 {result.top1:.1f} % on its {split} split."
    )
    return _Origin(state, training.file, words, facts)


def _read_checkpoint(path: Path) -> tuple[Mapping[str, Any], _Result]:
    """The weights of a checkpoint, the average where it has one. Raises WeightsError."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state, history = saved.get("ema") or saved["model"], saved["history"]
        return state, _Result(saved.get("ema") is not None, len(history), history[-1]["top1"])
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such file, the training has no weights yet; "
            "give another --id, or --weights FILE"
        ) from None
    except (OSError, MemoryError):  # of the machine: the file may be sound
        raise
    except Exception as error:  # a broken file may make the reader stumble in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: not a checkpoint of a training ({reason[:100]})") from None


def _build(
    network: Network, origin: _Origin, wanted: int | tuple[str, ...] | None, resolution: int
) -> tuple[nn.Module, int]:
    """The network with its weights, and its number of classes, which is that of the weights."""
    num_classes = len(wanted) if isinstance(wanted, tuple) else wanted
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_network(network, num_classes or NUM_CLASSES, resolution)
        if origin.state is not None:
            found = _classes_of(origin.state, model)
            if num_classes is not None and found not in (None, num_classes):
                raise SettingsError(
                    f"--classes: {num_classes:,} classes, but {origin.path} is for {found:,}; "
                    "leave it out, or name as many"
                )
            if num_classes is None and found not in (None, NUM_CLASSES):
                num_classes = found
                model = build_network(network, num_classes, resolution)
    num_classes = num_classes or NUM_CLASSES
    if origin.state is not None and origin.path is not None:
        fit_weights(model, origin.state, origin.path)
    check_network(network, num_classes, resolution)
    return model.float().eval(), num_classes


def _classes_of(state: Mapping[str, Any], model: nn.Module) -> int | None:
    """The number of classes that weights are for, where their classifier is known."""
    head = state.get(f"{classifier_of(model)}.weight")
    return len(head) if isinstance(head, Tensor) and head.ndim else None
