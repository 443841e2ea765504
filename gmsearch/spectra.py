"""The spectra of a network's features: which frequencies there are before the gate, after the
activation and after the product, stage by stage.

The radius of a frequency is a share of Nyquist's, half the samples along an axis, as in the split
of images; the corners of the square of frequencies lie beyond 1, at up to 1.41.

Maps are taken without their mean and under a Hann window. A map is a cutting: its right border does
not continue its left one, and a transform takes it for periodic. That jump alone has a power that
falls as |w|^-2 along the axes, slower than what activations do to a spectrum, and would hide it.
The window takes the jump away and blurs the spectrum by a bin to each side.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.starnet import Block as StarBlock
from torch import Tensor, nn

from gmsearch.block import Block
from gmsearch.errors import SettingsError
from gmsearch.gates import ACTIVATIONS, Gate
from gmsearch.model import GatedNet

BEFORE, ACTIVATED, PRODUCT = PLACES = (
    "before the gate",
    "after the activation",
    "after the product",
)
HIGH = 0.5  # of Nyquist: what lies beyond is high, which h·h of a lower half-band can reach
FEWEST = 7  # pixels along a side; of fewer a window leaves too little

Batches = Iterable[tuple[Tensor, Any]]


class Spectrum(NamedTuple):
    """The power of features by radius, float arrays (bins,), and the share of their energy, the
    mean left out, beyond HIGH of Nyquist.
    """

    radius: np.ndarray  # a share of Nyquist
    power: np.ndarray  # the mean over the frequencies of a bin; all frequencies add up to 1
    high: float


class RadialPower:
    """Adds up the power of feature maps of one size, over images and channels."""

    def __init__(self, *, windowed: bool = True) -> None:
        self._windowed = windowed
        self._sum: Tensor | None = None  # (H, W), of all frequencies

    def add(self, features: Tensor) -> None:
        """Features (N, C, H, W). Maps with a value that is not finite are left out."""
        maps = features.detach().flatten(0, 1).double()
        maps = maps[maps.isfinite().all((1, 2))]
        down, across = (self._window(side).to(maps.device) for side in maps.shape[1:])
        window = down[:, None] * across
        # The mean as the window sees it, so that nothing is left of it at frequency 0 or beside.
        maps = (maps - (maps * window).sum((1, 2), keepdim=True) / window.sum()) * window
        power = torch.fft.fft2(maps).abs().square().sum(0).cpu()
        self._sum = power if self._sum is None else self._sum + power

    def _window(self, side: int) -> Tensor:
        if not self._windowed:
            return torch.ones(side, dtype=torch.float64)
        return torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]

    def spectrum(self) -> Spectrum:
        """Of all that was added. Bins are one frequency wide, of the shorter side."""
        if self._sum is None:
            raise ValueError("no features were added")
        radius = nyquist_shares(*self._sum.shape)
        per_bin = min(self._sum.shape) / 2
        bins = (radius * per_bin).round().long().flatten()
        counts = torch.bincount(bins)
        energy = self._sum.sum()
        power = torch.bincount(bins, self._sum.flatten()) / counts / energy
        high = self._sum[radius > HIGH].sum() / energy
        radii = torch.arange(len(counts)) / per_bin
        return Spectrum(radii[1:].numpy(), power[1:].numpy(), high.item())


def nyquist_shares(height: int, width: int) -> Tensor:
    """The radius (height, width) of every coefficient of `fft2` as a share of Nyquist's."""
    down, across = (2 * torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    return (down[:, None].square() + across.square()).sqrt()


@dataclass
class StageSpectra:
    """What was measured of the blocks of one stage, or of one size of maps in a network of timm."""

    name: str
    side: int = 0  # pixels of its maps
    blocks: int | None = None  # None in a network of timm
    activations: set[nn.Module] = field(default_factory=set)  # whose maps they are
    places: dict[str, RadialPower] = field(default_factory=dict)

    def add(self, place: str, features: Tensor) -> None:
        if features.ndim == 4 and min(features.shape[2:]) >= FEWEST:  # not the gate of `squeeze`
            self.side = features.shape[3]
            self.places.setdefault(place, RadialPower()).add(features)

    @property
    def spectra(self) -> dict[str, Spectrum]:
        """By place, in the order of PLACES."""
        return {place: self.places[place].spectrum() for place in PLACES if place in self.places}


@torch.inference_mode()
def measure_spectra(model: nn.Module, batches: Batches, *, fresh: bool) -> list[StageSpectra]:
    """The spectra of every stage whose maps have FEWEST pixels a side, in the order of the network.

    `batches` has images as the network takes them, and is gone through twice for a `fresh` one: its
    norms get the statistics of these images first, which the first step of a training would see. In
    the place of a gate that a block does not have stands its plain activation. Raises SettingsError
    where no activation is found, or fresh norms are given a single image.
    """
    if fresh:
        settle_norms(model, batches)
    model.eval()
    with watching(model) as stages:
        for images, _ in batches:
            model(images)
    found = [stage for stage in stages if stage.places]
    if not found:
        raise SettingsError(
            f"no map of {FEWEST} px or more goes through an activation; give a higher --resolution"
        )
    return found


def settle_norms(model: nn.Module, batches: Batches) -> None:
    """Gives all norms that keep statistics the mean of those of the batches, by their images.
    Raises SettingsError for a batch of one image, of whose 1x1 maps there are no statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    for images, _ in batches:
        if len(images) < 2:
            raise SettingsError(
                "the norms of a fresh network need two images or more; give more --images"
            )
        seen += len(images)
        for norm in norms:
            norm.momentum = len(images) / seen  # together, a mean over all images
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@contextmanager
def watching(model: nn.Module) -> Iterator[list[StageSpectra]]:
    """Measures what flows through the gates and activations of a network while it runs."""
    stages: list[StageSpectra] = []
    handles: list[Any] = []
    if isinstance(model, GatedNet):
        for number, modules in enumerate(model.stages, start=1):
            stages.append(stage := StageSpectra(f"stage {number}", blocks=0))
            for block in modules.children():
                if isinstance(block, Block):
                    handles += _watch_block(block, stage)
    else:
        handles += _watch_peer(model, stages)
    try:
        yield stages
    finally:
        for handle in handles:
            handle.remove()
        for stage in stages:
            stage.name = stage.name if isinstance(model, GatedNet) else f"{stage.side} px"


def _watch_block(block: Block, stage: StageSpectra) -> list[Any]:
    """The gate of a block, wherever it sits, or else its activation."""
    stage.blocks = (stage.blocks or 0) + 1
    for gate in (block.spatial, block.expand, block.output):
        if isinstance(gate, Gate):
            return [
                gate.register_forward_pre_hook(lambda _, h: stage.add(BEFORE, h[0])),
                gate.act.register_forward_hook(lambda *call: stage.add(ACTIVATED, call[-1])),
                gate.register_forward_hook(lambda *call: stage.add(PRODUCT, call[-1])),
            ]
    return [
        block.expand.register_forward_pre_hook(lambda _, h: stage.add(BEFORE, h[0])),
        block.expand.register_forward_hook(lambda *call: stage.add(ACTIVATED, call[-1])),
    ]


def _watch_peer(model: nn.Module, stages: list[StageSpectra]) -> list[Any]:
    """The activations of a network of timm, by the size of their maps, and the products of a
    StarNet.
    """

    def stage_of(features: Tensor) -> StageSpectra:
        known = (stage for stage in stages if stage.side == features.shape[3])
        stage = next(known, None)
        if stage is None:
            stages.append(stage := StageSpectra("", side=features.shape[3]))
        return stage

    def before(activation: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].ndim == 4:
            stage = stage_of(given[0])
            stage.activations.add(activation)  # once, however often it is called
            stage.add(BEFORE, given[0])

    def after(place: str, features: Tensor) -> None:
        if features.ndim == 4:
            stage_of(features).add(place, features)

    kinds = tuple(kind for kind in ACTIVATIONS.values() if kind is not nn.Identity)
    handles = []
    for module in model.modules():
        if isinstance(module, kinds):
            # Before first: what works in place changes what it was given.
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(lambda *call: after(ACTIVATED, call[-1])))
        if isinstance(module, StarBlock):
            hook = lambda _, given: after(PRODUCT, given[0])  # noqa: E731
            handles.append(module.g.register_forward_pre_hook(hook))
    return handles
