"""A network's latents in fewer dimensions: projected on the axes along which those of a corpus vary most.

DAC has 1,024 numbers a frame. The transposed axes take what is kept back to them, and the network decodes that.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shards.codecs import klt
from shards.codecs.klt import Moments
from shards.codecs.neural import NeuralCodec

_NO_SOUND = "Fit it on a corpus with sound, or store the latents as they are."
_NO_FIT = "Pass the .npz that a build with that codec wrote."


@dataclass(frozen=True, eq=False)
class Projection:
    """What was learnt of a network's latents on a corpus: the fields of `klt.Axes`, and whose latents they are."""

    network: str
    """Digest of the network and of the kind of its latents."""
    axes: np.ndarray
    eigenvalues: np.ndarray
    frames: int
    clips: int
    silent: int
    digest: str

    @property
    def kept_share(self) -> float:
        """Of the energy of the corpus' latents."""
        return float(self.eigenvalues[: self.axes.shape[1]].sum() / self.eigenvalues.sum())

    def fingerprint(self) -> str:
        """SHA-256 of the network and the axes."""
        return hashlib.sha256(self.network.encode() + self.axes.astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class ProjectedCodec:
    """A LatentCodec over a network, whose `dim` is the number of axes."""

    network: NeuralCodec
    projection: Projection

    @property
    def name(self) -> str:
        return f"{self.network.name},project={self.dim}"

    @property
    def sample_rate_hz(self) -> int:
        return self.network.sample_rate_hz

    @property
    def hop_samples(self) -> int:
        return self.network.hop_samples

    @property
    def dim(self) -> int:
        return self.projection.axes.shape[1]

    @property
    def device(self) -> str:
        return self.network.device

    def frames(self, samples: int) -> int:
        return self.network.frames(samples)

    def encode(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        latents = self.network.encode(waveform)
        return self._axes(latents).mT @ latents

    def decode(
        self, latents: Float[Tensor, "batch dim frames"], samples: int | None = None
    ) -> Float[Tensor, "batch samples"]:
        latents = latents.to(self.device)
        return self.network.decode(self._axes(latents) @ latents, samples)

    def fingerprint(self) -> str:
        return self.projection.fingerprint()

    def to(self, device: torch.device | str) -> "ProjectedCodec":
        """The same codec on `device`, to which its network moves."""
        return ProjectedCodec(self.network.to(device), self.projection)

    def _axes(self, like: Tensor) -> Float[Tensor, "dim axes"]:
        return torch.from_numpy(self.projection.axes).to(like)


def moments(waveforms: Iterable[np.ndarray], network: NeuralCodec) -> Moments:
    """One part of a fit, from mono waveforms at the network's rate.

    The latents of a clip, and not its sound, are brought to an RMS of 1, other than for the linear codec: a network is
    not linear, and would be asked for sound of a level that is never encoded.
    """

    def vectors(exact: Float[Tensor, " samples"], rms: float) -> Float[Tensor, "dim frames"]:
        latents = network.encode(exact.float()[None])[0].double().cpu()
        return latents / latents.square().mean().sqrt().clamp_min(klt.SILENT_RMS)

    return klt.moments(waveforms, vectors, network.dim)


def fitted(parts: Iterable[Moments], network: NeuralCodec, count: int) -> Projection:
    """The axes that keep most of the latents' energy, as `klt.fitted_axes` finds them: no mean is taken off."""
    found = klt.fitted_axes(parts, network.dim, count, remedy=_NO_SOUND)
    return Projection(network.fingerprint(), **vars(found))


def open_projection(path: Path, count: int) -> Projection:
    """One that was saved. Raises DataProblem when the file is absent or is no projection on so many axes."""

    def checked(**fields: Any) -> Projection:
        found = Projection(**fields)
        klt.require_axes(found.axes, (np.size(found.eigenvalues), count))
        return found

    return klt.read_fit(path, checked, what=f"projection on {count} axes", remedy=_NO_FIT)
