"""The noun LatentCodec: mono sound as a sequence of latent vectors, and back."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from shards.problem import EnvironmentProblem


class CodecUnavailable(EnvironmentProblem):
    """The weights or the package of a codec are not on this machine. Latents of two codecs never fit together."""


@runtime_checkable
class LatentCodec(Protocol):
    """A frozen codec of mono sound, deterministic on a CPU; frames per second are `sample_rate_hz / hop_samples`."""

    @property
    def name(self) -> str: ...

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def hop_samples(self) -> int: ...

    @property
    def dim(self) -> int:
        """Width of a latent vector."""

    def frames(self, samples: int) -> int:
        """Latent vectors of so many samples: every begun hop counts."""

    def encode(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """Latents of a waveform, which is padded with zeros on its right to a whole number of hops."""

    def decode(
        self, latents: Float[Tensor, "batch dim frames"], samples: int | None = None
    ) -> Float[Tensor, "batch samples"]:
        """A waveform of exactly `samples`, or of all frames' samples."""

    def fingerprint(self) -> str:
        """Digest, in hexadecimal, of all that decides the latents."""

    def to(self, device: torch.device | str) -> "LatentCodec":
        """The same codec where `device` computes."""


def hops(samples: int, hop_samples: int) -> int:
    """How many hops so many samples fill or begin."""
    return -(-samples // hop_samples)


def padded(waveform: Float[Tensor, "batch samples"], hop_samples: int) -> Float[Tensor, "batch padded_samples"]:
    """The waveform with zeros on its right up to a whole number of hops."""
    return torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % hop_samples))


def cut(
    waveform: Float[Tensor, "batch decoded_samples"], samples: int, *, hop_samples: int
) -> Float[Tensor, "batch samples"]:
    """The first `samples` of what was decoded; up to a hop that the decoder left out is filled with zeros."""
    missing = samples - waveform.shape[-1]
    if missing >= hop_samples:
        raise ValueError(f"{samples:,} samples were asked of latents that hold {waveform.shape[-1]:,}")
    return torch.nn.functional.pad(waveform, (0, missing))
