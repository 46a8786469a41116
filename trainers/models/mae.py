"""The masked autoencoder that Myna is compared with: its encoder on the visible patches, a decoder for the hidden ones.

The embedding is that of the encoder, a Myna-Base by default, over all patches; the decoder serves training only.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainers.models.myna import MynaConfig, sincos_positions
from trainers.models.transformer import Transformer


@dataclass(frozen=True)
class MaeConfig:
    """Shape of encoder and decoder; the defaults are the published baseline (32M)."""

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
    """Number of the encoder's blocks."""
    decoder_depth: int = 6
    """Number of the decoder's blocks; the public code's default of 4 is not what the paper used."""
    heads: int = 6
    """Attention heads in each block."""
    head_width: int = 64
    """Width of one attention head."""
    mlp_width: int = 1536
    """Hidden width of each block's feed-forward part."""
    log1p: bool = False
    """Compress mel power with log(1 + x) on input; what is to be predicted always is."""

    def __post_init__(self) -> None:
        assert self.encoder  # raises UsageProblem for a shape that cannot be built

    @property
    def encoder(self) -> MynaConfig:
        return MynaConfig(
            patch_bands=self.patch_bands,
            patch_frames=self.patch_frames,
            bands=self.bands,
            frames=self.frames,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            log1p=self.log1p,
        )

    def build(self) -> "Mae":
        """A new autoencoder with random weights from torch's global generator."""
        return Mae(self)


class Mae(nn.Module):
    """Embeds like its encoder; `predict` guesses hidden patches from visible ones."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.mask_token = MaskToken(config.width)
        self.decoder = Transformer(config.encoder.block, config.decoder_depth)
        self.to_patch = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.patch_bands * config.patch_frames)
        )

    @property
    def patchings(self) -> tuple[str, ...]:
        """Names of the kinds of patch: one."""
        return self.encoder.patchings

    def tokens_of(self, patching: str) -> int:
        """Patches in one window, before masking."""
        return self.encoder.tokens_of(patching)

    @property
    def pass_width(self) -> int:
        """Width of the encoder's embedding."""
        return self.encoder.pass_width

    @property
    def embedding_width(self) -> int:
        """Width of what `forward` returns."""
        return self.encoder.embedding_width

    def forward(
        self,
        mel: Float[Tensor, "batch bands frames"],
        keep: Int[Tensor, "batch kept"] | None = None,
        *,
        patching: str | None = None,
    ) -> Float[Tensor, "batch width"]:
        """The encoder's embedding: the mean of its final tokens."""
        return self.encoder(mel, keep, patching=patching)

    def hidden_states(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch tokens width"]]:
        """Those of the encoder over all patches."""
        return self.encoder.hidden_states(mel, patching=patching)

    def attention_maps(
        self, mel: Float[Tensor, "batch bands frames"], *, patching: str | None = None
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Those of the encoder over all patches."""
        return self.encoder.attention_maps(mel, patching=patching)

    def patches(self, mel: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch tokens values"]:
        """Raw power patch by patch, in the order of the tokens."""
        grid = self.encoder.to_patch_embedding[0](mel)
        return rearrange(grid, "batch rows columns values -> batch (rows columns) values")

    def predict(
        self, mel: Float[Tensor, "batch bands frames"], order: Int[Tensor, "batch tokens"], *, hidden: int
    ) -> Float[Tensor, "batch hidden values"]:
        """The patches that the first `hidden` tokens of each row's `order` number, guessed from all others.

        Visible tokens come out of the encoder with their positions in them, so only mask tokens get theirs again; all
        are put back into the order of the grid before decoding.
        """
        masked, visible = order[:, :hidden], order[:, hidden:]
        encoded = self.encoder.transformer(self.encoder.embed_patches(mel, visible))
        rows, columns = mel.shape[1] // self.config.patch_bands, mel.shape[2] // self.config.patch_frames
        positions = sincos_positions(rows, columns, self.config.width, device=mel.device)[masked]
        tokens = torch.cat([self.mask_token(positions).to(encoded.dtype), encoded], dim=1)
        decoded = self.decoder(torch.take_along_dim(tokens, order.argsort(dim=1)[..., None], dim=1))
        return self.to_patch(torch.take_along_dim(decoded, masked[..., None], dim=1))


class MaskToken(nn.Module):
    """One learned vector that stands for every hidden patch. A module of its own: ZeRO 3 gathers weights by module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, positions: Float[Tensor, "batch hidden width"]) -> Float[Tensor, "batch hidden width"]:
        return self.vector + positions.to(self.vector.dtype)
