"""The resolved settings of a run, a search or a comparison: enough to run it again."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
)

from gmsearch.architecture import STRIDE
from gmsearch.errors import SettingsError
from gmsearch.radii import (
    Watch,
    band_meant,
    bins,
    check_radii,
    check_radius,
    corner,
    is_band,
    radius_of,
)
from gmsearch.reading import Document, read_yaml
from gmsearch.recipe import Recipe
from gmsearch.space import SearchSpace
from gmsearch.space_file import parse_space

COSTS = ("macs", "params", "activations")
SAMPLERS = ("gated", "random", "tpe", "nsga2", "gp", "evolution")
EARLY_STOPS = ("gated", "asha", "off")
TRACKERS = ("tensorboard", "wandb", "mlflow")  # who follows a run
# What may differ when a run goes on: how much is done and where, not what.
EFFORT = (
    "trials",
    "seeds",
    "networks_wanted",
    "repeated",
    "workers",
    "gpus_per_trial",
    "max_hours",
    "device_hours",
    "address",
    "cache",
    "storage",
    "narrowed",
    "checkpoints",
    "patience",
) + TRACKERS
MOST_CHARACTERS = 255  # of a run, whose folder a disk takes by that name
JOURNAL = "journal://"  # before the path of a journal file of Optuna's


# What runs of before do not say: its absence changes no digest.
LATER = ("frequency", "frequency_share")


def without_password(text: str) -> str:
    """A URL, or a word of a command line that has one, as it may be written down."""
    text = re.sub(r"(://[^:/@?]*):.*@", r"\1@", text)
    return re.sub(r"([?&])password=[^&]*&?", r"\1", text).rstrip("?&")


def _known_radii(radii: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if radii is None else check_radii(radii)


Radii = Annotated[tuple[float, ...] | None, AfterValidator(_known_radii)]


class Watching:
    """Settings of trainings whose bands may be looked at after every epoch.

    What is trained does not depend on them. They are the same for all of a run all the same, so
    that its networks have the same figures of the same images.
    """

    if TYPE_CHECKING:  # pydantic would take them for the first fields of every settings
        resolution: int
        frequency: Radii
        frequency_share: float | None

    @property
    def watch(self) -> Watch | None:
        """What is looked at after every epoch, if anything."""
        return None if self.frequency is None else Watch(self.frequency, self.frequency_share)

    def check_watch(self) -> None:
        """Raises SettingsError for a radius with nothing beyond it at this resolution."""
        side = self.resolution
        for radius in self.watch.radii if self.watch else ():
            where = f"({radius:g} at 224 px) of images of {side}x{side} px"
            check_radius(bins(radius, side), corner(side, side), where)


class Settings(BaseModel, Watching, ABC):
    """What every run says: how its networks are trained, and how much is done at once.

    Numbers of different fidelity (data, resolution, recipe) never share a run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: str = "bands"  # "bands", an absolute path, or a name that timm knows
    data_digest: str | None = None  # of what was read; None before that
    resolution: int = Field(
        default=32, ge=1, le=1024, strict=True
    )  # pixels, of the training images
    recipe: Recipe = Recipe()
    seed: int = Field(default=0, ge=0, lt=2**31, strict=True)
    workers: int | None = Field(
        default=None, ge=1, strict=True
    )  # trials at once; None: as many as cores or GPUs allow
    gpus_per_trial: float = Field(1.0, gt=0, le=64)  # where there are GPUs
    max_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    device_hours: float | None = Field(
        None, gt=0, allow_inf_nan=False
    )  # of all sessions, see `spending`
    address: str | None = None  # of a Ray cluster; None: this machine
    checkpoints: str | None = None  # a place that all nodes see; None: the run folder
    patience: float = Field(
        10.0, gt=0, allow_inf_nan=False
    )  # minutes without a sign, before a worker may be hung
    tensorboard: bool = False  # files for TensorBoard are written too
    wandb: str | None = None  # a project of Weights & Biases
    mlflow: str | None = None  # a tracking URI of MLflow
    stream: bool = False  # original images are decoded in every epoch, and not packed
    cache: str | None = None  # where they are packed to; None: the user's cache folder
    frequency: Radii = None  # published radii that are watched, see `radii`
    frequency_share: float | None = Field(None, gt=0, le=1)  # of minival; None: by what it costs

    def model_post_init(self, _context: Any) -> None:
        self.check_watch()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise SettingsError(
                f"run name {self.name!r}; allowed: letters, digits, '.', '_' and '-', "
                "a letter or digit first"
            )
        if len(self.name) > MOST_CHARACTERS:
            raise SettingsError(
                f"run name {self.name[:20]}… has {len(self.name)} characters; give a --name of "
                f"{MOST_CHARACTERS} or fewer"
            )

    @property
    @abstractmethod
    def num_trials(self) -> int:
        """Trainings that the run wants, all its sessions together."""

    def fidelity_in_words(self) -> str:
        """What one trial is, such as `6 epochs on bands at 32 px`."""
        epochs = self.recipe.num_epochs
        unit = "epoch" if epochs == 1 else "epochs"
        share = self.recipe.train_share
        part = "" if share == 1 else f"{100 * share:.3g} % of "
        return f"{epochs} {unit} on {part}{Path(self.data).name} at {self.resolution} px"

    @field_serializer("storage", "mlflow", "checkpoints", check_fields=False)
    def _without_password(self, url: str | None) -> str | None:
        return None if url is None else without_password(url)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of all but the effort: what two trainings must have alike."""
        told = self.model_dump(mode="json")
        what = {
            name: value
            for name, value in told.items()
            if name not in EFFORT and (name not in LATER or value is not None)
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, other: "Settings") -> list[str]:
        """What the two train differently, such as `recipe.num_epochs is 6 there and 8 here`."""
        if type(self) is not type(other):
            return [f"it is a {type(self).__name__.lower()} there"]
        return _differences(self.model_dump(mode="json"), other.model_dump(mode="json"))


class Experiment(Settings):
    """One search."""

    space: dict[str, Any]  # the space file's contents
    budget: int = Field(ge=1, strict=True)  # MACs, counted where the space counts them
    objectives: tuple[str, ...] = ("top1", "macs")
    sampler: str = "gated"
    early_stop: str = "gated"
    storage: str | None = None  # a URL of the study; None: in the run folder
    narrowed: dict[str, Any] | None = None  # a space file; what of the space is still searched
    trials: int = Field(default=20, ge=1, le=1_000_000, strict=True)

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        if self.resolution < STRIDE:
            raise SettingsError(
                f"--resolution is {self.resolution}; the networks of a space have a stride of "
                f"{STRIDE}: give {STRIDE} px or more"
            )
        if self.sampler not in SAMPLERS:
            raise SettingsError(f"sampler {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        if self.early_stop not in EARLY_STOPS:
            allowed = ", ".join(EARLY_STOPS)
            raise SettingsError(f"--early-stop {self.early_stop}; allowed: {allowed}")
        self._check_objectives()

    def _check_objectives(self) -> None:
        """Raises SettingsError."""
        for name in self.objectives:
            if name != "top1" and name not in COSTS and not is_band(name):
                if meant := band_meant(name):
                    raise SettingsError(f"objective {name!r}: write {meant}, as tables have it")
                raise SettingsError(
                    f"objective {name!r}; allowed: top1, {', '.join(COSTS)}, and bands such as "
                    "high12, with a radius at 224 px"
                )
        first, second = (*self.objectives, "", "")[:2]
        distinct = len(set(self.objectives)) == len(self.objectives)
        if first != "top1" or second not in COSTS or not distinct:
            raise SettingsError(
                f"objectives {','.join(self.objectives)!r}; allowed: top1, then one of "
                f"{', '.join(COSTS)}, and then more of these and bands such as high12"
            )

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives that are known before a network is trained."""
        return tuple(name for name in self.objectives if name in COSTS)

    @property
    def accuracies(self) -> tuple[str, ...]:
        """The objectives that are learned by training: top1, and bands."""
        return tuple(name for name in self.objectives if name not in COSTS)

    @property
    def watch(self) -> Watch | None:
        """A band that is an objective is watched, on all of minival unless told otherwise, and so
        are the other bands then: one share is that of all, so that they are of the same images.
        """
        aims = [radius_of(name) for name in self.objectives if is_band(name)]
        if not aims:
            return super().watch
        radii = check_radii([*aims, *(self.frequency or ())])
        return Watch(radii, 1.0 if self.frequency_share is None else self.frequency_share)

    @property
    def num_trials(self) -> int:
        return self.trials

    def search_space(self, path: Path) -> SearchSpace:
        """The space; `path` is named in the message where it is not a space."""
        return parse_space(Document(path, self.space, {}, SettingsError))

    def space_left(self, path: Path) -> SearchSpace:
        """What of the space is still searched: all of it, unless a session narrowed it."""
        space = self.search_space(path)
        if self.narrowed is None:
            return space
        part = space.narrowed_to(parse_space(Document(path, self.narrowed, {}, SettingsError)))
        if part is None:
            raise SettingsError(f"{path}: narrowed: not a part of the space")
        return part


