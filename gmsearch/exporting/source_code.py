"""model.py: a network as readable code that needs torch alone.

It is written for one architecture: a class for each kind of block and of gate that occurs, and the
stages with their widths and depths in figures. Parameters have the names of model.safetensors,
which the code reads by itself.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType

from torch import nn

from gmsearch.architecture import FORMS, Architecture, Stage
from gmsearch.block import LAYER_SCALE
from gmsearch.exporting.subject import Subject

# s(h) in code, with its module for the stem.
ACTIVATIONS = {
    "relu6": ("F.relu6({})", "nn.ReLU6()"),
    "relu": ("F.relu({})", "nn.ReLU()"),
    "gelu": ("F.gelu({})", "nn.GELU()"),
    "silu": ("F.silu({})", "nn.SiLU()"),
    "hardswish": ("F.hardswish({})", "nn.Hardswish()"),
    "sigmoid": ("torch.sigmoid({})", "nn.Sigmoid()"),
    "hardsigmoid": ("F.hardsigmoid({})", "nn.Hardsigmoid()"),
    "tanh": ("torch.tanh({})", "nn.Tanh()"),
    "identity": ("{}", "nn.Identity()"),
}

# Operators of a gate that have weights: how they are made, for `width` channels.
OPERATORS = {
    "norm": "ChannelNorm(width, eps=1e-6)",
    "dw3x3": "nn.Conv2d(width, width, 3, padding=1, groups=width)",
    "linear": "nn.Conv2d(width, width, 1)",
    "pool_linear": "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1))",
}
FUNCTIONAL = "from torch.nn import functional as F\n"

HEAD = '''
import json
import struct
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, which is numbers and cannot run code."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": torch.float32, "I64": torch.int64}
    weights = {}
    for name, about in header.items():
        begin, end = (8 + length + offset for offset in about["data_offsets"])
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=types[about["dtype"]])
        weights[name] = flat.reshape(about["shape"])
    return weights


def load(path: str | Path) -> "Network":
    """The network with the weights of a .safetensors file, ready to be used."""
    model = Network()
    model.load_state_dict(read_weights(path))
    return model.eval()


class Conv(nn.Sequential):
    """A convolution that keeps the size, or halves it at stride 2; and a BN, if so."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_width, width, kernel, stride, padding=kernel // 2, groups=groups
        )
        if bn:
            self.bn = nn.BatchNorm2d(width)
'''

CHANNEL_NORM = '''

class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
'''

DOWNSAMPLERS = {
    "dense": '''

def dense(in_width: int, width: int) -> nn.Sequential:
    """Halves the size with a 3x3 convolution."""
    return nn.Sequential(Conv(in_width, width, 3, stride=2))
''',
    "separable": '''

def separable(in_width: int, width: int) -> nn.Sequential:
    """Halves the size with a depthwise 3x3 convolution, and then a 1x1."""
    return nn.Sequential(
        Conv(in_width, in_width, 3, stride=2, groups=in_width), Conv(in_width, width)
    )
