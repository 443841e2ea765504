"""Processes that decode images, into memory that they share with the one that packs."""

import contextlib
import mmap
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from gmsearch.data.decoding import reason_of, side_for, to_square
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError

AT_ONCE = 16  # images that a process takes at a time


class Decoders:
    """Processes that decode into memory that they share with this one."""

    def __init__(self, pool: ProcessPoolExecutor, images: np.ndarray) -> None:
        self._pool = pool
        self._images = images

    def decode(self, members: Sequence[Member]) -> tuple[np.ndarray, Iterator[str | None]]:
        """The memory, uint8 (N, side, side, 3), and for each image, once it is there, why it is
        not.
        """
        count = len(members)
        answers = self._pool.map(_decode, members, range(count), chunksize=AT_ONCE)
        return self._images[:count], answers


@contextlib.contextmanager
def decoders(source: Source, resolution: int, most: int, workers: int | None) -> Iterator[Decoders]:
    """Starts the processes, by a fork: they inherit the source, and memory for `most` images."""
    side = side_for(resolution)
    memory = mmap.mmap(-1, most * side**2 * 3)
    images = np.frombuffer(memory, np.uint8).reshape(most, side, side, 3)
    with ProcessPoolExecutor(
        workers or len(os.sched_getaffinity(0)),
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start_decoder,
        initargs=(source, resolution, images),
    ) as pool:
        try:
            yield Decoders(pool, images)
        except BrokenProcessPool:
            raise DataError(
                f"{source.name}: a process that decoded died, perhaps for want of memory; "
                "say the same again to go on, with fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_inherited: tuple[
    Source, int, np.ndarray
]  # in a process that decodes: what it decodes, and where to


def _start_decoder(source: Source, resolution: int, images: np.ndarray) -> None:
    global _inherited
    _inherited = source, resolution, images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that packs
    warnings.simplefilter("ignore")  # of Pillow, of images that are large or odd
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this process when the one that packs is killed, which else it would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _decode(member: Member, place: int) -> str | None:
    """Decodes one image, or says why it cannot be."""
    source, resolution, images = _inherited
    try:
        images[place] = to_square(source.read(member), resolution, images.shape[1])
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken file makes of the decoder
        return reason_of(error)
    return None
