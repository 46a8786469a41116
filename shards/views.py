"""What a training sees of an example: crops whose place is a pure function of (seed, epoch, index, view)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt64

from shards.order import random_bits

_CROP_STREAM, _MODEL_STREAM = 0, 1  # one for where a view lies, one for what the model draws from it


@dataclass(frozen=True)
class Views:
    """`count` crops of `frames` frames, each start uniform in the closed range [0, F - frames] (Myna, section 3)."""

    count: int = 2
    frames: int = 96

    def starts(
        self, index: Int[np.ndarray, " batch"], frames: Int[np.ndarray, " batch"], *, seed: int, epoch: int
    ) -> Int[np.ndarray, "batch views"]:
        """First frame of every view of examples that are `frames` frames long (each at least `self.frames`)."""
        bits = self._bits(index, seed, epoch, _CROP_STREAM)
        choices = (frames - self.frames + 1).astype(np.uint64)[:, None]
        return (bits % choices).astype(np.int64)  # bias below 2^-40: excerpts have fewer than 2^24 frames

    def seeds(self, index: Int[np.ndarray, " batch"], *, seed: int, epoch: int) -> Int[np.ndarray, "batch views"]:
        """64 bits for each view, from which the model draws its masks."""
        return self._bits(index, seed, epoch, _MODEL_STREAM).view(np.int64)

    def _bits(self, index: np.ndarray, seed: int, epoch: int, stream: int) -> UInt64[np.ndarray, "batch views"]:
        return random_bits(seed, epoch, stream, index[:, None], np.arange(self.count)[None, :])
