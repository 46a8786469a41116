"""The noun Feature: a frozen function from Clips to arrays, with the contract that a model is trained on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from shards.example import Clip
from shards.store import canonical_json, digest_of
from shards.words import module_named

_SAID_OF_A_COLUMN = ("word", "member", "fingerprint")  # what a manifest adds to a contract


@runtime_checkable
class Feature(Protocol):
    """What a file in `shards/features/` builds.

    One whose weights were not given is closed: it knows its frames, restores what is stored and names its column, but
    raises UsageProblem when it is to compute.
    """

    sample_rate_hz: int | None
    """Rate of the clips it takes; None takes each at its own."""
    column: str
    """Folder and member name of its arrays: `mel` gives mel/000000.tar with 000000000.mel.npy."""
    suffix: str
    """Of its members: `npy`, or what else the bytes are that it returns."""

    @property
    def word(self) -> str:
        """What loads it again on a command line, without weights: `mel:myna`."""

    @property
    def contract(self) -> Mapping[str, object]:
        """All that decides the numbers, in JSON types: parameters, dtype, what is stored, its error bound.

        `weights` holds their digest and source; a closed feature has no such entry.
        """

    def frames(self, samples: int) -> int:
        """Frames of a clip of so many samples, without running."""

    def __call__(self, clips: Sequence[Clip]) -> Sequence[np.ndarray | bytes]:
        """One array a clip, in the stored dtype. Raises ValueError for a clip of which none can be made."""

    def restore(self, stored: Tensor) -> Tensor:
        """Stored values -> the feature's own units, float32."""

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """What was stored as sound, or None where nothing audible can be made of it."""


@runtime_checkable
class Fitted(Protocol):
    """A Feature whose weights are fitted on the training split of the corpus it is built for, before anything else."""

    is_fitted: bool
    most_clips: int
    """How many the fit takes; more would hardly move it."""

    def moments(self, clips: Sequence[Clip]) -> Any:
        """What some clips contribute: plain arrays and numbers that workers can send."""

    def fitted(self, parts: Iterable[Any]) -> Any:
        """The open feature, from all contributions in the order of the plan."""

    def with_fit(self, path: Path) -> Any:
        """The open feature, by what one of its kind has saved. Raises DataProblem when that is none."""

    def save(self, path: Path) -> None:
        """Write the weights of an open one, whole or not at all."""


def load_feature(word: str, *, accept_licence: str = "") -> Feature:
    """`mel`, `mel:myna` or `codec:encodec_24khz@WEIGHTS` (a folder, a file or a hub id) -> the Feature.

    `accept_licence` names the licence of weights that exclude commercial use. Raises UsageProblem for an unknown module
    or contract, for weights that are not there, and for a licence that is not agreed to.
    """
    named, _, weights = word.partition("@")
    module, _, contract = named.partition(":")
    load = module_named("shards.features", module).load
    agreed = {"accept_licence": accept_licence} if "accept_licence" in signature(load).parameters else {}
    return load(contract, weights or None, **agreed)


def described(feature: Feature) -> dict[str, object]:
    """The manifest's entry of a column: the contract, the word that loads it, its members' suffix, the fingerprint."""
    return {"word": feature.word, "member": feature.suffix, "fingerprint": fingerprint(feature), **feature.contract}


def fingerprint(feature: Feature) -> str:
    """Digest of the contract: two columns of equal fingerprint hold the same function of their clips."""
    return digest_of(_deciding(feature.contract))


def differences(feature: Feature, column: Mapping[str, object]) -> list[str]:
    """Names of what differs between a feature and the manifest's entry of a column; weights only where both have them.

    Reading and restoring a column takes no weights, so that a closed feature agrees with every column of its contract.
    """
    here = json.loads(canonical_json(_deciding(feature.contract)))
    there = _deciding({name: value for name, value in column.items() if name not in _SAID_OF_A_COLUMN})
    both_open = "weights" in here and "weights" in there
    names = (here.keys() | there.keys()) - (set() if both_open else {"weights"})
    differing = {name for name in names if here.get(name) != there.get(name)}
    return sorted(differing | ({"fingerprint"} if digest_of(there) != column["fingerprint"] else set()))


def _deciding(contract: Mapping[str, object]) -> dict[str, object]:
    """A contract without what decides no number: where its weights came from, and their licence."""
    weights = contract.get("weights")
    if not isinstance(weights, Mapping):
        return dict(contract)
    return {**contract, "weights": {"sha256": weights["sha256"]} if "sha256" in weights else dict(weights)}
