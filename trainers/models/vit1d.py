"""ViT-1D: a light transformer whose tokens are mel frames, and a class token that begins as their average.

After the abstract of arXiv 2506.23873; what it leaves open follows the same group's other work or ViT-Ti, and is a
value of the config. Parameter names are ours: nobody has published any.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shards.problem import DataProblem, UsageProblem
from trainers.models.transformer import BlockShape, Transformer

FRAME = "frame"
Readout = Literal["cls", "seq_mean", "all_mean", "cls+seq_mean"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
_LEAST_POWER = 1e-10
_INITIAL_DEVIATION = 0.02
_NOTES_DB = (-29.7, 26.8)  # mean and deviation of the levels of rendered notes


@dataclass(frozen=True)
class Vit1dConfig:
    """Shape of the encoder; the defaults give 5.4M parameters."""

    bands: int = 128
    """Mel bands of the input: the values of a token's frame."""
    frames: int = 126
    """Frames of a training crop and of an evaluation window: 4 s."""
    width: int = 192
    """Width of a token."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 3
    """Attention heads in each block."""
    head_width: int = 64
    """Width of one attention head."""
    mlp_width: int = 768
    """Hidden width of each block's feed-forward part."""
    range_db: float = 100.0
    """Power further below a clip's peak than this is raised to it."""
    mean_db: float | None = None
    """Mean level of the training set, subtracted; a training measures it when it is not given."""
    deviation_db: float | None = None
    """Deviation of the same levels, divides; measured likewise."""
    readout: Readout = "cls"
    """Final tokens that are the embedding: the class token, means of frames or of all, or both side by side."""

    def __post_init__(self) -> None:
        if self.width % 2 or self.width < 2:
            raise UsageProblem(
                f"width={self.width} cannot hold sines and cosines of one axis, so tokens would have no position. "
                "Choose an even one."
            )
        if not (self.range_db > 0 and (self.deviation_db is None or self.deviation_db > 0)):
            raise UsageProblem(
                f"deviation_db={self.deviation_db} and range_db={self.range_db} leave no number of a spectrogram. "
                "Give both above 0."
            )

    def measured(self, mels: Iterable[Float[Tensor, "bands _"]]) -> "Vit1dConfig":
        """The same shape with the mean and the deviation of some spectrograms of the training set, unless given."""
        if self.mean_db is not None and self.deviation_db is not None:
            return self
        mean, deviation = decibel_moments(mels, self.range_db)
        return replace(
            self,
            mean_db=round(mean, 2) if self.mean_db is None else self.mean_db,
            deviation_db=max(round(deviation, 2), 0.01) if self.deviation_db is None else self.deviation_db,
        )

    def build(self) -> "Vit1d":
        """A new encoder with random weights from torch's global generator.

        Where nothing was measured, levels are taken for those of rendered notes.
        """
        return Vit1d(self)


