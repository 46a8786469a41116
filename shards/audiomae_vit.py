"""AudioMAE's encoder, a plain ViT: built from its configuration, filled strictly from the published weights.

Module names are those of the timm port, whose files it reads (huggingface/pytorch-image-models, vision_transformer.py);
timm itself would bring torchvision, and torchvision another torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shards.problem import DataProblem

_EPSILON = 1e-6
_WRONG_SHOWN = 4


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer over log-mel frames; the defaults are ViT-B/16 of 85,648,128 parameters."""

    frames: int = 1024
    bands: int = 128
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072

    @property
    def patches(self) -> tuple[int, int]:
        """Along time, along frequency."""
        return self.frames // self.patch, self.bands // self.patch


VIT_B = ViTConfig()


class AudioMaeViT(nn.Module):
    """Log-mel frames -> tokens; time is the slower axis of the tokens, frequency rises within a time step."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        steps, rows = config.patches
        self.config = config
        self.patch_embed = _PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + steps * rows, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)

    def forward(
        self, log_mel: Float[Tensor, "batch frames bands"], *, last_blocks: int
    ) -> Float[Tensor, "batch tokens width"]:
        """Mean of the last blocks' outputs, each through the final norm, without the class token.

        AudioMAE's own encoder averages three (facebookresearch/AudioMAE, models_mae.py, the path without masks).
        """
        tokens = torch.cat([self.cls_token.expand(len(log_mel), -1, -1), self.patch_embed(log_mel)], dim=1)
        tokens, outputs = tokens + self.pos_embed, []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return torch.stack([self.norm(output[:, 1:]) for output in outputs[-last_blocks:]]).mean(dim=0)


class _PatchEmbedding(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, log_mel: Float[Tensor, "batch frames bands"]) -> Float[Tensor, "batch tokens width"]:
        return rearrange(self.proj(log_mel[:, None]), "batch width steps rows -> batch (steps rows) width")


class _Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=_EPSILON)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=_EPSILON)
        self.mlp = _Mlp(config)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        pattern = "batch tokens (three heads width) -> three batch heads tokens width"
        query, key, value = rearrange(self.qkv(tokens), pattern, three=3, heads=self.heads)
        heard = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(heard, "batch heads tokens width -> batch tokens (heads width)"))


class _Mlp(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        return self.fc2(F.gelu(self.fc1(tokens)))


def random_vit(config: ViTConfig, seed: int) -> AudioMaeViT:
    """Weights that nobody trained, for tests: the sizes and the speed are right, the meaning is not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = AudioMaeViT(config)
        for parameter in (vit.cls_token, vit.pos_embed):
            nn.init.normal_(parameter, std=0.02)
    return vit.eval().requires_grad_(False)


def trained_vit(config: ViTConfig, files: Sequence[Path]) -> AudioMaeViT:
    """The encoder filled from files of the timm port: every tensor placed, none left over, every shape checked.

    Raises DataProblem, with the first names that do not fit, when they hold another model or are broken.
    """
    weights = _as_named_here({name: tensor for path in files for name, tensor in _read(path).items()})
    with torch.device("meta"):
        vit = AudioMaeViT(config)
    _require_fit(files[0], weights, vit.state_dict())
    vit.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True, assign=True)
    return vit.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataProblem(
            f"{path} cannot be read as weights ({error}), so no latent can be computed. Fetch it again."
        ) from error


def _as_named_here(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm says `fc_norm` for the last norm of models that pool before it."""
    return {f"norm.{name[8:]}" if name.startswith("fc_norm.") else name: tensor for name, tensor in weights.items()}


def _require_fit(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    wrong = [f"{name} has no place" for name in sorted(found.keys() - wanted.keys())]
    wrong += [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    for name in sorted(found.keys() & wanted.keys()):
        shape, dtype = tuple(found[name].shape), found[name].dtype
        if shape != tuple(wanted[name].shape):
            wrong.append(f"{name} is {shape} in place of {tuple(wanted[name].shape)}")
        elif not dtype.is_floating_point:
            wrong.append(f"{name} is {dtype}")
    if wrong:
        more = f" and {len(wrong) - _WRONG_SHOWN} more" if len(wrong) > _WRONG_SHOWN else ""
        raise DataProblem(
            f"{path} holds another model than AudioMAE's encoder: {', '.join(wrong[:_WRONG_SHOWN])}{more}. Its latents "
            "would mean nothing, so none was computed. Give weights of the timm port, such as those of "
            "gaunernst/vit_base_patch16_1024_128.audiomae_as2m."
        )