class Comparison(Settings):
    """Some networks trained alike, each with the same seeds: `seed` and those that follow it."""

    networks: dict[str, dict[str, Any]]  # what the user calls each, and its `to_dict`
    seeds: int = Field(default=1, ge=1, le=1000, strict=True)
    weights: str | None = None  # an absolute path to start from
    weights_digest: str | None = None
    published: dict[str, float] = {}  # top1 that a paper gives, by the same names

    @property
    def num_trials(self) -> int:
        distinct = {json.dumps(network, sort_keys=True) for network in self.networks.values()}
        return len(distinct) * self.seeds


class Tabulation(Settings):
    """Networks of a space that are trained for a table, drawn by the seed."""

    space: dict[str, Any]  # the space file's contents
    budget: int | None = Field(None, ge=1, strict=True)  # MACs; None: all of the space
    networks_wanted: int = Field(default=1000, ge=2, le=1_000_000, strict=True)
    repeated: int = Field(default=0, ge=0, strict=True)  # networks that are trained with more seeds
    seeds: int = Field(default=1, ge=1, le=1000, strict=True)  # of each of these

    @property
    def num_trials(self) -> int:
        return self.networks_wanted + self.repeated * (self.seeds - 1)

    def search_space(self, path: Path) -> SearchSpace:
        """The space; `path` is named in the message where it is not a space."""
        return parse_space(Document(path, self.space, {}, SettingsError))


