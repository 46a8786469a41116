"""The nouns between decoding and training: Clip, Example, Batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """A decoded waveform. `waveform` is (channels, samples), float32, finite."""

    waveform: np.ndarray
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate_hz


@dataclass(frozen=True)
class Example:
    """One row of a dataset: its stable identity, where it came from, its labels and one array a column."""

    index: int
    key: str
    source_path: str
    source_digest: str
    start_seconds: float
    seconds: float
    labels: Mapping[str, object]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Stacked views of some examples, as one rank receives them.

    `index` names each example for ever, -1 in a padding row; `weight` is 1 for an example and 0 for padding, which
    appears where a batch does not divide by the ranks; `seeds` are 64 random bits for each example and view, a
    function of (seed, epoch, index, view) alone, from which all further randomness of that view is drawn.
    """

    index: Int[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    views: tuple[Float[Tensor, "batch bands frames"], ...]
    seeds: Int[Tensor, "batch views"]

    def to(self, device: torch.device | str) -> "Batch":
        views = tuple(view.to(device, non_blocking=True) for view in self.views)
        return Batch(self.index.to(device), self.weight.to(device), views, self.seeds.to(device))
