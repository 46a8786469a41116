"""Power mel spectrograms; `mel` alone means the contract `mel:myna`.

Stored as float16 of the square root of the power, frame by frame: power overflows float16 at a peak of 1.65, its root
never does, and squaring on load costs a relative error of at most 2^-10 in the normal range of float16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from shards.example import Clip
from shards.problem import UsageProblem
from shards.spectrum import mel_basis, power_mel
from shards.words import nearest


@dataclass(frozen=True)
class Mel:
    """Parameters of a mel spectrogram; rates in Hz, windows and hops in samples of that rate."""

    sample_rate_hz: int = 16_000
    fft_samples: int = 2048
    hop_samples: int = 512
    bands: int = 128
    low_hz: float = 0.0
    high_hz: float = 8_000.0
    name: str = "myna"
    column: str = "mel"

    @property
    def word(self) -> str:
        return f"mel:{self.name}"

    @property
    def contract(self) -> Mapping[str, object]:
        parameters = {name: value for name, value in asdict(self).items() if name not in ("name", "column")}
        return {
            "feature": "mel",
            **parameters,
            "window": "hann, periodic",
            "centre": "reflect",
            "power": 2.0,
            "mel_scale": "slaney",
            "norm": "slaney",
            "channels": "mean",
            "array": "(bands, frames), frame-major",
            "stored": "sqrt(power)",
            "dtype": "float16",
            "relative_error": 2.0**-10,
        }

    def frames(self, samples: int) -> int:
        return 1 + samples // self.hop_samples

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (bands, frames), float16 of sqrt(power), frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip no longer than half a window, which cannot be padded by reflection.
        """
        return [self._one(clip) for clip in clips]

    def restore(self, stored: Tensor) -> Tensor:
        """sqrt(power), float16 -> power, float32."""
        return stored.float().square_()

    def _one(self, clip: Clip) -> np.ndarray:
        assert clip.sample_rate_hz == self.sample_rate_hz and clip.waveform.shape[0] == 1
        if clip.waveform.shape[1] <= self.fft_samples // 2:
            raise ValueError(f"it is too short for a mel: no longer than half a window of {self.fft_samples} samples")
        basis = mel_basis(
            sample_rate_hz=self.sample_rate_hz,
            fft_samples=self.fft_samples,
            bands=self.bands,
            low_hz=self.low_hz,
            high_hz=self.high_hz,
        )
        power = power_mel(
            torch.from_numpy(clip.waveform), basis, fft_samples=self.fft_samples, hop_samples=self.hop_samples
        )
        return power[0].sqrt_().half().numpy().T


MYNA = Mel()  # Myna's published preprocessing, see the README's table of contracts
_CONTRACTS = {"myna": MYNA}


def load(contract: str) -> Mel:
    """The mel of that contract; an empty word is `myna`."""
    try:
        return _CONTRACTS[contract or "myna"]
    except KeyError:
        raise UsageProblem(
            f"mel has no contract '{contract}', so no spectrogram can be computed. {nearest(contract, _CONTRACTS)}"
        ) from None
