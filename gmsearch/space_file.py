"""The YAML of a search space, read strictly: what it may hold, and every complaint about it.

    name: tiny
    counted_at: {resolution: 224, num_classes: 1000}
    fixed:        one value for each axis (or a list of four, one for each stage)
    per_network:  a list of options, chosen once
    per_stage:    a list of options for every stage, or four lists, one for each
    points:       instead of these two: networks by name, and what they set over `fixed`

Each axis stands in one of the sections. `base_width` (stage widths are base x 1, 2, 4, 8) may stand
for `width`, and `stem_activation` may be left out: the stem then has the activation of the first
stage, as in GmNet.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gmsearch.architecture import FORMS, NUM_STAGES, check_value
from gmsearch.errors import ArchitectureError, SpaceError, UserError
from gmsearch.reading import Document, Location, read_yaml, unknown_key
from gmsearch.space import NETWORK_AXES, STAGE_AXES, Choice, Option, SearchSpace

SECTIONS = ("fixed", "per_network", "per_stage")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CountedAt(_Strict):
    """The image side and number of classes at which MACs are counted."""

    resolution: int = Field(default=224, ge=32, le=4096)
    num_classes: int = Field(default=1000, ge=2, le=1_000_000)


class SpaceFile(_Strict):
    """The file as it stands; `_Reader` checks the axes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    counted_at: CountedAt = CountedAt()
    fixed: dict[str, Any] = {}
    per_network: dict[str, Any] = {}
    per_stage: dict[str, Any] = {}
    points: dict[str, dict[str, Any]] = {}


def read_space(path: Path) -> SearchSpace:
    """Reads a space file. Raises SpaceError with file, line, dotted path, value and what is
    allowed.
    """
    return parse_space(read_yaml(path, SpaceError))


def read_space_data(path: Path) -> dict[str, Any]:
    """The contents of a space file as plain data, to be kept with an experiment."""
    data: dict[str, Any] = read_yaml(path, SpaceError).data
    return data


def parse_space(document: Document) -> SearchSpace:
    """The space of a document: a file, or the `space` section of an experiment."""
    if not isinstance(document.data, dict):
        raise document.problem((), "a space is a mapping with the keys name, counted_at, fixed, …")
    return _Reader(document, document.parse(SpaceFile)).read()


