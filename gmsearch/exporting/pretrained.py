"""config.json and model.safetensors, as timm writes and reads them."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from gmsearch.architecture import Architecture
from gmsearch.data.decoding import side_for
from gmsearch.errors import SettingsError, UserError
from gmsearch.exporting.subject import Subject
from gmsearch.files import replacing, write_atomically
from gmsearch.network import read_network

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# What timm knows of a network whatever its weights are.
OF_THE_NETWORK = ("pool_size", "first_conv", "classifier", "fixed_input_size")


def write_config(subject: Subject, folder: Path) -> None:
    """All that timm needs to make the network and to prepare its images, and our own word on the
    weights.
    """
    network, resolution = subject.network, subject.resolution
    name = "gmnet" if isinstance(network, Architecture) else network.name
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    traits = {key: value for key, value in known.to_dict().items() if key in OF_THE_NETWORK}
    if isinstance(network, Architecture):
        arguments: dict[str, Any] = {"arch": network.to_dict()}
    else:
        arguments = {"img_size": resolution} if traits.get("fixed_input_size") else {}
    config = {
        "architecture": name,
        "num_classes": subject.num_classes,
        "num_features": getattr(subject.model, "num_features", None),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "gmsearch",
            "custom_load": False,
            "input_size": [3, resolution, resolution],
            "interpolation": "bicubic",
            "crop_pct": crop_share(resolution),
            "crop_mode": "center",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "num_classes": subject.num_classes,
            **traits,
            "description": subject.weights,
        },
        "weights": subject.facts,
    }
    if subject.labels is not None:
        config["label_names"] = subject.labels
    # In ASCII: timm reads it strictly, and names of classes may be folders that are no UTF-8.
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def crop_share(resolution: int) -> float:
    """The share of the resized square that the network sees, in four digits. Timm takes the whole
    part of resolution / share for the square's side: rounded down, the share never gives less.
    """
    return resolution * 10_000 // side_for(resolution) / 10_000


def write_weights(subject: Subject, folder: Path) -> None:
    """The state dict, every tensor on its own."""
    state = {
        key: value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in subject.model.state_dict().items()
    }
    with replacing(folder / WEIGHTS) as file:
        file.write(save(state, metadata={"format": "pt"}))


def load_pretrained(folder: Path) -> nn.Module:
    """The network of a folder, as timm loads it."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def read_export(folder: Path) -> Subject:
    """What an export has, with the story that its config tells. Raises SettingsError."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        about = config["pretrained_cfg"]
        labels = config.get("label_names")
        network = read_network(folder / "architecture.json")
        return Subject(
            name=folder.name,
            network=network,
            model=load_pretrained(folder),
            resolution=int(about["input_size"][1]),
            num_classes=int(config["num_classes"]),
            labels=None if labels is None else tuple(labels),
            weights=str(about["description"]),
            facts=dict(config["weights"]),
        )
    except UserError:
        raise
    except Exception as error:  # a broken file may make the readers stumble in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(
            f"{folder}: not what gmsearch export wrote ({reason[:100]}); export it again"
        ) from None
