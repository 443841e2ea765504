"""`bands`: a data set made in memory from a seed, on which light networks differ.

Each image shows one of four shapes, a soft blob of low frequencies, filled with one of three
textures, fine stripes or checks of high frequency. The class is the pair of the two, so neither
band alone tells it: who sees only the shape is right one time in three, who sees only the texture
one time in four. Position, size, turn, colours, contrast and phase are random; soft clouds and
patches of other textures lie about as clutter, and noise lies over all.

What is reached on minival (12 classes, so chance is 8 %; seeds 0 and 1, `benchmarks/bands.py`):
ridge regression on the pixels 17 and 18 %; GmNet at 300M MACs with the identity for its activation
32 and 23 % after the 6 epochs of a search trial; GmNet itself 64 and 64 %.
"""

import numpy as np

from gmsearch.data.records import Dataset, Split

SHAPES = ("disc", "ring", "bar", "cross")
TEXTURES = ("upright", "level", "checks")
CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

NUM_TRAIN = 1000
NUM_MINIVAL = 500
NUM_VAL = 2000
PERIOD = 3.0  # pixels from stripe to stripe, at any resolution
NOISE = 0.05
HEADROOM = 0.25  # of the resolution: crops of training move by up to an eighth to either side


def make_bands(resolution: int, seed: int) -> Dataset:
    """The data of a search: `train` and `minival`, all classes equally often."""
    return Dataset(
        name="bands",
        classes=CLASSES,
        resolution=resolution,
        train=_make_split(NUM_TRAIN, resolution, [seed, 0]),
        minival=_make_split(NUM_MINIVAL, resolution, [seed, 1]),
    )


def make_bands_val(resolution: int, seed: int) -> Split:
    """The held-out split, which no search sees."""
    return _make_split(NUM_VAL, resolution, [seed, 2])


def _make_split(count: int, resolution: int, seed: list[int]) -> Split:
    """Images of `resolution` px, with their mirrored borders around them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    around = round(HEADROOM * resolution / 2)
    images = np.stack(
        [
            np.pad(
                _draw(int(label), resolution, rng),
                ((around, around), (around, around), (0, 0)),
                mode="reflect",
            )
            for label in labels
        ]
    )
    return Split.of(images, labels.astype(np.int64))


def _draw(label: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 (side, side, 3)."""
    shape, texture = divmod(label, len(TEXTURES))
    y, x = np.mgrid[:side, :side].astype(np.float32)

    mask = _shape(SHAPES[shape], x, y, side, rng)
    clutter = np.zeros_like(mask)
    for _ in range(2):
        other = TEXTURES[rng.integers(len(TEXTURES))]
        patch = _blob(x, y, side, radius=rng.uniform(0.06, 0.12), rng=rng)
        clutter += patch * (1 - mask) * _texture(other, x, y, rng)
    fine = mask * _texture(TEXTURES[texture], x, y, rng) + clutter

    ground, figure = rng.uniform(0.25, 0.75, (2, 3)).astype(np.float32)
    figure = np.where(np.abs(figure - ground) < 0.15, 1 - ground, figure)
    image = ground + (figure - ground) * mask[..., None]
    image = image + 0.12 * _clouds(side, rng)[..., None]
    image = image + rng.uniform(0.12, 0.2) * fine[..., None]
    image = image + NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)


def _shape(
    name: str, x: np.ndarray, y: np.ndarray, side: int, rng: np.random.Generator
) -> np.ndarray:
    """A soft mask in [0, 1] of a shape of random position, size and turn."""
    radius = side * rng.uniform(0.26, 0.36)
    cx, cy = rng.uniform(0.4, 0.6, 2) * side
    turn = rng.uniform(0, np.pi)
    u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / radius
    v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / radius
    r = np.hypot(u, v)
    edge = {
        "disc": 0.8 - r,
        "ring": 0.27 - np.abs(r - 0.8),
        "bar": np.minimum(0.36 - np.abs(u), 1.15 - np.abs(v)),
        "cross": np.maximum(
            np.minimum(0.27 - np.abs(u), 1.05 - np.abs(v)),
            np.minimum(0.27 - np.abs(v), 1.05 - np.abs(u)),
        ),
    }[name]
    return _soft(edge * radius)


def _blob(
    x: np.ndarray, y: np.ndarray, side: int, radius: float, rng: np.random.Generator
) -> np.ndarray:
    cx, cy = rng.uniform(0, side, 2)
    return _soft(radius * side - np.hypot(x - cx, y - cy))


def _soft(edge: np.ndarray) -> np.ndarray:
    """1 well inside an edge, 0 well outside it, over a width of about two pixels."""
    return 1 / (1 + np.exp(-np.clip(2 * edge, -30, 30)))


def _texture(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture in [-1, 1] of random phase; each looks the same in a mirror."""
    phase_x, phase_y = rng.uniform(0, 2 * np.pi, 2)
    upright = np.cos(2 * np.pi / PERIOD * x + phase_x)
    level = np.cos(2 * np.pi / PERIOD * y + phase_y)
    return {"upright": upright, "level": level, "checks": upright * level}[name]


def _clouds(side: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field of unit size: a few waves longer than a third of the side."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    field = np.zeros((side, side), np.float32)
    for _ in range(4):
        kx, ky = rng.uniform(-3, 3, 2)
        field += np.cos(2 * np.pi * (kx * x + ky * y) + rng.uniform(0, 2 * np.pi))
    return field / 2
