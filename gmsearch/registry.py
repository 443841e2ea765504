"""Our models in timm's registry: the published family by name, and `gmnet` for any architecture.

The networks are imported where one is created: timm may be on its way in when this is read, as the
package of `gmsearch.model` itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError
from gmsearch.gmnet import VARIANTS
from gmsearch.gmnet import gmnet as published
from gmsearch.network import network_from_dict, read_network


def _cfg() -> dict[str, Any]:
    """No weights of the family are to be had by name; theirs load with `checkpoint_path`."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0.conv",
        "classifier": "head",
        "paper_ids": "arXiv:2503.22841",
        "paper_name": "GmNet",
        "origin_url": "https://github.com/YFWang1999/GmNet",
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in ("gmnet", *VARIANTS)})


def _create(
    variant: str, architecture: Architecture, pretrained: bool, **settings: Any
) -> nn.Module:
    from gmsearch.model import GatedNet
    from gmsearch.weights import filter_weights

    return build_model_with_cfg(
        GatedNet,
        variant,
        pretrained,
        architecture=architecture,
        pretrained_filter_fn=filter_weights,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **settings,
    )


def gmnet(
    pretrained: bool = False,
    arch: Architecture | Mapping[str, Any] | str | Path | None = None,
    **settings: Any,
) -> nn.Module:
    """The network of `arch`: an Architecture, its dict, or a JSON file of it; GmNet-S3 where none
    is given.
    """
    if isinstance(arch, str | Path):
        network = read_network(Path(arch))
    elif isinstance(arch, Mapping):
        network = network_from_dict(arch)
    else:
        network = published("gmnet_s3") if arch is None else arch
    if not isinstance(network, Architecture):
        raise ArchitectureError(f"arch is {arch!r}; allowed: an Architecture, its dict or its file")
    return _create("gmnet", network, pretrained, **settings)


def _entry_point(variant: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **settings: Any) -> nn.Module:
        return _create(variant, published(variant), pretrained, **settings)

    create.__name__ = create.__qualname__ = variant  # the name that timm registers
    return create


for _entry in (gmnet, *map(_entry_point, VARIANTS)):
    register_model(_entry)
