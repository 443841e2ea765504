"""Runs timm's own published test suite over our models.

    make timm-suite

The suite is not part of timm's wheel, only of its source archive. It asks timm for lists of models,
by name filters and by the modules that support a feature; here each list holds our models alone, as
if `gmsearch.registry` were named beside timm's starnet, which has the same features. Tests of named
models of timm are left out.
"""

import sys
from functools import wraps

import pytest
import timm

import gmsearch  # noqa: F401 (registers our models)

OURS = "registry"  # the last part of the module's name, as timm keeps it
LIKE = "starnet"


def _only_ours(list_models):
    @wraps(list_models)
    def listed(*filters, module="", **settings):
        modules = [module] if isinstance(module, str) else list(module)
        if modules != [""] and LIKE not in modules:
            return []
        return list_models(*filters, module=OURS, **settings)

    return listed


def main(suite: str, *options: str) -> int:
    timm.list_models = _only_ours(timm.list_models)
    timm.list_pretrained = lambda *filters, **settings: []
    ignored = ["-p", "no:cacheprovider", "-W", "ignore", "-k", "gmnet"]
    return pytest.main([suite, "--rootdir", suite.rpartition("/")[0], *ignored, *options])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