class _Reader:
    def __init__(self, document: Document, file: SpaceFile) -> None:
        self.document = document
        self.file = file

    def read(self) -> SearchSpace:
        fixed = self._fixed(self.file.fixed, ("fixed",))
        choices = self._per_network() + self._per_stage()
        if self.file.points:
            if choices:
                raise self.document.problem(
                    ("points",), "a space of points has no per_network or per_stage choices"
                )
            return self._of_points(fixed)
        self._check_axes(fixed, ())
        if not choices:
            raise self.document.problem(
                (), "nothing to choose: per_network and per_stage are empty"
            )
        order = {axis: i for i, axis in enumerate((*NETWORK_AXES, *STAGE_AXES))}
        choices.sort(key=lambda c: (-1 if c.stage is None else c.stage, order[c.axis]))
        space = self._space(fixed, tuple(choices), {})
        self._check_forms(space)
        return space

    def _space(self, fixed: Any, choices: tuple[Choice, ...], points: Any) -> SearchSpace:
        return SearchSpace(
            name=self.file.name,
            resolution=self.file.counted_at.resolution,
            num_classes=self.file.counted_at.num_classes,
            choices=choices,
            fixed=fixed,
            points=points,
        )

    def _of_points(self, fixed: dict[str, Any]) -> SearchSpace:
        points = {}
        for name, overrides in self.file.points.items():
            point = self._fixed(overrides, ("points", name))
            self._check_axes({**fixed, **point}, ("points", name))
            points[name] = point
        space = self._space(fixed, (Choice("point", "point", None, tuple(points)),), points)
        for name in points:
            try:
                space.decode({"point": name})
            except ArchitectureError as error:
                raise self.document.problem(("points", name), str(error)) from None
        return space

    def _fixed(self, section: dict[str, Any], location: Location) -> dict[str, Any]:
        """Values that are not chosen; a stage axis becomes a list of four."""
        fixed: dict[str, Any] = {}
        for axis, value in section.items():
            here = (*location, axis)
            if axis in NETWORK_AXES:
                fixed[axis] = self._value(axis, value, here)
            elif axis in STAGE_AXES:
                values = value if isinstance(value, list) else [value] * NUM_STAGES
                if len(values) != NUM_STAGES:
                    raise self.document.problem(
                        here, f"{len(values)} values; give one, or {NUM_STAGES}, one for each stage"
                    )
                fixed[axis] = [self._value(axis, item, here) for item in values]
            else:
                raise self._unknown(axis, location, (*NETWORK_AXES, *STAGE_AXES))
        return fixed

    def _per_network(self) -> list[Choice]:
        choices = []
        for axis, options in self.file.per_network.items():
            if axis not in NETWORK_AXES and axis not in STAGE_AXES:
                raise self._unknown(axis, ("per_network",), (*NETWORK_AXES, *STAGE_AXES))
            here = ("per_network", axis)
            choices.append(Choice(axis, axis, None, self._options(axis, options, here)))
        return choices

    def _per_stage(self) -> list[Choice]:
        choices = []
        for axis, options in self.file.per_stage.items():
            here: Location = ("per_stage", axis)
            if axis in NETWORK_AXES:
                raise self.document.problem(here, "is chosen once; put it under per_network")
            if axis not in STAGE_AXES:
                raise self._unknown(axis, ("per_stage",), STAGE_AXES)
            nested = isinstance(options, list) and any(isinstance(item, list) for item in options)
            if nested and len(options) != NUM_STAGES:
                raise self.document.problem(
                    here,
                    f"{len(options)} lists; give one list, or {NUM_STAGES}, one for each stage",
                )
            for stage in range(NUM_STAGES):
                own, at = (options[stage], (*here, stage)) if nested else (options, here)
                name = f"stage{stage + 1}.{axis}"
                choices.append(Choice(name, axis, stage, self._options(axis, own, at)))
        return choices

    def _options(self, axis: str, options: Any, location: Location) -> tuple[Option, ...]:
        if not isinstance(options, list):
            raise self.document.problem(
                location,
                f"a list of options is needed, not {options!r}; a single value goes under fixed",
            )
        if not options:
            raise self.document.problem(location, "the list of options is empty; give one at least")
        values = [self._value(axis, option, location) for option in options]
        for value in values:
            if values.count(value) > 1:
                raise self.document.problem(location, f"the option {value!r} is given twice")
        return tuple(values)

    def _value(self, axis: str, value: Any, location: Location) -> Option:
        try:
            check_value(axis, value)
        except ArchitectureError as error:
            raise self.document.problem(location, str(error).removeprefix(f"{axis} is ")) from None
        return value

    def _unknown(self, axis: str, location: Location, allowed: tuple[str, ...]) -> UserError:
        return self.document.problem(location, unknown_key(axis, allowed), key=axis)

    def _check_axes(self, fixed: dict[str, Any], location: Location) -> None:
        """Each axis is given exactly once, and of width and base_width just one."""
        given = [*fixed, *self.file.per_network, *self.file.per_stage]
        for axis in (*NETWORK_AXES, *STAGE_AXES):
            if given.count(axis) > 1:
                sections = [s for s in SECTIONS if axis in getattr(self.file, s)]
                raise self.document.problem(
                    (sections[-1], axis), f"is given twice, also under {sections[0]}"
                )
        if "width" in given and "base_width" in given:
            raise self.document.problem(location, "both width and base_width are given; keep one")
        if "width" not in given and "base_width" not in given:
            raise self.document.problem(location, "neither width nor base_width is given")
        for axis in ("stem_width", *STAGE_AXES[1:]):
            if axis not in given:
                raise self.document.problem(
                    location,
                    f"the axis '{axis}' is not given; put it under one of {', '.join(SECTIONS)}",
                )

    def _check_forms(self, space: SearchSpace) -> None:
        """Each form can be used in some network: one of two projections needs the placement
        `expand`.
        """
        for stage in range(NUM_STAGES):
            placements = self._values_at(space, "placement", stage)
            forms = self._values_at(space, "form", stage)
            if all(FORMS[str(form)].projections == 2 for form in forms):
                for placement in placements:
                    if placement in ("spatial", "output"):
                        section = next(s for s in SECTIONS if "placement" in getattr(self.file, s))
                        raise self.document.problem(
                            (section, "placement"),
                            f"'{placement}' needs a form of one projection, but stage {stage + 1} "
                            f"has only {', '.join(map(str, forms))}; add 'self' or drop "
                            f"'{placement}'",
                        )
            for form in forms:
                if FORMS[str(form)].projections == 2 and "expand" not in placements:
                    section = next(s for s in SECTIONS if "form" in getattr(self.file, s))
                    raise self.document.problem(
                        (section, "form"),
                        f"'{form}' needs the placement 'expand', but stage {stage + 1} has only "
                        f"{', '.join(map(str, placements))}; add 'expand' or drop '{form}'",
                    )

    @staticmethod
    def _values_at(space: SearchSpace, axis: str, stage: int) -> tuple[Option, ...]:
        """What an axis may be in a stage."""
        for choice in space.choices:
            if choice.axis == axis and choice.stage in (None, stage):
                return choice.options
        return (space.fixed[axis][stage],)
