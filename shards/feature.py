"""The noun Feature: a frozen function from Clips to arrays, with the contract that a model is trained on."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from shards.example import Clip
from shards.store import digest_of
from shards.words import module_named


@runtime_checkable
class Feature(Protocol):
    """What a file in `shards/features/` builds."""

    sample_rate_hz: int
    column: str
    """Folder and member name of its arrays: `mel` gives mel/000000.tar with 000000000.mel.npy."""

    @property
    def word(self) -> str:
        """What loads it again on a command line: `mel:myna`."""

    @property
    def contract(self) -> Mapping[str, object]:
        """All that decides the numbers, in JSON types: parameters, dtype, what is stored, its error bound."""

    def frames(self, samples: int) -> int:
        """Frames of a clip of so many samples, without running."""

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """One array a clip, in the stored dtype. Raises ValueError for a clip of which none can be made."""

    def restore(self, stored: Tensor) -> Tensor:
        """Stored values -> the feature's own units, float32."""


def load_feature(word: str) -> Feature:
    """`mel` or `mel:myna` -> the Feature. Raises UsageProblem for an unknown module or contract."""
    module, _, contract = word.partition(":")
    return module_named("shards.features", module).load(contract)


def described(feature: Feature) -> dict[str, object]:
    """The manifest's entry of a column: the contract, the word that loads it, and the fingerprint."""
    return {"word": feature.word, "fingerprint": fingerprint(feature), **feature.contract}


def fingerprint(feature: Feature) -> str:
    """Digest of the contract: two columns of equal fingerprint hold the same function of their clips."""
    return digest_of(dict(feature.contract))
