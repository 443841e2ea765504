"""Hypothesis strategies that several test files share, and a generator that runs dry."""

import numpy as np
from hypothesis import strategies as st

from gmsearch.architecture import (
    ACTIVATIONS,
    BLOCKS,
    DOWNSAMPLERS,
    FORMS,
    KERNELS,
    NUM_STAGES,
    PLACEMENTS,
    Architecture,
    Stage,
)


@st.composite
def stages(draw, activations=ACTIVATIONS):
    """A small stage; every form, placement, activation and choice of blocks may come up."""
    form = draw(st.sampled_from(tuple(FORMS)))
    placements = ("none", "expand") if form == "twin" else PLACEMENTS
    return Stage(
        width=draw(st.integers(1, 8)),
        depth=draw(st.integers(1, 2)),  # two blocks tell all, alternate and last apart
        ratio=draw(st.integers(1, 4)),
        kernel=draw(st.sampled_from(KERNELS)),
        downsampler=draw(st.sampled_from(DOWNSAMPLERS)),
        activation=draw(st.sampled_from(activations)),
        placement=draw(st.sampled_from(placements)),
        form=form,
        blocks=draw(st.sampled_from(BLOCKS)),
    )


def architectures(activations=ACTIVATIONS):
    """A small network of the family."""
    four = st.lists(stages(activations), min_size=NUM_STAGES, max_size=NUM_STAGES)
    return st.builds(
        Architecture,
        stem_width=st.integers(1, 8),
        stem_activation=st.sampled_from(activations),
        stages=four.map(tuple),
    )


class Limited(np.random.Generator):
    """A generator that runs dry, so that a loop without end is a failure and not a hang."""

    def __init__(self, seed, left=20_000):
        super().__init__(np.random.PCG64(seed))
        self.left = left

    def integers(self, *args, **kwargs):
        self.left -= 1
        assert self.left > 0, "no end to the draws"
        return super().integers(*args, **kwargs)
