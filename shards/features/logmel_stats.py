"""Mean, deviation and mean absolute delta over time of each band of the log mel: a feature for trying things out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.example import Clip
from shards.features.mel import MYNA
from shards.problem import UsageProblem
from shards.spectrum import one_core_each

_FLOOR = 1e-6  # far above float32's rounding beside the loudest music, far below a band that is heard


@dataclass(frozen=True)
class LogMelStatistics:
    """One column of numbers a clip: of 128 bands first the means, then the deviations, then the deltas."""

    sample_rate_hz: int = MYNA.sample_rate_hz
    column: str = "logmel_stats"
    suffix: str = "npy"

    @property
    def word(self) -> str:
        return "logmel_stats"

    @property
    def contract(self) -> Mapping[str, object]:
        return {
            "feature": "logmel_stats",
            "sample_rate_hz": self.sample_rate_hz,
            "mel": {name: value for name, value in MYNA.contract.items() if name not in _STORAGE},
            "log": f"ln(power + {_FLOOR})",
            "statistics": ["mean", "deviation", "mean absolute delta"],
            "width": 3 * MYNA.bands,
            "array": "(width, 1)",
            "stored": "statistics",
            "dtype": "float32",
            "absolute_error": 2.0**-8,
        }

    def frames(self, samples: int) -> int:
        return 1

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (384, 1), float32. Raises ValueError for a clip no longer than half a window of the mel."""
        return one_core_each(self._one, clips)

    def restore(self, stored: Tensor) -> Tensor:
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """None: what happened when is gone."""
        return None

    def _one(self, clip: Clip) -> np.ndarray:
        assert clip.sample_rate_hz == self.sample_rate_hz and len(clip.waveform) == 1
        bands = MYNA.power(torch.from_numpy(clip.waveform))[0].add_(_FLOOR).log_()
        change = bands.diff(dim=0).abs_()
        return torch.cat([bands.mean(dim=0), bands.std(dim=0, correction=0), change.mean(dim=0)])[:, None].numpy()


_STORAGE = ("array", "stored", "dtype", "relative_error")  # of the mel, which is not stored here
_STATISTICS = LogMelStatistics()


def load(contract: str, weights: str | None = None) -> LogMelStatistics:
    """The one contract there is. Raises UsageProblem for any other, and for weights."""
    if contract or weights:
        raise UsageProblem("logmel_stats has neither contracts nor weights: nothing was computed. Pass logmel_stats")
    return _STATISTICS
