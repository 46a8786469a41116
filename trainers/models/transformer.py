"""Pre-norm transformer blocks, fused for speed; the same again in plain steps where attention itself is looked at."""

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from trainers.linear import Linear


@dataclass(frozen=True)
class BlockShape:
    """What all blocks of a transformer have in common; the defaults are SimpleViT's."""

    width: int
    heads: int
    head_width: int
    mlp_width: int
    attention_bias: bool = False
    norm_eps: float = 1e-5


class Transformer(nn.Module):
    """Blocks in a row and a final LayerNorm. Parameter names are those of vit-pytorch's SimpleViT."""

    def __init__(self, shape: BlockShape, depth: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width, shape.norm_eps)
        self.layers = nn.Sequential(*(Block(Attention(shape), FeedForward(shape)) for _ in range(depth)))

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        return self.norm(self.layers(tokens))

    def hidden_states(self, tokens: Float[Tensor, "batch tokens width"]) -> list[Float[Tensor, "batch tokens width"]]:
        """The input, the output of each block, and last that of the final norm: depth + 2 of them."""
        states = [tokens]
        for block in self.layers:
            states.append(block(states[-1]))
        return [*states, self.norm(states[-1])]

    def attention_maps(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Weights of each block, of queries (rows) over keys; rows sum to 1. Fused kernels return none."""
        maps = []
        for block in self.layers:
            assert isinstance(block, Block)
            tokens, weights = block.explicit(tokens)
            maps.append(weights)
        return maps


class Block(nn.Sequential):
    """Attention and a feed-forward part, each adding to its input."""

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        for part in self:
            tokens = tokens + part(tokens)
        return tokens

    def explicit(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch heads tokens tokens"]]:
        """What `forward` returns, by plain steps, and the weights of the attention."""
        attention, feed_forward = self
        assert isinstance(attention, Attention)
        mixed, weights = attention.explicit(tokens)
        tokens = tokens + mixed
        return tokens + feed_forward(tokens), weights


class Attention(nn.Module):
    """Multi-head self-attention behind a LayerNorm."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        inner_width = shape.heads * shape.head_width
        self.heads = shape.heads
        self.norm = nn.LayerNorm(shape.width, shape.norm_eps)
        self.to_qkv = Linear(shape.width, 3 * inner_width, bias=shape.attention_bias)
        self.to_out = Linear(inner_width, shape.width, bias=shape.attention_bias)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        query, key, value = self._split(tokens)
        return self._joined(F.scaled_dot_product_attention(query, key, value))

    def explicit(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch heads tokens tokens"]]:
        """What `forward` returns, and the weights: softmax of query · key / sqrt(head width)."""
        query, key, value = self._split(tokens)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self._joined(weights @ value), weights

    def _split(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "3 batch heads tokens head_width"]:
        split = "batch tokens (three heads width) -> three batch heads tokens width"
        return rearrange(self.to_qkv(self.norm(tokens)), split, three=3, heads=self.heads)

    def _joined(self, mixed: Float[Tensor, "batch heads tokens head_width"]) -> Float[Tensor, "batch tokens width"]:
        return self.to_out(rearrange(mixed, "batch heads tokens width -> batch tokens (heads width)"))


class FeedForward(nn.Module):
    """LayerNorm, widen, GELU, narrow."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(shape.width, shape.norm_eps),
            Linear(shape.width, shape.mlp_width),
            nn.GELU(),
            Linear(shape.mlp_width, shape.width),
        )

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        return self.net(tokens)
