"""The split of full-size images by frequency: how exact, where their energy lies, how fast.

    python benchmarks/frequency.py FOLDER [--resolution 224]

Images are cut and normalised as networks see them. Speed is that of `split` for one radius on one
core, in batches of 50, the median and range of seven rounds.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from gmsearch.augment import normalise
from gmsearch.data.decoding import side_for, to_square
from gmsearch.frequency import energy_shares, split
from gmsearch.radii import PUBLISHED, bins

ROUNDS = 7
SUFFIXES = (".jpeg", ".jpg", ".png")


def images_of(folder: Path, resolution: int) -> torch.Tensor:
    """The centres of all images of a folder, normalised."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    side = side_for(resolution)
    corner = (side - resolution) // 2
    inner = slice(corner, corner + resolution)
    squares = [to_square(file.read_bytes(), resolution, side)[inner, inner] for file in files]
    return normalise(torch.from_numpy(np.stack(squares))).contiguous()


def complement(images: torch.Tensor, radius: float) -> torch.Tensor:
    """The high part by a mask of its own, in float64 with NumPy."""
    height, width = images.shape[-2:]
    y, x = (np.fft.fftfreq(n) * n for n in (height, width))
    outside = np.hypot(y[:, None], x[None]) > radius
    return torch.from_numpy(np.fft.ifft2(np.fft.fft2(images.double().numpy()) * outside).real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, default=224)
    said = parser.parse_args()
    torch.set_num_threads(1)
    images = images_of(said.folder, said.resolution)
    shares = energy_shares(images, PUBLISHED)
    print(f"{len(images)} images of {said.resolution} px; largest value {images.abs().max():.2f}")
    print("radius    bins   |low + high - image|   |high - complement|   energy in the low part, %")
    for radius in PUBLISHED:
        own = bins(radius, said.resolution)
        low, high = split(images, own)
        error = (low + high - images).abs().max()
        other = (high - complement(images, own)).abs().max()
        share = 100 * shares[radius]
        low_end, middle, high_end = share.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        print(
            f"{radius:6g} {own:7.2f} {error:22.1e} {other:21.1e}   "
            f"{middle:.1f} ({low_end:.1f}-{high_end:.1f})"
        )
    rates = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        began = time.process_time()
        split(images, bins(PUBLISHED[0], said.resolution))
        rates.append(len(images) / (time.process_time() - began))
    middle, ends = statistics.median(rates[1:]), (min(rates[1:]), max(rates[1:]))
    print(f"{middle:,.0f} images/s ({ends[0]:,.0f}-{ends[1]:,.0f}) on one core, by its own time")


if __name__ == "__main__":
    main()
