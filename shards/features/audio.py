"""The sound itself as FLAC of 16 bits, for listening and for features computed later; mono, `audio:24000` resampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from shards.decode import decode, flac_bytes
from shards.example import Clip
from shards.problem import UsageProblem

_MOST_BEYOND = 0.1


@dataclass(frozen=True)
class Audio:
    """Rate in Hz, or None: every clip at its own. Its members are whole FLAC files."""

    sample_rate_hz: int | None = None
    suffix: str = "flac"

    @property
    def column(self) -> str:
        return "audio" if self.sample_rate_hz is None else f"audio-{self.sample_rate_hz}"

    @property
    def word(self) -> str:
        return self.column.replace("-", ":")

    @property
    def contract(self) -> Mapping[str, object]:
        """Amplitudes beyond full scale are cut off, not the clip scaled: its level, and sums of clips, stay true."""
        return {
            "feature": "audio",
            "sample_rate_hz": self.sample_rate_hz,
            "channels": "mean",
            "array": "(samples)",
            "stored": "FLAC of 16 bits",
            "beyond_full_scale": "cut off",
            "dtype": "int16",
            "absolute_error": 2.0**-16,
        }

    def frames(self, samples: int) -> int:
        return samples

    def __call__(self, clips: Sequence[Clip]) -> list[bytes]:
        """One FLAC file a clip. Raises ValueError for an empty clip, and where a tenth would be cut off."""
        return [self._one(clip) for clip in clips]

    def restore(self, stored: Tensor) -> Tensor:
        """Decoded amplitudes are in their units already."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """The clip, decoded."""
        assert isinstance(stored, bytes)
        return decode(stored)

    def _one(self, clip: Clip) -> bytes:
        assert self.sample_rate_hz in (None, clip.sample_rate_hz) and len(clip.waveform) == 1
        if not clip.waveform.size:
            raise ValueError("it has no sample")
        if not _flac_holds(clip.sample_rate_hz):
            raise ValueError(f"a FLAC file cannot have a rate of {clip.sample_rate_hz:,} Hz")
        beyond = float(np.mean(np.abs(clip.waveform) > 1))
        if beyond > _MOST_BEYOND:
            raise ValueError(f"it is too loud for 16 bits: {beyond:.0%} of its amplitudes are beyond full scale")
        return flac_bytes(clip)


def _flac_holds(rate_hz: int) -> bool:
    """Its frame headers spell a rate in Hz up to 16 bits, then in tens of Hz."""
    return 0 < rate_hz < 1 << 16 or (rate_hz % 10 == 0 and 0 < rate_hz < 10 << 16)


def load(contract: str, weights: str | None = None) -> Audio:
    """Empty, or a rate in Hz. Raises UsageProblem for anything else, and for weights."""
    if weights is not None:
        raise UsageProblem(f"Sound has no weights, so '@{weights}' means nothing. Nothing was stored; pass audio")
    if not contract:
        return Audio()
    if not (contract.isascii() and contract.isdigit() and _flac_holds(int(contract))):
        raise UsageProblem(
            f"audio:{contract} is no rate of a FLAC file, so no sound can be stored. Give it in whole Hz, as in "
            "audio:24000, or write audio alone for the clips' own rates."
        )
    return Audio(int(contract))
