"""Myna: a SimpleViT over mel patches that never computes the patches it does not keep.

Square patches, vertical ones, or both through one transformer (hybrid). Parameter names are those of the published
checkpoints (and of vit-pytorch's SimpleViT), so weights pass both ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from shards.problem import UsageProblem
from trainers.chance import random_bits
from trainers.models.transformer import BlockShape, Transformer

SQUARE, VERTICAL = "square", "vertical"


@dataclass(frozen=True)
class MynaConfig:
    """Shape of the encoder; the defaults are Myna-Base (22M)."""

    patch_bands: int = 16
    """Height of a patch in mel bands; all of them make Myna-Vertical."""
    patch_frames: int = 16
    """Width of a patch in frames."""
    second_patch: tuple[int, ...] = ()
    """Bands and frames of a second kind of patch: a hybrid."""
    bands: int = 128
    """Mel bands of the input."""
    frames: int = 96
    """Frames of a training crop and of an evaluation window."""
    width: int = 384
    """Width of a token, and of the embedding of one kind of patch."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 6
    """Attention heads in each block."""
    head_width: int = 64
    """Width of one attention head."""
    mlp_width: int = 1536
    """Hidden width of each block's feed-forward part."""
    log1p: bool = False
    """Compress mel power with log(1 + x) on input; the paper feeds raw power."""

    def __post_init__(self) -> None:
        if len(self.second_patch) not in (0, 2):
            raise UsageProblem(
                f"second_patch={self.second_patch} is no patch, so there is no hybrid to build. Give its bands and "
                "its frames, 128 2, or nothing."
            )
        for patch_bands, patch_frames in self._shapes:
            self._require_tiling(patch_bands, patch_frames)
        if len(self.patches) < len(self._shapes):
            raise UsageProblem(
                f"both kinds of patch are {self.patchings[0]}, so the hybrid would hear everything twice in one way. "
                f"Make one of them {self.bands} bands high, and the other not."
            )
        if self.width % 4 or self.width < 8:
            raise UsageProblem(
                f"width={self.width} cannot hold sines and cosines of two axes, so tokens would have no position. "
                "Choose a multiple of 4, at least 8."
            )

    @property
    def patches(self) -> Mapping[str, tuple[int, int]]:
        """Bands and frames of each kind of patch by its name; the first is the primary one."""
        return {VERTICAL if bands == self.bands else SQUARE: (bands, frames) for bands, frames in self._shapes}

    @property
    def patchings(self) -> tuple[str, ...]:
        """Names of the kinds of patch."""
        return tuple(self.patches)

    @property
    def tokens(self) -> int:
        """Patches of the first kind in one window, before masking."""
        return self.tokens_of(self.patchings[0])

    def tokens_of(self, patching: str) -> int:
        """Patches of that kind in one window, before masking."""
        patch_bands, patch_frames = self.patches[patching]
        return (self.bands // patch_bands) * (self.frames // patch_frames)

    @property
    def block(self) -> BlockShape:
        return BlockShape(self.width, self.heads, self.head_width, self.mlp_width)

    def build(self) -> "Myna":
        """A new encoder with random weights from torch's global generator."""
        return Myna(self)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        second = iter(self.second_patch)
        return [(self.patch_bands, self.patch_frames), *zip(second, second, strict=True)]

    def _require_tiling(self, patch_bands: int, patch_frames: int) -> None:
        if patch_bands < 1 or patch_frames < 1 or self.bands % patch_bands or self.frames % patch_frames:
            raise UsageProblem(
                f"patches of {patch_bands} bands x {patch_frames} frames do not tile a mel of {self.bands} "
                f"bands x {self.frames} frames, so part of it would never be seen. Choose divisors of both."
            )


class Myna(nn.Module):
    """Mel power in, mean of the final tokens out; of a hybrid the means of both kinds of patch, one after the other."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__()
        self.config = config
        first, *second = (tokeniser(*patch, width=config.width) for patch in config.patches.values())
        self.to_patch_embedding = first
        if second:
            (self.to_patch_embedding_b,) = second
        self.transformer = Transformer(config.block, config.depth)

    @property
    def patchings(self) -> tuple[str, ...]:
        """Names of the kinds of patch, each a pass of its own."""
        return self.config.patchings

    def tokens_of(self, patching: str) -> int:
        """Patches of that kind in one window, before masking."""
        return self.config.tokens_of(patching)

    @property
    def pass_width(self) -> int:
        """Width of an embedding from one kind of patch."""
        return self.config.width

    @property
    def embedding_width(self) -> int:
        """Width of what `forward` returns when no kind of patch is named."""
        return self.config.width * len(self.patchings)

    def forward(
        self,
        mel: Float[Tensor, "batch bands frames"],
        keep: Int[Tensor, "batch kept"] | None = None,
        *,
        patching: str | None = None,
    ) -> Float[Tensor, "batch width"]:
        """Embed mel power in natural units; only the tokens that `keep` numbers, row by row, are computed.

        `patching` names one kind of patch; without it a hybrid embeds by each in turn, width 2D. Any number of frames
        that the patch width divides is accepted: positions are computed, not stored.
        """
        if patching is None and len(self.patchings) > 1:
            return torch.cat([self.forward(mel, keep, patching=each) for each in self.patchings], dim=1)
        return self.transformer(self.embed_patches(mel, keep, patching=patching)).mean(dim=1)

    def hidden_states(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch tokens width"]]:
        """Tokens with their positions, then those after each block, last those after the final norm.

        A hybrid has two sets of tokens: raises UsageProblem unless `patching` names one.
        """
        return self.transformer.hidden_states(self.embed_patches(mel, patching=patching))

    def attention_maps(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Attention of each block, queries over keys, rows that sum to 1. Raises as `hidden_states` does."""
        return self.transformer.attention_maps(self.embed_patches(mel, patching=patching))

    def embed_patches(
        self,
        mel: Float[Tensor, "batch bands frames"],
        keep: Int[Tensor, "batch kept"] | None = None,
        *,
        patching: str | None = None,
    ) -> Float[Tensor, "batch kept width"]:
        """The transformer's input: patches gathered first, so that hidden ones cost no embedding, then positions."""
        cut, *embedding = self._tokeniser(patching)
        grid = cut(mel)
        patches = rearrange(grid, "batch rows columns values -> batch (rows columns) values")
        positions = sincos_positions(grid.shape[1], grid.shape[2], self.config.width, device=mel.device)
        if keep is not None:
            patches = torch.take_along_dim(patches, keep[..., None], dim=1)
            positions = positions[keep]
        patches = patches.log1p() if self.config.log1p else patches
        for layer in embedding:
            patches = layer(patches)
        return patches + positions.to(patches.dtype)

    def _tokeniser(self, patching: str | None) -> nn.Sequential:
        named = patching or (self.patchings[0] if len(self.patchings) == 1 else "")
        if named not in self.patchings:
            raise UsageProblem(
                f"This encoder has no patching '{named}', so it cannot say which tokens are meant. "
                f"Name one: {' or '.join(self.patchings)}."
            )
        return self.to_patch_embedding if named == self.patchings[0] else self.to_patch_embedding_b


def tokeniser(patch_bands: int, patch_frames: int, *, width: int) -> nn.Sequential:
    """(batch, bands, frames) -> (batch, rows, columns, width), lowest bands first; in a patch frames run fastest."""
    cut = "batch (rows patch_bands) (columns patch_frames) -> batch rows columns (patch_bands patch_frames)"
    return nn.Sequential(
        Rearrange(cut, patch_bands=patch_bands, patch_frames=patch_frames),
        PowerNorm(patch_bands * patch_frames),
        nn.Linear(patch_bands * patch_frames, width),
        nn.LayerNorm(width),
    )


def sincos_positions(
    rows: int, columns: int, width: int, *, device: torch.device | str = "cpu"
) -> Float[Tensor, "tokens width"]:
    """Fixed positions of a grid, row by row: sines and cosines of the column, then of the row (SimpleViT, float32)."""
    quarter = width // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, device=device) / (quarter - 1))
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    x, y = column.reshape(-1, 1) * frequencies, row.reshape(-1, 1) * frequencies
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def keep_tokens(seeds: Int[Tensor, " batch"], *, tokens: int, mask_ratio: float) -> Int[Tensor, "batch kept"]:
    """Numbers of the tokens that each row's 64 random bits leave visible: tokens - int(mask_ratio * tokens) of them.

    So a row's choice is the same on every device, in every batch and for any number of ranks.
    """
    return shuffled_tokens(seeds, tokens=tokens)[:, int(mask_ratio * tokens) :]


def shuffled_tokens(seeds: Int[Tensor, " batch"], *, tokens: int) -> Int[Tensor, "batch tokens"]:
    """All numbers of tokens in an order that each row's 64 random bits decide, from hidden first to visible last.

    They are sorted by a hash of (seed, token) in integer arithmetic; hashes of one row differ, so there are no ties.
    """
    return random_bits(seeds, tokens).argsort(dim=1)


class PowerNorm(nn.LayerNorm):
    """LayerNorm of raw mel power, always in float32: values reach 1e4, where half precision has no digits left."""

    def forward(self, patches: Float[Tensor, "... values"]) -> Float[Tensor, "... values"]:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(patches.float(), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)
