"""What a process that trains sets up first."""

import ctypes

import torch

# Of malloc.h. A block up to this size comes from the heap, which may keep so much at its end.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK, LARGEST_REST = 32 << 20, (1 << 31) - 1  # the most that glibc takes


def prepare(threads: int) -> None:
    """Gives torch so many threads, and has memory that one step frees kept for the next.

    Otherwise glibc hands the features of a step back to the system, which has to clear each page
    anew in the next; the most memory that the process ever has is the same. Where the C library is
    another, its own way stays.
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, LARGEST_REST)
