"""Samples as an array that can be cut: for trainings that change the sound and compute their mel after it.

`waveform` is of 16 kHz, as Myna's mel takes it; `waveform:24000` of another rate. An `audio` column is a quarter of its
size, but whoever wants three seconds of a FLAC file decodes all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.example import Clip
from shards.problem import UsageProblem

RATE_HZ = 16_000
_FULL_SCALE = 1 << 15
_MOST_BEYOND = 0.1
_HIGHEST_RATE_HZ = 384_000


@dataclass(frozen=True)
class Waveform:
    """Mono amplitudes as whole numbers of 16 bits, at one rate in Hz."""

    sample_rate_hz: int = RATE_HZ
    suffix: str = "npy"

    @property
    def column(self) -> str:
        return "waveform" if self.sample_rate_hz == RATE_HZ else f"waveform-{self.sample_rate_hz}"

    @property
    def word(self) -> str:
        return self.column.replace("-", ":")

    @property
    def contract(self) -> Mapping[str, object]:
        return {
            "feature": "waveform",
            "sample_rate_hz": self.sample_rate_hz,
            "bands": 1,
            "channels": "mean",
            "array": "(1, samples)",
            "stored": "round(32768 amplitude)",
            "beyond_full_scale": "cut off",
            "dtype": "int16",
            "absolute_error": 2.0**-16,
        }

    def frames(self, samples: int) -> int:
        return samples

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (1, samples), int16. Raises ValueError for an empty clip, and where a tenth would be cut off."""
        return [self._one(clip) for clip in clips]

    def restore(self, stored: Tensor) -> Tensor:
        """Whole numbers -> amplitudes in [-1, 1)."""
        return stored.float().div_(_FULL_SCALE)

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """The clip."""
        assert isinstance(stored, np.ndarray)
        return Clip(self.restore(torch.from_numpy(np.array(stored))).numpy(), self.sample_rate_hz)

    def _one(self, clip: Clip) -> np.ndarray:
        assert clip.sample_rate_hz == self.sample_rate_hz and len(clip.waveform) == 1
        if not clip.waveform.size:
            raise ValueError("it has no sample")
        beyond = float(np.mean(np.abs(clip.waveform) > 1))
        if beyond > _MOST_BEYOND:
            raise ValueError(f"it is too loud for 16 bits: {beyond:.0%} of its amplitudes are beyond full scale")
        return np.rint(clip.waveform * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def load(contract: str, weights: str | None = None) -> Waveform:
    """Empty, or a rate in Hz. Raises UsageProblem for anything else, and for weights."""
    if weights is not None:
        raise UsageProblem(f"Sound has no weights, so '@{weights}' means nothing. Nothing was stored; pass waveform")
    if not contract:
        return Waveform()
    if not (contract.isascii() and contract.isdigit() and 0 < int(contract) <= _HIGHEST_RATE_HZ):
        raise UsageProblem(
            f"waveform:{contract} is no rate, so no sound can be stored. Give it in whole Hz, as in waveform:24000, or "
            f"write waveform alone for {RATE_HZ:,}."
        )
    return Waveform(int(contract))
