"""The multi-view autoencoder: a private and a shared code of a clip's features, and one decoder of both.

After arXiv 2507.22995, whose depths and widths are lost: sizes are ours. Plain stacks of linear layers and ReLU, so
that the weights of several models can be stacked along one more axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shards.problem import UsageProblem


@dataclass(frozen=True)
class MultiviewConfig:
    """Shape of encoders and decoder; the defaults are for AudioMAE's latents of 4 s (2.5M parameters)."""

    bands: int = 768
    """Numbers of a frame of the input column."""
    frames: int = 25
    """Frames of a training crop and of an evaluation window."""
    hidden: int = 512
    """Width of the layers between."""
    latent: int = 256
    """Width of the private code, and of the shared one."""
    layers: int = 3
    """Linear layers of each encoder and of the decoder."""
    pool: Literal["clip", "time"] = "clip"
    """Encode the mean over all frames, or each frame; then codes are averaged."""
    decoder: bool = True
    """Whether the input is rebuilt from both codes."""
    private: bool = True
    """Whether there is a private code; without one the shared code is twice as wide."""

    def __post_init__(self) -> None:
        if min(self.bands, self.frames, self.hidden, self.latent, self.layers) < 1:
            raise UsageProblem(
                f"bands={self.bands}, frames={self.frames}, hidden={self.hidden}, latent={self.latent}, "
                f"layers={self.layers} leave no network. Give each at least 1."
            )

    def build(self) -> "Multiview":
        """A new autoencoder with random weights from torch's global generator, for features of mean 0, deviation 1."""
        return Multiview(self)


class Multiview(nn.Module):
    """Embeds as private code, then shared code. `mean` and `deviation` of the training set standardise its input."""

    fitted: ClassVar[tuple[str, ...]] = ("mean", "deviation")
    """Buffers that a training measures before its first step: as much part of fresh weights as of trained ones."""

    mean: Float[Tensor, " bands"]
    deviation: Float[Tensor, " bands"]

    def __init__(self, config: MultiviewConfig) -> None:
        super().__init__()
        self.config = config
        both, own = 2 * config.latent, config.latent if config.private else 2 * config.latent
        self.private = perceptron(config, config.bands, own) if config.private else None
        self.shared = perceptron(config, config.bands, own)
        self.decoder = perceptron(config, both, config.bands) if config.decoder else None
        self.register_buffer("mean", torch.zeros(config.bands))
        self.register_buffer("deviation", torch.ones(config.bands))

    @property
    def subspaces(self) -> Mapping[str, slice]:
        """Where each code lies in the embedding; empty where there is only one."""
        latent = self.config.latent
        return {"private": slice(0, latent), "shared": slice(latent, 2 * latent)} if self.config.private else {}

    def forward(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch width"]:
        """The embedding: both codes side by side, twice `latent` wide; the mean over frames where each has its own."""
        code = joined(*self.codes(self.pooled(features)))
        return code.mean(dim=1) if self.config.pool == "time" else code

    def pooled(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch *steps bands"]:
        """Features in natural units -> what is encoded, standardised: the mean frame, or each frame."""
        return self.standardised(self.raw(features))

    def raw(self, features: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch *steps bands"]:
        """The same in natural units, float32."""
        return features.float().mean(dim=2) if self.config.pool == "clip" else features.float().mT

    def standardised(self, raw: Float[Tensor, "*rows bands"]) -> Float[Tensor, "*rows bands"]:
        """Each dimension less its mean, by its deviation; of the training set the variance is then 1."""
        return (raw - self.mean.float()) / self.deviation.float()

    def codes(
        self, pooled: Float[Tensor, "*rows bands"]
    ) -> tuple[Float[Tensor, "*rows own"] | None, Float[Tensor, "*rows own"]]:
        """Private and shared code of what `pooled` gives."""
        ready = pooled.to(next(self.shared.parameters()).dtype)
        return None if self.private is None else self.private(ready), self.shared(ready)

    def rebuilt(
        self, private: Float[Tensor, "*rows own"] | None, shared: Float[Tensor, "*rows own"]
    ) -> Float[Tensor, "*rows bands"]:
        """What the decoder makes of both codes, standardised."""
        assert self.decoder is not None
        return self.decoder(joined(private, shared))


def joined(
    private: Float[Tensor, "*rows own"] | None, shared: Float[Tensor, "*rows own"]
) -> Float[Tensor, "*rows width"]:
    """Both codes side by side, private first."""
    return shared if private is None else torch.cat([private, shared], dim=-1)


def perceptron(config: MultiviewConfig, inputs: int, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between; their outputs are free."""
    widths = [inputs, *[config.hidden] * (config.layers - 1), outputs]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