class FullTraining(BaseModel, Watching):
    """How the finalists of a run are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    data_digest: str | None = None
    resolution: int = Field(ge=8, le=1024, strict=True)
    recipe: Recipe
    seed: int = Field(default=0, ge=0, lt=2**31, strict=True)
    workers: int = Field(default=1, ge=1, le=4096, strict=True)
    accumulate: int = Field(default=1, ge=1, le=1024, strict=True)  # parts of a batch, in turn
    synchronised: bool = False
    compiled: bool = False
    stream: bool = False
    teacher: str | None = None  # a name of timm, or an absolute path
    cache: str | None = None  # where original images are packed to
    frequency: Radii = None  # as in `Settings`, with val for minival
    frequency_share: float | None = Field(None, gt=0, le=1)

    def model_post_init(self, _context: Any) -> None:
        self.check_watch()
        parts = self.workers * self.accumulate
        if self.recipe.batch_size % parts:
            raise SettingsError(
                f"--batch-size {self.recipe.batch_size} does not divide into {parts} equal parts "
                f"(--workers {self.workers} times --accumulate {self.accumulate})"
            )
        if parts > 1 and self.recipe.batch_size == parts:
            raise SettingsError(
                f"--batch-size {self.recipe.batch_size} in {parts} parts: a part has one image, "
                "and norms need two; give fewer --workers or --accumulate"
            )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def differences(self, other: "FullTraining") -> list[str]:
        """What the two train differently. From a pack, N workers train as one that accumulates N
        parts; streams are dealt out to workers otherwise. Data of one digest is the same wherever
        it lies.
        """
        there, here = self._as_trained(), other._as_trained()
        if self.data_digest == other.data_digest is not None:
            for place in ("data", "cache"):
                del there[place], here[place]
        return _differences(there, here)

    @property
    def fidelity(self) -> dict[str, Any]:
        """What two full trainings must have alike for their top1 to be compared, such as
        `{"data": "63c96e655571", "resolution": 64, "num_epochs": 30, …}`. Seeds and workers may
        differ.
        """
        told = self.model_dump(mode="json")
        alike = {name: told[name] for name in ("resolution", "teacher", "synchronised", "stream")}
        return {"data": self.data_digest or self.data, **alike, **told["recipe"]}

    def _as_trained(self) -> dict[str, Any]:
        told = self.model_dump(mode="json")
        workers, accumulate = told.pop("workers"), told.pop("accumulate")
        told["workers times accumulate"] = workers * accumulate
        return {**told, "workers of a stream": workers} if self.stream else told


Run = TypeVar("Run", bound=Settings)
Model = TypeVar("Model", bound=BaseModel)


def make_settings(kind: type[Model], settings: Mapping[str, Any]) -> Model:
    """An experiment or comparison from settings by name.

    Raises SettingsError that names the setting and what it may be.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        flag = ".".join(map(str, first["loc"])).removesuffix("_wanted").replace("_", "-")
        raise SettingsError(f"--{flag} is {first['input']!r}; {first['msg'].lower()}") from None


def read_settings(path: Path) -> Experiment | Comparison | Tabulation:
    """Reads an experiment.yaml. Raises SettingsError."""
    document = read_yaml(path, SettingsError)
    told = document.data if isinstance(document.data, dict) else {}
    if "networks" in told:
        return document.parse(Comparison)
    if "networks_wanted" in told:
        return document.parse(Tabulation)
    return document.parse(Experiment)


def read_full_training(path: Path) -> FullTraining:
    """Reads a settings.yaml of `retrained/ID`. Raises SettingsError."""
    return read_yaml(path, SettingsError).parse(FullTraining)


def _differences(there: Any, here: Any, place: str = "") -> list[str]:
    if place == "networks" and list(there) != list(here):
        return [f"networks are {', '.join(there)} there and {', '.join(here)} here"]
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if place or key not in EFFORT]
        return [
            difference
            for key in keys
            for difference in _differences(
                there.get(key), here.get(key), f"{place}.{key}" if place else key
            )
        ]
    return [] if there == here else [f"{place} is {there} there and {here} here"]
