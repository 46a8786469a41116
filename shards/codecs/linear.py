"""The linear codec: 128 numbers for each 320 samples, in closed form, whose exact adjoint decodes.

Latents are MDCT coefficients: the lowest as they are, what lies above projected on the axes along which the sound of a
corpus varies most. Mixing is linear, `encode(mean) = mean(encode)`, unless `compand` is below 1. Without a corpus there
is `low128`, the sound below 4.8 kHz, and `full320`, which loses nothing. Precision is that of the waveform.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shards.codecs import klt
from shards.codecs.codec import cut, hops
from shards.codecs.klt import Moments
from shards.codecs.mdct import inverse_mdct, mdct

SAMPLE_RATE_HZ, HOP_SAMPLES = 24_000, 320
Kind = Literal["low96+klt32", "low128", "klt128", "full320"]
KINDS: dict[str, tuple[int, int]] = {  # bands kept as they are, axes fitted to the rest
    "low96+klt32": (96, 32),
    "low128": (128, 0),
    "klt128": (0, 128),
    "full320": (320, 0),
}
_NO_SOUND = "Fit it on a corpus with sound, or take codec:low128, which needs no fit."
_NO_FIT = "Pass the .npz that a build with codec:linear wrote, or take codec:low128, which needs no fit."


@dataclass(frozen=True, eq=False)
class Fit:
    """What was learnt from a corpus, of what kind: the fields of `klt.Axes`."""

    kind: Kind
    axes: np.ndarray
    eigenvalues: np.ndarray
    frames: int
    clips: int
    silent: int
    digest: str


@dataclass(frozen=True, eq=False)
class LinearCodec:
    """A LatentCodec without weights, or with the ones of a fit, whose kind it then has."""

    kind: Kind = "low128"
    fit: Fit | None = None
    compand: float = 1.0
    """Exponent on the size of each latent number; 0.6 makes them less heavy-tailed, and mixing no longer linear."""
    name: str = "linear"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    hop_samples: int = HOP_SAMPLES

    def __post_init__(self) -> None:
        assert (self.fit.kind if self.fit else None) == (self.kind if KINDS[self.kind][1] else None)

    @property
    def dim(self) -> int:
        return sum(KINDS[self.kind])

    def frames(self, samples: int) -> int:
        return hops(samples, self.hop_samples)

    def encode(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        bands = mdct(waveform, self.hop_samples)
        kept = KINDS[self.kind][0]
        latents = bands[:, :kept]
        if self.fit:
            latents = torch.cat([latents, self._axes(bands).mT @ bands[:, kept:]], dim=1)
        return _signed_power(latents, self.compand)

    def decode(
        self, latents: Float[Tensor, "batch dim frames"], samples: int | None = None
    ) -> Float[Tensor, "batch samples"]:
        latents = _signed_power(latents, 1 / self.compand)
        kept = KINDS[self.kind][0]
        above = self._axes(latents) @ latents[:, kept:] if self.fit else latents[:, :0]
        bands = torch.cat([latents[:, :kept], above], dim=1)
        missing = self.hop_samples - bands.shape[1]
        waveform = inverse_mdct(torch.nn.functional.pad(bands, (0, 0, 0, missing)))
        return waveform if samples is None else cut(waveform, samples, hop_samples=self.hop_samples)

    def fingerprint(self) -> str:
        """SHA-256 of kind, exponent and axes."""
        digest = hashlib.sha256(f"{self.kind} {self.compand}".encode())
        digest.update(self.fit.axes.astype("<f4").tobytes() if self.fit else b"")
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "LinearCodec":
        """Itself: it computes where the waveform is."""
        return self

    def _axes(self, like: Tensor) -> Float[Tensor, "bands axes"]:
        assert self.fit is not None
        return torch.from_numpy(self.fit.axes).to(like)


def moments(waveforms: Iterable[np.ndarray], kind: Kind) -> Moments:
    """One part of a fit, from mono waveforms at SAMPLE_RATE_HZ, each at an RMS of 1."""
    kept = KINDS[kind][0]
    return klt.moments(waveforms, lambda exact, rms: mdct(exact[None] / rms, HOP_SAMPLES)[0, kept:], HOP_SAMPLES - kept)


def fitted(parts: Iterable[Moments], kind: Kind) -> Fit:
    """The axes that keep most of the energy above the kept bands, as `klt.fitted_axes` finds them.

    Bands have no mean to take off, and an offset would end linearity. Raises DataProblem when all clips are silent.
    """
    kept, count = KINDS[kind]
    return Fit(kind, **vars(klt.fitted_axes(parts, HOP_SAMPLES - kept, count, remedy=_NO_SOUND)))


def open_fit(path: Path) -> Fit:
    """A fit that was saved. Raises DataProblem when the file is absent or is no such fit."""
    return klt.read_fit(path, _checked, what="fitted linear codec", remedy=_NO_FIT)


def _checked(**fields: Any) -> Fit:
    fit = Fit(**fields)
    if fit.kind not in KINDS or KINDS[fit.kind][1] == 0:
        raise ValueError(f"its kind is {fit.kind!r}")
    kept, count = KINDS[fit.kind]
    klt.require_axes(fit.axes, (HOP_SAMPLES - kept, count))
    return fit


def _signed_power(latents: Float[Tensor, "batch dim frames"], exponent: float) -> Float[Tensor, "batch dim frames"]:
    return latents if exponent == 1 else latents.sign() * latents.abs() ** exponent
