"""Frozen AudioMAE latents of the first 10.24 s of a clip, 768 numbers every 160 ms.

    sonograph add-feature DATASET audiomae@gaunernst/vit_base_patch16_1024_128.audiomae_as2m

`audiomae:patches` keeps the eight patches of each step, low frequencies first. Weights are CC-BY 4.0. More than a
second a clip on one core: meant for a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shards.audiomae_vit import VIT_B, AudioMaeViT, ViTConfig, random_vit, trained_vit
from shards.example import Clip
from shards.pretrained import Weights, resolve
from shards.problem import UsageProblem
from shards.spectrum import kaldi_log_mel
from shards.words import nearest

PORT = "gaunernst/vit_base_patch16_1024_128.audiomae_as2m"
_RATE_HZ, _WINDOW_SAMPLES, _HOP_SAMPLES = 16_000, 400, 160
_MEAN, _DEVIATION = -4.2677393, 4.5689974  # of AudioSet's filter bank (facebookresearch/AudioMAE, main_finetune_as.py)
_LAST_BLOCKS = 3
_GPU_CLIPS = 32

Pooled = Literal["steps", "patches"]


@dataclass(frozen=True)
class AudioMae:
    """A ViT over Kaldi's filter bank. It holds where its weights lie, not the weights: each worker opens them once."""

    pooled: Pooled = "steps"
    """Whether the patches of a time step are averaged."""
    config: ViTConfig = VIT_B
    weights: Weights | int | None = None
    """Where they lie, or the seed of some that nobody trained; None: closed."""
    device: str = "cpu"
    sample_rate_hz: int = _RATE_HZ
    suffix: str = "npy"

    @property
    def column(self) -> str:
        return "audiomae" if self.pooled == "steps" else f"audiomae-{self.pooled}"

    @property
    def word(self) -> str:
        return self.column.replace("-", ":")

    @property
    def contract(self) -> Mapping[str, object]:
        config = self.config
        return {
            "feature": "audiomae",
            "sample_rate_hz": self.sample_rate_hz,
            "channels": "mean",
            "front_end": f"the clip's mean removed; kaldi fbank, {config.bands} bands, hanning, 25 ms every 10 ms",
            "longest_frames": config.frames,
            "normalisation": f"padded by 0 to the longest, then (x - {_MEAN}) / (2 * {_DEVIATION})",
            "model": f"ViT, {config.depth} blocks of {config.width}, {config.heads} heads, patches of {config.patch}",
            "layer": f"mean of the last {_LAST_BLOCKS} blocks, each through the final norm",
            "pooled": self.pooled,
            "width": config.width,
            "array": "(width, frames), frame-major",
            "stored": "latents",
            "dtype": "float16",
            "relative_error": 2.0**-11,
            **({} if self.weights is None else {"weights": self._stated()}),
        }

    def frames(self, samples: int) -> int:
        """Time steps that touch sound, or their patches; what lies beyond the longest clip is not heard."""
        heard = min(max(1 + (samples - _WINDOW_SAMPLES) // _HOP_SAMPLES, 0), self.config.frames)
        return -(-heard // self.config.patch) * (1 if self.pooled == "steps" else self.config.patches[1])

    def to(self, device: str) -> "AudioMae":
        """The same feature computed on another device, but for float32's rounding."""
        return replace(self, device=device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (width, frames), float16, frame-major.

        Raises ValueError for a clip shorter than 25 ms, and UsageProblem when no weights were given.
        """
        vit, arrays = self.opened(), []
        together = 1 if self.device == "cpu" else _GPU_CLIPS  # on a CPU no batch may decide the last bits
        for begin in range(0, len(clips), together):
            batch = clips[begin : begin + together]
            heard = torch.stack([self._front_end(clip) for clip in batch])
            latents = self._pooled(vit(heard, last_blocks=_LAST_BLOCKS)).half().cpu().numpy()
            lengths = [self.frames(clip.waveform.shape[1]) for clip in batch]
            arrays += [each[:length].copy().T for each, length in zip(latents, lengths, strict=True)]
        return arrays

    def restore(self, stored: Tensor) -> Tensor:
        """Latents, float16 -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """None: nothing here turns such latents into sound."""
        return None

    def opened(self) -> AudioMaeViT:
        """The network, built once in a process. Raises UsageProblem for a closed feature."""
        if self.weights is None:
            raise UsageProblem(
                f"{self.word} needs AudioMAE's weights and none were given, so no latent can be computed. Give a "
                f"folder with its model.safetensors as {self.word}@FOLDER, or the hub id {self.word}@{PORT}. Without "
                "network, logmel_stats is a feature that needs none."
            )
        return _network(self.config, self.weights, self.device)

    def _stated(self) -> Mapping[str, object]:
        return self.weights.stated if isinstance(self.weights, Weights) else {"random_seed": self.weights}

    def _front_end(self, clip: Clip) -> Float[Tensor, "frames bands"]:
        assert clip.sample_rate_hz == self.sample_rate_hz and len(clip.waveform) == 1
        if clip.waveform.shape[1] < _WINDOW_SAMPLES:
            raise ValueError(f"it is too short for AudioMAE: less than a window of {_WINDOW_SAMPLES} samples")
        return normalised_log_mel(torch.from_numpy(clip.waveform[0]).to(self.device), self.config)

    def _pooled(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch frames width"]:
        if self.pooled == "patches":
            return tokens
        return tokens.unflatten(1, self.config.patches).mean(dim=2)


def normalised_log_mel(waveform: Float[Tensor, " samples"], config: ViTConfig) -> Float[Tensor, "frames bands"]:
    """What the network sees of a waveform at 16 kHz: always its full number of frames."""
    heard = (waveform - waveform.mean())[: (config.frames - 1) * _HOP_SAMPLES + _WINDOW_SAMPLES]
    log_mel = kaldi_log_mel(heard, sample_rate_hz=_RATE_HZ, bands=config.bands)
    padded = torch.nn.functional.pad(log_mel, (0, 0, 0, config.frames - len(log_mel)))
    return (padded - _MEAN) / (2 * _DEVIATION)


def load(contract: str, weights: str | None = None, *, accept_licence: str = "") -> AudioMae:
    """`audiomae` or `audiomae:patches`, closed when no weights are named; these are checked at once.

    Raises UsageProblem for another word, DataProblem for weights that are not AudioMAE's.
    """
    pooled: Pooled
    match contract:
        case "" | "steps":
            pooled = "steps"
        case "patches":
            pooled = "patches"
        case _:
            choice = nearest(contract, ("steps", "patches"))
            raise UsageProblem(f"audiomae has no contract '{contract}', so nothing was computed. {choice}")
    return AudioMae(pooled) if weights is None else trained(weights, pooled=pooled, accept_licence=accept_licence)


def trained(word: str, *, pooled: Pooled = "steps", config: ViTConfig = VIT_B, accept_licence: str = "") -> AudioMae:
    """The feature with the weights of a folder, a file or a hub id, opened at once. Raises why they cannot be used."""
    feature = AudioMae(pooled, config, resolve(word, accept_licence=accept_licence))
    feature.opened()
    return feature


def with_random_weights(seed: int, *, pooled: Pooled = "steps", config: ViTConfig = VIT_B) -> AudioMae:
    """For tests and for timing: the contract says that nobody trained these weights."""
    return AudioMae(pooled, config, seed)


@lru_cache(maxsize=2)
def _network(config: ViTConfig, weights: Weights | int, device: str) -> AudioMaeViT:
    if isinstance(weights, int):
        return random_vit(config, weights).to(device)
    weights.check()
    files = [weights.folder / name for name in weights.files if name.endswith(".safetensors")]
    return trained_vit(config, files).to(device)
