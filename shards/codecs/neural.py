"""EnCodec (mono, causal) and DAC from published weights; the one place that knows transformers.

Weights are a local folder with config.json and model.safetensors, so that nothing here asks a network. Latents are the
sum of the codebooks' vectors (`dequantised`), the encoder's own output (`continuous`), the codes as numbers, or, of a
DAC, what each codebook is asked for in the few dimensions of its own, before it answers (`projected`).
"""

import json
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shards.codecs.codec import CodecUnavailable, cut, hops, padded
from shards.pretrained import CONFIG, Weights, open_local
from shards.problem import DataProblem
from shards.store import digest_of

Latent = Literal["dequantised", "continuous", "codes", "projected"]
_FALL_BACK = "Without weights there are codec:linear, which is fitted on a corpus, and codec:low128"


@dataclass(frozen=True)
class EnCodecQuantizer:
    """Residual codebooks of transformers' EncodecModel."""

    quantizer: Any

    def quantise(self, embedding: Float[Tensor, "batch dim frames"]) -> Int[Tensor, "batch codebooks frames"]:
        return self.quantizer.encode(embedding).transpose(0, 1)

    def dequantise(self, codes: Int[Tensor, "batch codebooks frames"]) -> Float[Tensor, "batch dim frames"]:
        return self.quantizer.decode(codes.transpose(0, 1))

    def codebooks(self) -> list[Tensor]:
        return [layer.codebook.embed for layer in self.quantizer.layers]


