"""Recipes as files: those that ship, by name, and those of a user."""

import re
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from gmsearch.errors import SettingsError
from gmsearch.reading import read_yaml, unknown_key
from gmsearch.recipe import Recipe

SHIPPED = ("paper", "quick")


def read_recipe(recipe: str) -> dict[str, Any]:
    """The fields that a recipe sets, by its name or the path of its file. Raises SettingsError."""
    if recipe in SHIPPED:
        path = Path(str(resources.files("gmsearch") / "recipes" / f"{recipe}.yaml"))
    elif recipe.endswith((".yaml", ".yml")) or Path(recipe).is_file():
        path = Path(recipe)
    else:
        raise SettingsError(f"--recipe {recipe!r}; give {', '.join(SHIPPED)} or a YAML file")
    document = read_yaml(path, SettingsError)
    if not isinstance(document.data, dict):
        raise document.problem((), "a recipe is a mapping, such as num_epochs: 30")
    values: dict[str, Any] = {}
    known: dict[str, type] = {each.name: type(each.default) for each in fields(Recipe)}
    for key, value in document.data.items():
        if key not in known:
            raise document.problem((), unknown_key(key, known), key=key)
        value = _number(value) if known[key] is float else value
        if type(value) is not known[key] and (type(value), known[key]) != (int, float):
            raise document.problem((key,), f"{value!r} is no {known[key].__name__}")
        try:
            Recipe(**{key: value})
        except SettingsError as error:
            raise document.problem((), str(error), key=key) from None
        values[key] = value
    return values


def _number(value: Any) -> Any:
    """What YAML 1.1 takes for a text: 1e-3, which it wants to be 1.0e-3."""
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if is_number else value
