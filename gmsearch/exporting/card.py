"""README.md of an export: what the network is, costs and reaches, and how each format loads."""

from collections.abc import Iterator
from typing import Any

from gmsearch.architecture import Architecture, Stage
from gmsearch.cost import halved
from gmsearch.data.decoding import side_for
from gmsearch.exporting.subject import Subject

DEPLOYED = {"onnx": "model.onnx", "torch": "model.pt2"}  # with the fewest operators


def write_card(subject: Subject, report: dict[str, Any]) -> str:
    """The text of the card; `report` is what check.json has."""
    return "\n".join(_lines(subject, report)) + "\n"


def _lines(subject: Subject, report: dict[str, Any]) -> Iterator[str]:
    network, side = subject.network, subject.resolution
    yield f"# {subject.name}\n"
    yield f"**{subject.weights}**\n"
    yield (
        f"An image classifier: RGB images of {side} px to {subject.num_classes:,} classes"
        + (", named in config.json.\n" if subject.labels else ", by number.\n")
    )
    if isinstance(network, Architecture):
        yield "## Architecture\n"
        yield from _architecture(network, side)
    else:
        yield f"The network is timm's `{network.name}`.\n"
    yield "## Costs\n"
    cost = subject.cost
    yield f"| MACs at {side} px | params | activations |\n|---|---|---|"
    yield f"| {cost.macs:,} | {cost.params:,} | {cost.activations:,} |\n"
    yield (
        "Multiply-adds of convolutions and linear layers count as one; activations are what these "
        "layers write for one image.\n"
    )
    deployed = [file for name, file in DEPLOYED.items() if name in report["formats"]]
    if deployed and report["deployed_macs"] < cost.macs:
        does = "does" if len(deployed) == 1 else "do"
        yield (
            f"{' and '.join(deployed)} {does} the same with {report['deployed_macs']:,} MACs: 1x1 "
            "convolutions with nothing between them are one there.\n"
        )
    yield from _accuracy(subject, report)
    yield "## How it loads\n"
    yield (
        f"The centre square of an image is resized to {side_for(side)} px, and the {side} px in "
        "its middle are normalised with mean and std of config.json, the usual ones of ImageNet. "
        "The commands run in this folder; in each, `images` stands for such a batch.\n"
    )
    for name, (words, command) in _loading(subject).items():
        if name in report["formats"]:
            difference = report["formats"][name]["difference"]
            yield f"{words} Its logits differ by at most {difference:.1e} of the largest one.\n"
            yield command
    yield from _predicting(report)
    yield "## Licence\n"
    yield (
        "The code, model.py included, is under Apache-2.0. The weights are under no terms of ours; "
        "those of the data that they were trained on may hold."
    )


def _architecture(network: Architecture, side: int) -> Iterator[str]:
    side = halved(side)
    yield (
        f"The stem is a 3x3 convolution of stride 2 to {network.stem_width} channels with a BN "
        f"and {network.stem_activation}. Four stages follow, each a down-sampler and residual "
        "blocks: DW, BN, 1x1, 1x1, BN, DW, layer scale. A gate multiplies features h by an "
        "activation of features. A BN, the average over the image and a linear layer give the "
        "logits.\n"
    )
    yield "| stage | px | channels | blocks | DW | hidden channels | down-sampler | gate |"
    yield "|---|---|---|---|---|---|---|---|"
    for number, stage in enumerate(network.stages, 1):
        side = halved(side)
        kernel, hidden = f"{stage.kernel}x{stage.kernel}", stage.width * stage.ratio
        sampler = {"dense": "3x3", "separable": "DW 3x3, 1x1"}[stage.downsampler]
        row = [number, side, stage.width, stage.depth, kernel, hidden, sampler, _gate(stage)]
        yield f"| {' | '.join(map(str, row))} |"
    yield f"\nIts id is {network.id}; architecture.json has all of it.\n"


