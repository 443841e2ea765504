"""A trained network that another one learns from, beside the labels."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.errors import SettingsError
from gmsearch.network import read_network
from gmsearch.weights import load_weights
from gmsearch.zoo import build_network, is_peer, nearest_names


def load_teacher(what: str, num_classes: int, resolution: int) -> nn.Module:
    """A classifier of timm with its published weights, or the network of a folder that a full
    training left (architecture.json and model.safetensors).

    Raises SettingsError where there is none, or where it tells other classes apart.
    """
    folder = Path(what)
    if (folder / "architecture.json").is_file():
        network = read_network(folder / "architecture.json")
        model = build_network(network, num_classes, resolution)
        if load_weights(model, folder / "model.safetensors"):
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
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _of_timm(name: str, num_classes: int) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever a download makes of the network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"--teacher {name}: its weights cannot be had ({reason})") from None
    if model.num_classes != num_classes:
        raise SettingsError(
            f"--teacher {name}: it tells {model.num_classes} classes apart, the data has "
            f"{num_classes}"
        )
    return model


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far logits are from those of a teacher: the divergence of the softened answers, times the
    square of the temperature (Hinton et al. 2015, arXiv 1503.02531).
    """
    theirs = F.log_softmax(taught / temperature, 1)
    ours = F.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
