"""Axes along which the vectors of a corpus vary most (Karhunen-Loeve), from sums that workers take clip by clip."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from shards.problem import DataProblem
from shards.store import whole_file

SILENT_RMS = 1e-5
_MOST_BYTES = 1 << 23  # of a fitted file: ten times what the largest needs

VectorsOf = Callable[[Float[Tensor, " samples"], float], Float[Tensor, "dim frames"]]
"""The vectors of a waveform in float64, of that RMS, brought to a level at which no loud clip decides the axes."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What some clips contribute to a fit."""

    products: np.ndarray
    """Sum over frames of the products of every two numbers of a vector, float64."""
    frames: int
    clips: int
    silent: int
    digests: bytes
    """XXH3-128 of each waveform, one after the other."""


@dataclass(frozen=True, eq=False)
class Axes:
    """What was learnt from a corpus: orthonormal axes (dim, axes) float32 and what they were fitted on."""

    axes: np.ndarray
    eigenvalues: np.ndarray
    """Of the whole second moment, descending: the share of the first ones is the energy that the axes keep."""
    frames: int
    clips: int
    silent: int
    """Clips left out, since their RMS is below SILENT_RMS."""
    digest: str
    """Of all clips' waveforms, in their order."""


def moments(waveforms: Iterable[np.ndarray], vectors_of: VectorsOf, dim: int) -> Moments:
    """One part of a fit, from mono waveforms, one by one, so that memory does not grow with them."""
    products = np.zeros((dim, dim))
    frames = clips = silent = 0
    digests = []
    for waveform in waveforms:
        digests.append(xxhash.xxh3_128_digest(waveform.tobytes()))
        exact = torch.from_numpy(waveform).double()
        rms = float(exact.square().mean().sqrt())
        if not rms >= SILENT_RMS:
            silent += 1
            continue
        vectors = vectors_of(exact, rms)
        products += (vectors @ vectors.mT).numpy()
        frames, clips = frames + vectors.shape[1], clips + 1
    return Moments(products, frames, clips, silent, b"".join(digests))


def fitted_axes(parts: Iterable[Moments], dim: int, count: int, *, remedy: str) -> Axes:
    """The axes that keep most of the energy (uncentred second moment, float64).

    Parts are taken one by one, in the order given: the same clips in the same order and parts give the same bits on
    one machine. Raises DataProblem, with the remedy, when all clips are silent.
    """
    products, digest = np.zeros((dim, dim)), hashlib.sha256()
    frames = clips = silent = 0
    for part in parts:
        products += part.products
        digest.update(part.digests)
        frames, clips, silent = frames + part.frames, clips + part.clips, silent + part.silent
    if not frames:
        raise DataProblem(f"There is nothing to fit a codec on: {silent:,} silent clips and no other. {remedy}")
    axes, eigenvalues = principal_axes(products / frames, count)
    return Axes(axes.astype(np.float32), eigenvalues, frames, clips, silent, digest.hexdigest())


def principal_axes(second_moment: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first eigenvectors (dim, count) and all eigenvalues, descending.

    The largest entry of a vector is positive, the first of equal ones. Neighbouring eigenvalues near the cut differ by
    about a percent, so that another BLAS may turn the last vectors: what they span together is what can be compared.
    """
    eigenvalues, vectors = np.linalg.eigh(second_moment)
    vectors = vectors[:, ::-1][:, :count]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, range(count)]), eigenvalues[::-1].copy()


def write_fit(path: Path, fit: object) -> None:
    """Write the fields of a fit as a .npz of plain arrays, whole or not at all; the same fit gives the same bytes."""
    archive = io.BytesIO()
    np.savez(archive, **vars(fit))
    with whole_file(path) as file:
        file.write(archive.getbuffer())


def read_fit(path: Path, build: Callable[..., Any], *, what: str, remedy: str) -> Any:
    """`build` of the fields in a file. Raises DataProblem, naming `what` it is not, where that raises ValueError."""
    try:
        if path.stat().st_size > _MOST_BYTES or _unpacked_bytes(path) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            return build(**{name: _plain(archive[name]) for name in archive.files})
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataProblem(
            f"{path} is no {what} ({error}), so nothing can be encoded or decoded with it. {remedy}"
        ) from error


def require_axes(axes: Any, shape: tuple[int, int]) -> None:
    """Raises ValueError for what are no orthonormal axes of that shape."""
    found = np.asarray(axes)
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(f"its axes are {found.dtype} {found.shape}")
    if not np.allclose(found.T @ found, np.eye(shape[1]), atol=1e-4):
        raise ValueError("its axes are not orthonormal")


def _unpacked_bytes(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _plain(array: np.ndarray) -> np.ndarray | int | str:
    return array if array.ndim else array.item()
