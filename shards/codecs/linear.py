"""The linear codec: 128 numbers for each 320 samples, in closed form, whose exact adjoint decodes.

Latents are MDCT coefficients: the lowest as they are, what lies above projected on the axes along which the sound of a
corpus varies most. Mixing is linear, `encode(mean) = mean(encode)`, unless `compand` is below 1. Without a corpus there
is `low128`, the sound below 4.8 kHz, and `full320`, which loses nothing. Precision is that of the waveform.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from shards.codecs.codec import cut, hops
from shards.codecs.mdct import inverse_mdct, mdct
from shards.problem import DataProblem
from shards.store import whole_file

SAMPLE_RATE_HZ, HOP_SAMPLES = 24_000, 320
SILENT_RMS = 1e-5
Kind = Literal["low96+klt32", "low128", "klt128", "full320"]
KINDS: dict[str, tuple[int, int]] = {  # bands kept as they are, axes fitted to the rest
    "low96+klt32": (96, 32),
    "low128": (128, 0),
    "klt128": (0, 128),
    "full320": (320, 0),
}
_MOST_BYTES = 1 << 22  # of a fitted file: ten times what it needs


@dataclass(frozen=True, eq=False)
class Fit:
    """What was learnt from a corpus: orthonormal axes (bands, axes) float32 and what they were fitted on."""

    kind: Kind
    axes: np.ndarray
    eigenvalues: np.ndarray
    """Of all bands' second moment, descending: the share of the first ones is the energy that the axes keep."""
    frames: int
    clips: int
    silent: int
    """Clips left out, since their RMS is below SILENT_RMS."""
    digest: str
    """Of all clips' waveforms, in their order."""

    def save(self, path: Path) -> None:
        """Write a .npz of plain arrays, whole or not at all; the same fit gives the same bytes."""
        archive = io.BytesIO()
        np.savez(archive, **vars(self))
        with whole_file(path) as file:
            file.write(archive.getbuffer())


@dataclass(frozen=True, eq=False)
class Moments:
    """What some clips contribute to a fit, each at an RMS of 1, so that loud ones do not decide it."""

    products: np.ndarray
    """Sum over frames of the products of every two bands, float64."""
    frames: int
    clips: int
    silent: int
    digests: bytes
    """XXH3-128 of each waveform, one after the other."""


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
    """One part of a fit, from mono waveforms at SAMPLE_RATE_HZ, one by one, so that memory does not grow with them."""
    kept = KINDS[kind][0]
    products = np.zeros((HOP_SAMPLES - kept, HOP_SAMPLES - kept))
    frames = clips = silent = 0
    digests = []
    for waveform in waveforms:
        digests.append(xxhash.xxh3_128_digest(waveform.tobytes()))
        exact = torch.from_numpy(waveform).double()
        rms = exact.square().mean().sqrt()
        if not rms >= SILENT_RMS:
            silent += 1
            continue
        bands = mdct(exact[None] / rms, HOP_SAMPLES)[0, kept:]
        products += (bands @ bands.mT).numpy()
        frames, clips = frames + bands.shape[1], clips + 1
    return Moments(products, frames, clips, silent, b"".join(digests))


def fitted(parts: Iterable[Moments], kind: Kind) -> Fit:
    """The axes that keep most of the energy above the kept bands (Karhunen-Loeve, uncentred second moment, float64).

    Parts are taken one by one, in the order given: the same clips in the same order and parts give the same bits on
    one machine. Bands have no mean to take off, and an offset would end linearity. Raises DataProblem when all clips
    are silent.
    """
    bands = HOP_SAMPLES - KINDS[kind][0]
    products, digest = np.zeros((bands, bands)), hashlib.sha256()
    frames = clips = silent = 0
    for part in parts:
        products += part.products
        digest.update(part.digests)
        frames, clips, silent = frames + part.frames, clips + part.clips, silent + part.silent
    if not frames:
        raise DataProblem(
            f"There is nothing to fit the linear codec on: {silent:,} silent clips and no other. Fit it on a corpus "
            "with sound, or take codec:low128, which needs no fit."
        )
    axes, eigenvalues = principal_axes(products / frames, KINDS[kind][1])
    return Fit(kind, axes.astype(np.float32), eigenvalues, frames, clips, silent, digest.hexdigest())


def principal_axes(second_moment: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first eigenvectors (bands, count) and all eigenvalues, descending.

    The largest entry of a vector is positive, the first of equal ones. Neighbouring eigenvalues near the cut differ by
    about a percent, so that another BLAS may turn the last vectors: what they span together is what can be compared.
    """
    eigenvalues, vectors = np.linalg.eigh(second_moment)
    vectors = vectors[:, ::-1][:, :count]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, range(count)]), eigenvalues[::-1].copy()


def open_fit(path: Path) -> Fit:
    """A fit that was saved. Raises DataProblem when the file is absent or is no such fit."""
    try:
        if path.stat().st_size > _MOST_BYTES or _unpacked_bytes(path) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            stored: dict[str, Any] = {name: _plain(archive[name]) for name in archive.files}
        fit = Fit(**stored)
        _check(fit)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataProblem(
            f"{path} is no fitted linear codec ({error}), so nothing can be encoded or decoded with it. Pass the .npz "
            "that a build with codec:linear wrote, or take codec:low128, which needs no fit."
        ) from error
    return fit


def _unpacked_bytes(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _plain(array: np.ndarray) -> np.ndarray | int | str:
    return array if array.ndim else array.item()


def _check(fit: Fit) -> None:
    if fit.kind not in KINDS or KINDS[fit.kind][1] == 0:
        raise ValueError(f"its kind is {fit.kind!r}")
    kept, count = KINDS[fit.kind]
    if fit.axes.shape != (HOP_SAMPLES - kept, count) or fit.axes.dtype != np.float32:
        raise ValueError(f"its axes are {fit.axes.dtype} {fit.axes.shape}")
    if not np.allclose(fit.axes.T @ fit.axes, np.eye(count), atol=1e-4):
        raise ValueError("its axes are not orthonormal")


def _signed_power(latents: Float[Tensor, "batch dim frames"], exponent: float) -> Float[Tensor, "batch dim frames"]:
    return latents if exponent == 1 else latents.sign() * latents.abs() ** exponent