def _gate(stage: Stage) -> str:
    """The gate in words; where only some blocks have it, how many."""
    words = stage.gate_in_words()
    if stage.placement == "none" or all(stage.gated):
        return words
    plain = "none" if stage.activation == "identity" else stage.activation
    return f"{words} ({sum(stage.gated)} of {stage.depth} blocks; in the others plain {plain})"


def _accuracy(subject: Subject, report: dict[str, Any]) -> Iterator[str]:
    facts, small = subject.facts, report["formats"].get("int8")
    yield "## Accuracy\n"
    if "top1" in facts:
        of = f" of {facts['data']} at {facts['resolution']} px" if "data" in facts else ""
        yield (
            f"top1 {facts['top1']:.1f} % on the {facts['split']} split{of}, after "
            f"{facts['epochs']} epochs: a {facts['kind']}.\n"
        )
        if facts["split"] == "minival":
            yield "minival is a part of the training images that is kept from training.\n"
        if "recipe" in facts:
            yield f"Recipe: AdamW, cosine; {', '.join(_recipe(facts))}.\n"
    elif small is None:
        yield "Nothing is known of it here.\n"
    if small is not None:
        yield (
            f"With 8 bits top1 is {small['top1']:.1f} %, with floats {small['top1_float']:.1f} %, "
            f"on the same {small['images']:,} images of {small['split']} of {small['data']}; the "
            f"ranges were taken from {small['calibration_images']:,} training images.\n"
        )


def _recipe(facts: dict[str, Any]) -> Iterator[str]:
    """What of a recipe does something, and who taught."""
    recipe = facts["recipe"]
    taught = "teacher" in facts and recipe["distillation"] > 0
    idle = set() if taught else {"distillation", "temperature"}
    if recipe["min_crop_area"] == 1:
        idle.add("min_crop_area")
    for key, value in recipe.items():
        if not isinstance(value, str) and value and key not in idle:
            yield f"{key.replace('num_epochs', 'epochs')} {value:g}"
    if taught:
        yield f"teacher {facts['teacher']}"


def _loading(subject: Subject) -> dict[str, tuple[str, str]]:
    """For each format a sentence and a block of commands."""
    shape = f"1, 3, {subject.resolution}, {subject.resolution}"
    torch_images = f"images = torch.zeros({shape})"
    numpy_images = f"images = np.zeros(({shape}), np.float32)"
    ours = isinstance(subject.network, Architecture)
    return {
        "timm": (
            "### timm\n\nconfig.json and model.safetensors."
            + (" The name of the network is gmsearch's." if ours else ""),
            _python(
                *(["import gmsearch"] if ours else []),
                "import timm",
                "import torch",
                "",
                torch_images,
                'model = timm.create_model("local-dir:.", pretrained=True).eval()',
                "logits = model(images)",
            ),
        ),
        "onnx": (
            "### ONNX Runtime\n\nmodel.onnx, for any number of images.",
            _onnx("model.onnx", numpy_images),
        ),
        "torch": (
            "### torch.export\n\nmodel.pt2, for any number of images.",
            _python(
                "import torch",
                "",
                torch_images,
                'model = torch.export.load("model.pt2").module()',
                "logits = model(images)",
            ),
        ),
        "code": (
            "### torch alone\n\nmodel.py, which reads model.safetensors.",
            _python(
                "import torch",
                "from model import load",
                "",
                torch_images,
                'model = load("model.safetensors")',
                "logits = model(images)",
            ),
        ),
        "int8": (
            "### ONNX Runtime, 8 bits\n\nmodel.int8.onnx, by static quantisation.",
            _onnx("model.int8.onnx", numpy_images),
        ),
    }


def _onnx(file: str, images: str) -> str:
    return _python(
        "import numpy as np",
        "import onnxruntime",
        "",
        images,
        f'session = onnxruntime.InferenceSession("{file}")',
        '(logits,) = session.run(["logits"], {"image": images})',
    )


def _predicting(report: dict[str, Any]) -> Iterator[str]:
    if {"onnx", "timm"} & set(report["formats"]):
        yield "### The command line\n\nThe five likeliest classes of image files:\n"
        yield "```sh\ngmsearch predict . photo.jpg\n```\n"


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```\n"])
