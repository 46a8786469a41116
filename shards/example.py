"""The nouns between decoding and training: Clip, Example, Batch."""

from collections.abc import Callable, Mapping, Sequence
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
    arrays: Mapping[str, np.ndarray | bytes] = field(default_factory=dict)
    """By column; bytes where its members are no .npy files."""
    events: Mapping[str, Sequence[tuple[float, float, object]]] = field(default_factory=dict)
    """By name: start and end in seconds from the example's begin, and what holds between; in order of their start."""
    clipped_share: float = 0.0
    """How many of the source's samples stand at full scale, from 0 to 1: there it was probably cut off."""


@dataclass(frozen=True)
class Batch:
    """Stacked views of some examples, as one rank receives them.

    `index` names each example for ever, -1 in a padding row; `weight` is 1 for an example and 0 for padding, which
    appears where a batch does not divide by the ranks; `seeds` are 64 random bits for each example and view, a
    function of (seed, epoch, index, view) alone, from which all further randomness of that view is drawn.

    A loader gives `views` as they are stored, often in half precision; `to` brings them where the model is and into
    the feature's own units, float32, so that only what is stored travels.
    """

    index: Int[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    views: tuple[Float[Tensor, "batch bands frames"], ...]
    seeds: Int[Tensor, "batch views"]
    restore: Callable[[Tensor], Tensor] | None = None
    """Stored values -> the feature's own units; None where `views` are in these."""
    columns: Mapping[str, "Batch"] = field(default_factory=dict)
    """The same examples in the dataset's other columns, by name."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on `device`, its views restored. From page-locked memory the copy goes on beside the caller."""
        index, weight, seeds = (part.to(device) for part in (self.index, self.weight, self.seeds))
        views = tuple(view.to(device, non_blocking=view.is_pinned()) for view in self.views)
        restored = tuple(self.restore(view) for view in views) if self.restore else views
        columns = {name: column.to(device) for name, column in self.columns.items()}
        return Batch(index, weight, restored, seeds, columns=columns)