class Vit1d(nn.Module):
    """Mel power in, what `readout` names of the final tokens out. The class token comes first, then one a frame."""

    def __init__(self, config: Vit1dConfig) -> None:
        super().__init__()
        self.config = config
        self.mean_db = _NOTES_DB[0] if config.mean_db is None else config.mean_db
        self.deviation_db = _NOTES_DB[1] if config.deviation_db is None else config.deviation_db
        self.to_token = nn.Linear(config.bands, config.width)
        self.class_vector = nn.Parameter(torch.empty(config.width))
        shape = BlockShape(
            config.width, config.heads, config.head_width, config.mlp_width, attention_bias=True, norm_eps=1e-6
        )
        self.transformer = Transformer(shape, config.depth)
        nn.init.trunc_normal_(self.class_vector, std=_INITIAL_DEVIATION)
        self.apply(_initialise)

    @property
    def patchings(self) -> tuple[str, ...]:
        """Names of the kinds of patch: one."""
        return (FRAME,)

    def tokens_of(self, patching: str) -> int:
        """Frames of one window, before masking; the class token is none of them."""
        assert patching == FRAME
        return self.config.frames

    @property
    def pass_width(self) -> int:
        """Width of what `forward` returns."""
        return self.config.width * (1 + self.config.readout.count("+"))

    embedding_width = pass_width

    def forward(
        self,
        mel: Float[Tensor, "batch bands frames"],
        keep: Int[Tensor, "batch kept"] | None = None,
        *,
        patching: str | None = None,
    ) -> Float[Tensor, "batch width"]:
        """Embed mel power in natural units; only the frames that `keep` numbers, row by row, are heard.

        Any number of frames is accepted: positions are computed, not stored. `patching` can only name the one kind.
        """
        assert patching in (None, FRAME)
        return read(self.transformer(self.embed_frames(mel, keep)), self.config.readout)

    def hidden_states(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch tokens width"]]:
        """The embedded input, tokens after each block, last those after the final norm; class token first."""
        assert patching in (None, FRAME)
        return self.transformer.hidden_states(self.embed_frames(mel))

    def attention_maps(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Attention of each block, queries over keys, class token first; rows sum to 1."""
        assert patching in (None, FRAME)
        return self.transformer.attention_maps(self.embed_frames(mel))

    def embed_frames(
        self, mel: Float[Tensor, "batch bands frames"], keep: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """The transformer's input: the learned vector plus the mean of all projected frames, then these at their place.

        Only frames have positions. Hidden frames are in no mean and no peak.
        """
        frames, positions = mel.mT, sincos_line(mel.shape[2], self.config.width, device=mel.device)
        if keep is not None:
            frames = torch.take_along_dim(frames, keep[..., None], dim=1)
            positions = positions[keep]
        scaled = (decibels(frames, self.config.range_db) - self.mean_db) / self.deviation_db
        projected = self.to_token(scaled.to(self.to_token.weight.dtype))
        first = self.class_vector + projected.mean(dim=1, keepdim=True)
        return torch.cat([first, projected + positions.to(projected.dtype)], dim=1)


def read(tokens: Float[Tensor, "batch tokens width"], readout: Readout) -> Float[Tensor, "batch readout_width"]:
    """One vector of a window's tokens, of which the class token is the first."""
    if readout == "all_mean":
        return tokens.mean(dim=1)
    parts = {"cls": tokens[:, 0], "seq_mean": tokens[:, 1:].mean(dim=1)}
    return torch.cat([parts[name] for name in readout.split("+")], dim=1)


def decibels(power: Float[Tensor, "batch x y"], range_db: float) -> Float[Tensor, "batch x y"]:
    """10 log10 of power, at least 1e-10, in float32; no value is more than `range_db` below the peak of its row.

    The group's public code takes the peak of a whole batch, which makes a clip depend on its neighbours.
    """
    levels = 10 * power.float().clamp(min=_LEAST_POWER).log10()
    return levels.maximum(levels.amax(dim=(1, 2), keepdim=True) - range_db)


def decibel_moments(mels: Iterable[Float[Tensor, "bands _"]], range_db: float = 100.0) -> tuple[float, float]:
    """Mean and deviation of all levels of some spectrograms in power: the scalars of a config, from a training set.

    Each is a clip with a peak of its own. Raises DataProblem when there is none.
    """
    count, total, squares = 0, 0.0, 0.0
    for mel in mels:
        levels = decibels(mel[None], range_db).double()
        count, total, squares = count + levels.numel(), total + float(levels.sum()), squares + float((levels**2).sum())
    if not count:
        raise DataProblem(
            "There is no spectrogram to measure, so no mean and no deviation. Name a split with examples."
        )
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5


def sincos_line(frames: int, width: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "frames width"]:
    """Fixed positions in time: sines of t / 10000^(2i/width), then cosines, in two halves (float32)."""
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_INITIAL_DEVIATION)
        nn.init.zeros_(module.bias)
