"""Strict reading of YAML at the border: safe, no duplicate keys, and every complaint names file,
line and dotted path.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gmsearch.errors import UserError

MOST_VALUES = 100_000  # in a file; a space has a few dozen

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data, with the line of each value in it."""

    path: Path
    data: Any
    lines: dict[Location, int]
    error: type[UserError]

    def problem(
        self, location: Location, message: str, *, key: int | str | None = None
    ) -> UserError:
        """An error that says where: `gated.yaml:12: per_stage.kernel: MESSAGE`.

        The line is that of `key` below the location, where one is given.
        """
        known = location if key is None else (*location, key)
        line = self.lines.get(known)
        while line is None and known:  # a missing key has no line of its own: take its parent's
            known = known[:-1]
            line = self.lines.get(known)
        place = f"{self.path}:{line}" if line else f"{self.path}"
        dotted = ".".join(map(str, location))
        return self.error(f"{place}: {dotted + ': ' if dotted else ''}{message}")

    def parse(self, model: type[Model]) -> Model:
        """The data as a `model`. Raises the document's kind of error for the first thing that does
        not fit.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            # A misspelt key is the cause of a missing one: it comes first.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            location = first["loc"]
            if first["type"] == "extra_forbidden":
                allowed = _allowed_keys(model, location[:-1])
                message = unknown_key(str(location[-1]), allowed)
                raise self.problem(location[:-1], message, key=location[-1]) from None
            if first["type"] == "missing":
                message = f"'{location[-1]}' is missing"
                raise self.problem(location[:-1], message) from None
            if first["type"] in ("model_type", "dataclass_type", "dict_type"):
                raise self.problem(
                    location, f"a mapping is needed, not {first['input']!r}"
                ) from None
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"
            raise self.problem(location, message) from None
        except UserError as error:
            raise self.problem((), str(error)) from None


def read_yaml(path: Path, error: type[UserError]) -> Document:
    """Reads a YAML file. Raises `error` where there is none, or where it does not parse."""
    document = Document(path, None, {}, error)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise error(f"{path}: the file is empty")
        return Document(path, _construct(node, (), document), document.lines, error)
    except FileNotFoundError:
        raise error(f"{path}: no such file{_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read: {problem}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(problem, "problem", None) or str(problem).splitlines()[0]
        raise error(f"{path}{line}: not valid YAML: {reason}") from None
    except RecursionError:
        raise error(f"{path}: nested too deeply, or an alias that holds itself") from None


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """The complaint about a key that is not among `allowed`, with the nearest one that is."""
    allowed = list(allowed)
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"unknown key '{key}'{hint} allowed: {', '.join(allowed)}"


def _construct(node: yaml.Node, location: Location, document: Document) -> Any:
    """Plain data of a YAML node; notes the lines and refuses a key that is given twice."""
    document.lines[location] = node.start_mark.line + 1
    if len(document.lines) > MOST_VALUES:  # aliases of aliases grow without a bound
        raise document.problem((), f"more than {MOST_VALUES:,} values")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, location, document)
    if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise document.problem(location, f"the tag {node.tag} is not allowed")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*location, i), document) for i, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if key_node.tag != "tag:yaml.org,2002:str":
            document.lines[location] = line
            raise document.problem(location, "a key must be a plain word")
        if key in mapping:
            document.lines[location] = line
            raise document.problem(location, f"the key '{key}' is given twice")
        mapping[key] = _construct(value_node, (*location, key), document)
        document.lines[(*location, key)] = line
    return mapping


def _scalar(node: yaml.ScalarNode, location: Location, document: Document) -> Any:
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except Exception:  # PyYAML stumbles in many ways over a tag that does not fit its value
        raise document.problem(location, f"'{node.value}' cannot be read") from None
    if isinstance(value, int) and abs(value) >= 10**18:
        raise document.problem(location, "the number is too large")
    return value


def _allowed_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys of the (nested) model at `location`."""
    for key in location:
        model = model.model_fields[str(key)].annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _nearby(path: Path) -> str:
    """A hint at what the folder does hold."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    files = sorted(other.name for other in path.parent.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, files, n=1)
    if near:
        return f"; did you mean {path.parent / near[0]}?"
    return f"; {path.parent} has: {', '.join(files)}" if files else ""
