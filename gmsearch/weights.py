"""Weights from files, the authors' checkpoints included, and what does not fit of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gmsearch.errors import WeightsError

# Keys under which checkpoints keep weights, ours included: an average before the last ones.
WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
MOST_NAMED = 4  # keys in a message
LONGEST_REASON = 100  # letters of what a reader says


def filter_weights(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A state dict in our naming, which is the authors', from what their checkpoints hold.

    Takes it out of the wrapper that it lies in, and the prefix of distributed training off its
    keys.
    """
    return _unwrap(state)


def _unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), state)
    return {key.removeprefix("module."): value for key, value in inner.items()}


def load_weights(model: nn.Module, path: Path) -> str:
    """Loads a .safetensors file or a torch checkpoint, the average of its weights where it has one,
    without running code from it.

    A classifier for another number of classes stays fresh; returns its name, or nothing. Raises
    WeightsError for a file that cannot be read, for keys that are missing or left over, and for
    tensors of other shapes; the model is then as it was.
    """
    return fit_weights(model, read_weights(path), path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a torch checkpoint, by name. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights, or not a file")
    try:
        saved = _read(path)
        if not isinstance(saved, dict):
            raise ValueError(f"it holds a {type(saved).__name__}")
        state = _unwrap(saved)
        strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if strangers:
            raise ValueError(f"{strangers[0]!r} is no tensor")
    except Exception as error:  # a broken file may make the readers stumble in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{path}: not readable as weights; give a .safetensors file or a state dict that "
            f"torch.save wrote ({reason[:LONGEST_REASON]})"
        ) from None
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> str:
    """Loads tensors that came from a file, as `load_weights` does."""
    own = model.state_dict()
    others = {k for k in own.keys() & state.keys() if state[k].shape != own[k].shape}
    classifier = classifier_of(model)
    is_head = classifier and {key.rpartition(".")[0] for key in others} == {classifier}
    fresh = others if is_head else set()
    shapes = (
        f"{key} is {tuple(state[key].shape)} and not {tuple(own[key].shape)}"
        for key in others - fresh
    )
    problems = [
        _listed("missing keys", own.keys() - state.keys()),
        _listed("keys that the network does not have", state.keys() - own.keys()),
        _listed("other shapes", shapes),
    ]
    if any(problems):
        found = "; ".join(filter(None, problems))
        raise WeightsError(f"{path}: weights of another network: {found}")
    model.load_state_dict({**state, **{key: own[key] for key in fresh}})
    return classifier if fresh else ""


def classifier_of(model: nn.Module) -> str:
    """The name of the layer that gives the logits, of a model of timm's kind."""
    get_classifier: Any = getattr(model, "get_classifier", lambda: None)
    head = get_classifier()
    return next((name for name, module in model.named_modules() if module is head), "")


def _listed(what: str, keys: Iterable[str]) -> str:
    """`what` with the first of the keys, or nothing where there are none."""
    names = sorted(keys)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{what}: {', '.join(names[:MOST_NAMED])}{more}" if names else ""
