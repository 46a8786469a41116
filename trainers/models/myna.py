"""Myna: a SimpleViT over mel patches that never computes the patches it does not keep.

Parameter names are those of the published checkpoints (and of vit-pytorch's SimpleViT), so weights pass both ways.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from shards.problem import UsageProblem

# Constants of splitmix64 (Steele et al. 2014) as signed 64-bit integers; products wrap modulo 2^64 on every device.
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_MULTIPLIER = 0x94D049BB133111EB - 2**64


@dataclass(frozen=True)
class MynaConfig:
    """Shape of the encoder; the defaults are Myna-Base (22M). Patches of 128 x 2 give Myna-Vertical."""

    patch_bands: int = 16
    """Height of a patch in mel bands."""
    patch_frames: int = 16
    """Width of a patch in frames."""
    bands: int = 128
    """Mel bands of the input."""
    frames: int = 96
    """Frames of a training crop and of an evaluation window."""
    width: int = 384
    """Width of a token, and of the embedding."""
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
        if self.bands % self.patch_bands or self.frames % self.patch_frames:
            raise UsageProblem(
                f"patches of {self.patch_bands} bands x {self.patch_frames} frames do not tile a mel of {self.bands} "
                f"bands x {self.frames} frames, so part of it would never be seen. Choose divisors of both."
            )
        if self.width % 4 or self.width < 8:
            raise UsageProblem(
                f"width={self.width} cannot hold sines and cosines of two axes, so tokens would have no position. "
                "Choose a multiple of 4, at least 8."
            )

    @property
    def tokens(self) -> int:
        """Patches in one window, before masking."""
        return (self.bands // self.patch_bands) * (self.frames // self.patch_frames)

    def build(self) -> "Myna":
        """A new encoder with random weights from torch's global generator."""
        return Myna(self)


class Myna(nn.Module):
    """Mel power in, mean of the final tokens out."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__()
        self.config = config
        patch_values = config.patch_bands * config.patch_frames
        self.to_patch_embedding = nn.Sequential(
            Rearrange(
                "batch (rows patch_bands) (columns patch_frames) -> batch rows columns (patch_bands patch_frames)",
                patch_bands=config.patch_bands,
                patch_frames=config.patch_frames,
            ),
            PowerNorm(patch_values),
            nn.Linear(patch_values, config.width),
            nn.LayerNorm(config.width),
        )
        self.transformer = Transformer(config)

    @property
    def tokens(self) -> int:
        """Patches in one window, before masking."""
        return self.config.tokens

    @property
    def embedding_width(self) -> int:
        """Width of what `forward` returns."""
        return self.config.width

    def forward(
        self, mel: Float[Tensor, "batch bands frames"], keep: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch width"]:
        """Embed mel power in natural units; only the tokens that `keep` numbers, row by row, are computed.

        Any number of frames that the patch width divides is accepted: positions are computed, not stored.
        """
        return self.transformer(self.embed_patches(mel, keep)).mean(dim=1)

    def embed_patches(
        self, mel: Float[Tensor, "batch bands frames"], keep: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch kept width"]:
        """The transformer's input: patches gathered first, so that hidden ones cost no embedding, then positions."""
        cut, *embedding = self.to_patch_embedding
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

    Tokens are sorted by a hash of (seed, token) in integer arithmetic, so a row's choice is the same on every
    device, in every batch and for any number of ranks. Hashes of one row differ, so the order has no ties.
    """
    hidden = int(mask_ratio * tokens)
    steps = torch.arange(1, tokens + 1, device=seeds.device) * _GOLDEN_GAMMA
    return _mix64(seeds[:, None] + steps).argsort(dim=1)[:, hidden:]


def _mix64(bits: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """The finaliser of splitmix64, a bijection of 64-bit integers whose output bits look independent."""
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST_MULTIPLIER
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND_MULTIPLIER
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Int[Tensor, "batch tokens"], places: int) -> Int[Tensor, "batch tokens"]:
    # torch shifts signed integers arithmetically; the mask clears the copies of the sign.
    return (bits >> places) & (2 ** (64 - places) - 1)


class PowerNorm(nn.LayerNorm):
    """LayerNorm of raw mel power, always in float32: values reach 1e4, where half precision has no digits left."""

    def forward(self, patches: Float[Tensor, "... values"]) -> Float[Tensor, "... values"]:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(patches.float(), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class Transformer(nn.Module):
    """Pre-norm blocks and a final LayerNorm."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.layers = nn.Sequential(*(Block(Attention(config), FeedForward(config)) for _ in range(config.depth)))

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        return self.norm(self.layers(tokens))


class Block(nn.Sequential):
    """Parts in a row, each adding to its input."""

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        for part in self:
            tokens = tokens + part(tokens)
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention without biases."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__()
        inner_width = config.heads * config.head_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.to_qkv = nn.Linear(config.width, 3 * inner_width, bias=False)
        self.to_out = nn.Linear(inner_width, config.width, bias=False)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        split = "batch tokens (three heads width) -> three batch heads tokens width"
        query, key, value = rearrange(self.to_qkv(self.norm(tokens)), split, three=3, heads=self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(mixed, "batch heads tokens width -> batch tokens (heads width)"))


class FeedForward(nn.Module):
    """LayerNorm, widen, GELU, narrow."""

    def __init__(self, config: MynaConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(),
            nn.Linear(config.mlp_width, config.width),
        )

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        return self.net(tokens)
