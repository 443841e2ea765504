"""Networks as modules: ours, and the classifiers of timm that stand beside them."""

from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from gmsearch import depthwise, pointwise
from gmsearch.architecture import Architecture
from gmsearch.cost import LayerCost, ledger
from gmsearch.counting import count
from gmsearch.errors import SettingsError
from gmsearch.gmnet import VARIANTS
from gmsearch.model import build
from gmsearch.network import Network

NEAREST = 3  # names offered in the place of an unknown one


def is_peer(name: str) -> bool:
    """Whether timm has a classifier of this name, without tag, that is not one of ours."""
    return "." not in name and timm.is_model(name) and name not in ("gmnet", *VARIANTS)


def nearest_names(name: str) -> list[str]:
    """The registered names that look most like `name`, at most NEAREST."""
    return get_close_matches(name, _names(), n=NEAREST, cutoff=0.5)


@cache
def _names() -> list[str]:
    return [name for name in timm.list_models() if name != "gmnet"]  # which needs its `arch`


def build_network(network: Network, num_classes: int, resolution: int) -> nn.Module:
    """A network with fresh weights drawn from torch's global generator.

    Peers get our convolutions, so that all train by the same means. Raises SettingsError
    where timm cannot make the peer.
    """
    if isinstance(network, Architecture):
        return build(network, num_classes)
    if not is_peer(network.name):
        raise SettingsError(f"{network.name}: timm {timm.__version__} has no such classifier")
    fixed_size = timm.get_pretrained_cfg_value(network.name, "fixed_input_size")
    settings: dict[str, Any] = {"img_size": resolution} if fixed_size else {}
    try:
        return quicken(timm.create_model(network.name, num_classes=num_classes, **settings))
    except Exception as error:  # whatever a model of timm makes of a size or a number of classes
        raise SettingsError(f"{network.name} at {resolution} px: {_first_line(error)}") from None


def build_deployed(network: Network, num_classes: int, resolution: int) -> nn.Module:
    """A network as it is used, in eval mode: with the branches fused that only training needs, as
    those of MobileOne.
    """
    return reparameterize_model(build_network(network, num_classes, resolution).eval())


def quicken(model: nn.Module) -> nn.Module:
    """Replaces the convolutions of any network that ours can stand for: fast depthwise ones, and
    those that the CPU library cannot train.

    Parameters stay the same objects under the same names.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            ours = depthwise.stand_in(child) or pointwise.stand_in(child)
            if ours is not None:
                for key, parameter in child._parameters.items():
                    ours.register_parameter(key, parameter)
                setattr(module, name, ours.train(child.training))
    return model


def ledger_of(
    network: Network, *, resolution: int = 224, num_classes: int = 1000
) -> list[LayerCost]:
    """The cost of every layer of a network as it is used, in the order in which they run.

    Raises SettingsError for images that the network cannot take.
    """
    if isinstance(network, Architecture):
        return ledger(network, resolution=resolution, num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        model = build_deployed(network, num_classes, resolution)
        try:
            return count(model, resolution)
        except Exception as error:  # whatever a network makes of images that it cannot take
            raise SettingsError(f"{network.id} at {resolution} px: {_first_line(error)}") from None


def check_network(network: Network, num_classes: int, resolution: int, batch_size: int = 2) -> None:
    """Raises SettingsError where a network cannot be trained on such images.

    Runs one training step forward, on a batch of two images at most, without touching the global
    generator.
    """
    images = torch.rand(min(2, batch_size), 3, resolution, resolution, generator=torch.Generator())
    with torch.random.fork_rng(devices=[]):
        model = build_network(network, num_classes, resolution)
        check_resolution(network.id, model, resolution)
        try:
            logits = model.train()(images)
        except Exception as error:  # whatever a network makes of images that it cannot take
            raise SettingsError(
                f"{network.id} at {resolution} px: {_first_line(error)}; "
                "give another resolution, or leave it out"
            ) from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), num_classes):
        raise SettingsError(
            f"{network.id} is no plain classifier: it does not return one logit a class"
        )


def check_resolution(name: str, model: nn.Module, resolution: int) -> None:
    """Raises SettingsError for images smaller than the strides of the network take."""
    info = getattr(model, "feature_info", None) or [{}]
    stride = info[-1].get("reduction", 1) if isinstance(info, list) else 1
    if resolution < stride:
        raise SettingsError(
            f"resolution is {resolution} px, but {name} has a stride of {stride}; "
            f"give {stride} px or more"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
