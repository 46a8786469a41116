"""Latents of the linear codec as a column; it is fitted on the corpus that it encodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from shards.codecs import linear
from shards.codecs.codec import hops
from shards.codecs.klt import Moments, write_fit
from shards.codecs.linear import HOP_SAMPLES, SAMPLE_RATE_HZ, Fit, Kind, LinearCodec
from shards.codecs.storage import HALF_ERROR, decoded, mono, stated, stored
from shards.example import Clip
from shards.problem import UsageProblem


@dataclass(frozen=True)
class LinearLatents:
    """Latents of the linear codec, which is fitted on the corpus that it encodes."""

    name: str = "linear"
    kind: Kind = "low96+klt32"
    compand: float = 1.0
    fit: Fit | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ
    suffix: str = "npy"
    most_clips: int = 8192  # more of them move the axes by less than another seed does

    @property
    def column(self) -> str:
        return f"codec-{self.name}"

    @property
    def word(self) -> str:
        return f"codec:{self.name}"

    @property
    def contract(self) -> Mapping[str, object]:
        weights = None
        if self.fit:
            source = f"fitted on {self.fit.clips} clips, {self.fit.frames} frames"
            weights = {"sha256": self.opened().fingerprint(), "source": source}
        return stated(self.name, self.sample_rate_hz, HOP_SAMPLES, linear_parameters(self.kind, self.compand), weights)

    @property
    def hop_samples(self) -> int:
        return HOP_SAMPLES

    @property
    def is_fitted(self) -> bool:
        return self.fit is not None

    def frames(self, samples: int) -> int:
        return hops(samples, HOP_SAMPLES)

    def to(self, device: str) -> "LinearLatents":
        """Itself: reading a clip takes longer than this on any device."""
        return self

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (dim, frames), float16, frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip beyond float16, and UsageProblem before the codec is fitted.
        """
        return stored(self.opened(), clips)

    def restore(self, stored: Tensor) -> Tensor:
        """Latents, float16 -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """The adjoint's sound; None before the codec is fitted."""
        return decoded(self.opened(), stored) if self.fit else None

    def moments(self, clips: Sequence[Clip]) -> Moments:
        """What some clips contribute to the fit; one clip after the other."""
        return linear.moments((mono(clip, self.sample_rate_hz) for clip in clips), self.kind)

    def fitted(self, parts: Iterable[Moments]) -> "LinearLatents":
        """The open feature. Raises DataProblem when all clips are silent."""
        return replace(self, fit=linear.fitted(parts, self.kind))

    def with_fit(self, path: Path) -> "LinearLatents":
        """The open feature, by what was saved. Raises DataProblem or UsageProblem when that is no such fit."""
        fit = linear.open_fit(path)
        if fit.kind != self.kind:
            raise UsageProblem(
                f"{path} is a fit of kind {fit.kind}, and {self.word} is {self.kind}, so it does not serve here. Pass "
                "one that a build with that word wrote."
            )
        return replace(self, fit=fit)

    def save(self, path: Path) -> None:
        """Write the fit; `codec:linear@FILE.npz` opens it."""
        self.opened()
        write_fit(path, self.fit)

    def opened(self) -> LinearCodec:
        """The codec itself. Raises UsageProblem before it is fitted."""
        if self.fit is None:
            raise UsageProblem(
                f"{self.word} is not fitted yet, so nothing can be encoded or decoded. A build fits it on its training "
                f"split; or pass such a fit, {self.word}@FILE.npz, or take codec:low128, which needs none."
            )
        return LinearCodec(self.kind, self.fit, self.compand)


def linear_parameters(kind: Kind, compand: float) -> dict[str, object]:
    """What a contract says of the codec."""
    return {"kind": kind, "compand": compand, "stored": "latents", "dtype": "float16", **HALF_ERROR}
