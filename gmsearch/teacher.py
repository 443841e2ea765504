"""A trained network that another one learns from, beside the labels."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.errors import SettingsError
from gmsearch.network import read_network
from gmsearch.weights import load_weights
from gmsearch.zoo import build_network, is_peer, nearest_names


def load_teacher(what: str, classes: tuple[str, ...], resolution: int) -> nn.Module:
    """A classifier of timm with its published weights, or the network of a folder that a full
    training left (architecture.json and model.safetensors).

    Raises SettingsError where there is none, where it tells other classes apart, and where it does
    not take images of `resolution` px.
    """
    folder, num_classes = Path(what), len(classes)
    if (folder / "architecture.json").is_file():
        network = read_network(folder / "architecture.json")
        model = build_network(network, num_classes, resolution)
        if load_weights(model, folder / "model.safetensors") or _classes_of(folder) != classes:
            raise SettingsError(
                f"--teacher {what}: it tells other classes apart than the {num_classes} of the data"
            )
    elif is_peer(what.partition(".")[0]):
        model = _of_timm(what, num_classes)
    else:
        near = ", ".join(nearest_names(what))
        raise SettingsError(
            f"--teacher {what}: no classifier of timm, and no folder such as RUN/retrained/ID"
            + (f"; nearest: {near}" if near else "")
        )
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    try:
        model(torch.zeros(1, 3, resolution, resolution))
    except Exception as error:  # whatever a network makes of images that it cannot take
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"--teacher {what} at {resolution} px: {reason}") from None
    return model


def _classes_of(folder: Path) -> tuple[str, ...]:
    """The classes of a full training, by label. Raises SettingsError where it is not done."""
    try:
        return tuple(json.loads((folder / "result.json").read_text(encoding="utf-8"))["by_class"])
    except (OSError, ValueError, TypeError, LookupError):
        raise SettingsError(
            f"--teacher {folder}: no result.json of a full training in it; let it finish first"
        ) from None


class _Renormalised(nn.Module):
    """A network that wants images normalised by a mean and deviation of its own."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        ours, theirs = (torch.tensor(each).view(-1, 1, 1) for each in (IMAGENET_DEFAULT_STD, std))
        shift = torch.tensor(IMAGENET_DEFAULT_MEAN).view(-1, 1, 1) - torch.tensor(mean).view(
            -1, 1, 1
        )
        self.register_buffer("scale", ours / theirs)
        self.register_buffer("shift", shift / theirs)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * self.scale + self.shift)


def _of_timm(name: str, num_classes: int) -> nn.Module:
    published = timm.get_pretrained_cfg(name)
    if published is not None:
        _check_classes(name, published.num_classes, num_classes)  # before anything is downloaded
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each try has a line
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever a download makes of the network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"--teacher {name}: its weights cannot be had ({reason})") from None
    _check_classes(name, model.num_classes, num_classes)
    about: Any = model.pretrained_cfg
    mean, std = tuple(about["mean"]), tuple(about["std"])
    if (mean, std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return model
    return _Renormalised(model, mean, std)


def _check_classes(name: str, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise SettingsError(
            f"--teacher {name}: it tells {theirs} classes apart, the data has {ours}; give one "
            "that was trained on the same, such as RUN/retrained/ID"
        )


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far logits are from those of a teacher: the divergence of the softened answers, times the
    square of the temperature (Hinton et al. 2015, arXiv 1503.02531).
    """
    theirs = F.log_softmax(taught / temperature, 1)
    ours = F.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