@dataclass(frozen=True)
class DacQuantizer:
    """Residual codebooks of transformers' DacModel, each in a few dimensions of its own."""

    quantizer: Any

    def quantise(self, embedding: Float[Tensor, "batch dim frames"]) -> Int[Tensor, "batch codebooks frames"]:
        return self.quantizer(embedding)[1]

    def dequantise(self, codes: Int[Tensor, "batch codebooks frames"]) -> Float[Tensor, "batch dim frames"]:
        return self.quantizer.from_codes(codes)[0]

    def projected(self, embedding: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch projected frames"]:
        """What each codebook is asked for: the residue that the ones before it leave, projected, one below another."""
        return self.quantizer(embedding)[2]

    def unprojected(self, latents: Float[Tensor, "batch projected frames"]) -> Float[Tensor, "batch dim frames"]:
        """The sum of the vectors that answer it, each the nearest of its codebook."""
        return self.quantizer.from_latents(latents)[0]

    def codebooks(self) -> list[Tensor]:
        return [quantizer.codebook.weight for quantizer in self.quantizer.quantizers]


@dataclass(frozen=True)
class Shape:
    """What a configuration file says: no weights and no package are needed to know it."""

    architecture: Literal["encodec", "dac"]
    sample_rate_hz: int
    hop_samples: int
    """Product of the ratios: the `hop_length` of published configurations is wrong for 16 and 24 kHz."""
    dim: int
    codebooks: int
    codebook_size: int
    codebook_dim: int


@dataclass(frozen=True, eq=False)
class NeuralCodec:
    """A LatentCodec over a frozen network on one device: what it is given is taken there, what it makes stays there."""

    model: Any = field(repr=False)
    """transformers' own, whose ratio of 5 in a DAC loses a sample at its stage: up to 8 at the end are filled by 0."""
    quantizer: EnCodecQuantizer | DacQuantizer = field(repr=False)
    shape: Shape
    weights: Weights
    latent: Latent = "dequantised"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """`encodec_24khz`, `dac_44khz`."""
        return f"{self.shape.architecture}_{self.shape.sample_rate_hz // 1000}khz"

    @property
    def sample_rate_hz(self) -> int:
        return self.shape.sample_rate_hz

    @property
    def hop_samples(self) -> int:
        return self.shape.hop_samples

    @property
    def dim(self) -> int:
        if self.latent == "projected":
            return self.shape.codebooks * self.shape.codebook_dim
        return self.shape.codebooks if self.latent == "codes" else self.shape.dim

    def frames(self, samples: int) -> int:
        return hops(samples, self.hop_samples)

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """Latents in float32, where the codec is; codes are whole numbers."""
        embedding = self._embedding(waveform)
        if self.latent == "continuous":
            return embedding
        if self.latent == "projected":
            return self._dac.projected(embedding)
        codes = self.quantizer.quantise(embedding)
        return codes.float() if self.latent == "codes" else self.quantizer.dequantise(codes)

    @torch.no_grad()
    def codes(self, waveform: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch codebooks frames"]:
        """Indices into the codebooks, the coarsest first; the first few alone are a rougher code of the same sound."""
        return self.quantizer.quantise(self._embedding(waveform))

    @torch.no_grad()
    def dequantised(self, codes: Int[Tensor, "batch codebooks frames"]) -> Float[Tensor, "batch dim frames"]:
        """The latents that `codes` stand for."""
        return self.quantizer.dequantise(codes.to(self.device))

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch dim frames"], samples: int | None = None
    ) -> Float[Tensor, "batch samples"]:
        embedding = self._as_decoded(latents.to(self.device))
        wanted = latents.shape[-1] * self.hop_samples if samples is None else samples
        return cut(self.model.decoder(embedding)[:, 0], wanted, hop_samples=self.hop_samples)

    def fingerprint(self) -> str:
        """Digest of configuration, weights and kind of latent."""
        return digest_of([self.weights.sha256, self.latent])

    def to(self, device: torch.device | str) -> "NeuralCodec":
        """The same codec on `device`, to which its network moves."""
        self.model.to(device)
        return replace(self, device=str(device))

    @property
    def _dac(self) -> DacQuantizer:
        assert isinstance(self.quantizer, DacQuantizer)  # EnCodec's codebooks have all dimensions of its latents
        return self.quantizer

    def _as_decoded(self, latents: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch embedding frames"]:
        if self.latent == "codes":
            return self.quantizer.dequantise(latents.long())
        return self._dac.unprojected(latents.float()) if self.latent == "projected" else latents

    def _embedding(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        whole_hops = padded(waveform.to(self.device, torch.float32), self.hop_samples)
        return self.model.encoder(whole_hops[:, None])


def open_neural(weights: Weights | Path, *, latent: Latent = "dequantised") -> NeuralCodec:
    """The codec in a local folder, on the CPU.

    Raises CodecUnavailable when the folder or transformers is missing, DataProblem when the folder holds no mono
    EnCodec or DAC, or one whose weights are not all there.
    """
    if isinstance(weights, Path):
        if not weights.is_dir():
            raise CodecUnavailable(_unavailable(f"{weights} is no folder"))
        weights = open_local(weights)
    shape = read_shape(weights.folder)
    model = _network(weights.folder, shape)
    quantizer = (EnCodecQuantizer if shape.architecture == "encodec" else DacQuantizer)(model.quantizer)
    if not any(codebook.any() for codebook in quantizer.codebooks()):
        raise DataProblem(
            f"All codebooks in {weights.folder} are zero, as in a network that nobody trained: every latent would be "
            "0. Pass the folder of published weights."
        )
    return NeuralCodec(model, quantizer, shape, weights, latent)


def read_shape(folder: Path) -> Shape:
    """What a folder's configuration says. Raises DataProblem when it is none of a mono EnCodec or DAC."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        architecture = config["model_type"]
        ratios = config["upsampling_ratios" if architecture == "encodec" else "downsampling_ratios"]
        rate_hz, size = int(config["sampling_rate"]), int(config["codebook_size"])
        if architecture == "encodec":
            _require_plain_encodec(config)
            dim, frame_rate = int(config["hidden_size"]), -(-rate_hz // prod(ratios))
            codebook_dim = dim
            codebooks = int(1000 * max(config["target_bandwidths"]) // (frame_rate * (size.bit_length() - 1)))
        elif architecture == "dac":
            dim, codebooks = int(config["encoder_hidden_size"]) << len(ratios), int(config["n_codebooks"])
            codebook_dim = int(config["codebook_dim"])
        else:
            raise ValueError(f"it is of a {architecture}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataProblem(
            f"{path} describes no mono EnCodec or DAC ({error!r}), so no codec can be opened there. Pass the folder of "
            f"facebook/encodec_24khz or descript/dac_16khz, 24khz or 44khz. {_FALL_BACK}."
        ) from error
    return Shape(architecture, rate_hz, prod(ratios), dim, codebooks, size, codebook_dim)


def _require_plain_encodec(config: dict[str, Any]) -> None:
    """The stereo model of 48 kHz is normalised piece by piece: one sequence of latents does not decode it."""
    if config.get("audio_channels", 1) != 1 or config.get("normalize") or config.get("chunk_length_s"):
        raise ValueError("it is stereo, normalised or cut into pieces, like the model of 48 kHz")


def _network(folder: Path, shape: Shape) -> Any:
    try:
        from transformers import DacModel, EncodecModel
        from transformers.utils import logging
    except ImportError as error:
        raise CodecUnavailable(_unavailable(f"transformers cannot be imported ({error})")) from error
    logging.disable_progress_bar()
    model_class: Any = EncodecModel if shape.architecture == "encodec" else DacModel
    try:
        model, found = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever a foreign configuration makes of its parts
        raise DataProblem(_unsound(folder, f"{type(error).__name__}: {_first_line(error)}")) from error
    if missing := sorted([*found["missing_keys"], *found["mismatched_keys"]], key=str):
        raise DataProblem(_unsound(folder, f"{len(missing)} tensors are missing, {missing[0]} among them"))
    return model.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _unsound(folder: Path, cause: str) -> str:
    return (
        f"The weights in {folder} do not fill their network ({cause}), so its latents would mean nothing. Copy the "
        f"folder again. {_FALL_BACK}."
    )


def _unavailable(cause: str) -> str:
    return (
        f"{cause}, so the codec cannot be opened, and no other was taken, since latents of two codecs never fit "
        "together. Pass a folder with config.json and model.safetensors (codec:encodec_24khz@FOLDER) and install "
        f"transformers (pip install 'sonograph[codecs]'). {_FALL_BACK}."
    )