''',
}


def write_code(subject: Subject) -> str:
    """The text of model.py."""
    assert isinstance(subject.network, Architecture)
    text = "".join(_parts(subject, subject.network))
    return text if " F." in text or "(F." in text else text.replace(FUNCTIONAL, "")


def import_code(path: Path) -> ModuleType:
    """Runs a model.py that `write_code` has just written."""
    module = ModuleType("exported_model")
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


def load_code(path: Path, weights: Path) -> nn.Module:
    """The network of a model.py with its weights."""
    model: nn.Module = import_code(path).load(weights)
    return model


def _parts(subject: Subject, network: Architecture) -> Iterator[str]:
    side, count = subject.resolution, f"{subject.num_classes:,}"
    yield f'''"""A network for images of {side} px and {count} classes; it needs torch alone.

    model = load("model.safetensors")
    logits = model(images)  # (N, 3, {side}, {side}), (RGB / 255 - mean) / std

Written by gmsearch for the architecture {network.id}. The code is under Apache-2.0.
"""
'''
    yield HEAD
    kinds = _kinds(network)
    gates = {(stage.form, stage.activation) for stage, gated in kinds if gated and _has_gate(stage)}
    if any("norm" in (FORMS[form].gate, FORMS[form].value) for form, _ in gates):
        yield CHANNEL_NORM
    for form, activation in sorted(gates):
        yield _gate_class(form, activation)
    for stage, gated in kinds:
        yield _block_class(stage, gated)
    for name in sorted({stage.downsampler for stage in network.stages}):
        yield DOWNSAMPLERS[name]
    yield _network_class(network, subject.num_classes)


def _kinds(network: Architecture) -> list[tuple[Stage, bool]]:
    """One block of each kind, a stage and whether it has the gate, in the order of the network."""
    found: dict[str, tuple[Stage, bool]] = {}
    for stage in network.stages:
        for gated in sorted(set(stage.gated), reverse=True):
            found.setdefault(_block_name(stage, gated), (stage, gated))
    return list(found.values())


def _has_gate(stage: Stage) -> bool:
    """Whether the gate of a stage has weights of its own, and so a class."""
    form = FORMS[stage.form]
    return {form.gate, form.value} != {"same"}


def _gate_name(form: str, activation: str) -> str:
    return f"{form.title()}{activation.title()}Gate"


def _block_name(stage: Stage, gated: bool) -> str:
    if not gated:
        return f"Plain{stage.activation.title()}Block"
    return f"{stage.form.title()}{stage.placement.title()}{stage.activation.title()}Block"


def _act(activation: str, of: str) -> str:
    return ACTIVATIONS[activation][0].format(of)


def _gate_class(form_name: str, activation: str) -> str:
    form = FORMS[form_name]
    lines = [
        "",
        "",
        f"class {_gate_name(form_name, activation)}(nn.Module):",
        f'    """{form.formula.replace("s(", f"{activation}(", 1)}"""',
        "",
        "    def __init__(self, width: int) -> None:",
        "        super().__init__()",
    ]
    for side, operator in (("gate", form.gate), ("value", form.value)):
        if operator != "same":
            lines.append(f"        self.{side} = {OPERATORS[operator]}")
    gate, value = (
        "h" if operator == "same" else f"self.{side}(h)"
        for side, operator in (("gate", form.gate), ("value", form.value))
    )
    lines += [
        "",
        "    def forward(self, h: Tensor) -> Tensor:",
        f"        return {_act(activation, gate)} * {value}",
        "",
    ]
    return "\n".join(lines)


def _block_class(stage: Stage, gated: bool) -> str:
    placement = stage.placement if gated else "none"
    twin = placement == "expand" and FORMS[stage.form].projections == 2
    if gated:
        formula = FORMS[stage.form].formula.replace("s(", f"{stage.activation}(", 1)
        words = f"A residual block with {formula} {_PLACES[placement]}."
    else:
        words = f"A residual block with a plain {stage.activation} and no gate."
    lines = [
        "",
        "",
        f"class {_block_name(stage, gated)}(nn.Module):",
        f'    """{words}"""',
        "",
        "    def __init__(self, width: int, hidden: int, kernel: int) -> None:",
        "        super().__init__()",
        "        self.dwconv = Conv(width, width, kernel, groups=width)",
        "        self.f1 = Conv(width, hidden, bn=False)",
        *(["        self.f2 = Conv(width, hidden, bn=False)"] if twin else []),
        "        self.g = Conv(hidden, width)",
        "        self.dwconv2 = Conv(width, width, kernel, groups=width, bn=False)",
        f"        self.gamma = nn.Parameter(torch.full((width,), {LAYER_SCALE}))",
    ]
    if gated and _has_gate(stage):
        features = "hidden" if placement == "expand" else "width"
        gate = _gate_name(stage.form, stage.activation)
        lines.append(f"        self.{placement} = {gate}({features})")

    def gate_of(name: str, other: str = "") -> str:
        if _has_gate(stage):
            return f"self.{placement}({name})"
        return f"{_act(stage.activation, name)} * {other or name}"

    lines += ["", "    def forward(self, x: Tensor) -> Tensor:", "        h = self.dwconv(x)"]
    if placement == "spatial":
        lines.append(f"        h = {gate_of('h')}")
    if twin:
        lines.append(f"        h = {gate_of('self.f1(h)', 'self.f2(h)')}")
    else:
        lines.append("        h = self.f1(h)")
        inner = gate_of("h") if placement == "expand" else _act(stage.activation, "h")
        if inner != "h":
            lines.append(f"        h = {inner}")
    lines.append("        h = self.dwconv2(self.g(h))")
    if placement == "output":
        lines.append(f"        h = {gate_of('h')}")
    lines += ["        return x + self.gamma.view(-1, 1, 1) * h", ""]
    return "\n".join(lines)


_PLACES = {
    "spatial": "after the first DW",
    "expand": "between the two 1x1",
    "output": "after the second DW",
}


def _network_class(network: Architecture, num_classes: int) -> str:
    stem, width = network.stem_width, network.stem_width
    activation = ACTIVATIONS[network.stem_activation][1]
    lines = [
        "",
        "",
        "class Network(nn.Module):",
        '    """Stem, four stages, BN, average, linear head: images to logits."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__()",
        f"        self.stem = nn.Sequential(Conv(3, {stem}, 3, stride=2), {activation})",
        "        self.stages = nn.Sequential(",
    ]
    for stage in network.stages:
        lines += [
            "            nn.Sequential(",
            f"                {stage.downsampler}({width}, {stage.width}),",
            *(f"                {block}," for block in _blocks(stage)),
            "            ),",
        ]
        width = stage.width
    lines += [
        "        )",
        f"        self.norm = nn.BatchNorm2d({width})",
        f"        self.head = nn.Linear({width}, {num_classes})",
        "",
        "    def forward(self, images: Tensor) -> Tensor:",
        "        x = self.norm(self.stages(self.stem(images)))",
        "        return self.head(x.mean((2, 3)))",
        "",
    ]
    return "\n".join(lines)


def _blocks(stage: Stage) -> Iterator[str]:
    """The blocks of a stage in code, equal neighbours together."""
    for gated, group in groupby(stage.gated):
        count = len(list(group))
        sizes = f"{stage.width}, {stage.width * stage.ratio}, {stage.kernel}"
        block = f"{_block_name(stage, gated)}({sizes})"
        yield block if count == 1 else f"*[{block} for _ in range({count})]"
