"""gmsearch: a search over gating designs of lightweight image classifiers.

Importing it puts the published family into timm's registry: `timm.create_model("gmnet_s1")`, and
`timm.create_model("gmnet", arch=…)` for any architecture. timm brings torch, which takes seconds to
import and which much of gmsearch does without, so timm is not imported here: the names are there as
soon as it is, before or after.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _WhenImported(MetaPathFinder):
    """Finds timm as the others do, and registers our models when it has been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        import_module("gmsearch.registry")


if sys.modules.get("timm") is not None:
    import_module("gmsearch.registry")
else:
    sys.meta_path.insert(0, _WhenImported())
