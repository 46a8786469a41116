"""How latents are stored as the arrays of a column, and what a contract says of them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch

from shards.codecs.codec import LatentCodec
from shards.codecs.logpower import LogPowerCodec
from shards.codecs.neural import NeuralCodec
from shards.codecs.projection import ProjectedCodec
from shards.example import Clip
from shards.spectrum import one_core_each

HALF_ERROR = {"relative_error": 2.0**-11, "absolute_error": 2.0**-25}  # below 2^-14 it is the second that holds
_HALF = np.finfo(np.float16)
_LOG_LIMIT = 16.0
_GPU_CLIPS = 16


def stated(
    name: str,
    sample_rate_hz: int,
    hop_samples: int,
    parameters: Mapping[str, object],
    weights: Mapping[str, object] | None,
) -> Mapping[str, object]:
    """The contract of a column of latents."""
    return {
        "feature": "codec",
        "codec": name,
        "sample_rate_hz": sample_rate_hz,
        "hop_samples": hop_samples,
        "channels": "mean",
        "array": "(dim, frames), frame-major",
        **parameters,
        **({} if weights is None else {"weights": weights}),
    }


def stored(codec: LatentCodec, clips: Sequence[Clip]) -> list[np.ndarray]:
    """One after the other on a CPU, where no batch may decide the last bits; on a GPU clips of one length together.

    Raises ValueError for a clip beyond what is stored.
    """
    waveforms = [mono(clip, codec.sample_rate_hz) for clip in clips]
    if isinstance(codec, NeuralCodec | ProjectedCodec) and codec.device != "cpu":
        return [array for alike in _alike(waveforms) for array in _encoded(codec, alike)]
    return one_core_each(lambda waveform: _encoded(codec, [waveform])[0], waveforms)


def decoded(codec: LatentCodec, latents: np.ndarray | bytes) -> Clip:
    """The sound of what was stored."""
    assert isinstance(latents, np.ndarray)
    waveform = codec.decode(torch.from_numpy(np.ascontiguousarray(latents)).float()[None])
    return Clip(waveform.cpu().numpy(), codec.sample_rate_hz)


def mono(clip: Clip, sample_rate_hz: int) -> np.ndarray:
    """The one channel of a clip of that rate."""
    assert clip.sample_rate_hz == sample_rate_hz and len(clip.waveform) == 1
    return clip.waveform[0]


def _alike(waveforms: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for _, same in groupby(waveforms, key=len):
        alike = list(same)
        yield from (alike[begin : begin + _GPU_CLIPS] for begin in range(0, len(alike), _GPU_CLIPS))


def _encoded(codec: LatentCodec, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    batch = torch.from_numpy(np.stack(waveforms))
    latents = codec.encode(batch if isinstance(codec, NeuralCodec | ProjectedCodec) else batch.double())
    dtype, limit = _storage(codec)
    if not latents.abs().amax() <= limit:
        raise ValueError(f"it is too loud to be stored: its peak is {batch.abs().amax():,.0f} times full scale")
    # numpy rounds float64 once, where torch goes through float32 and so leaves the bound by a hair.
    return [array.T for array in latents.mT.contiguous().cpu().numpy().astype(dtype)]


def _storage(codec: LatentCodec) -> tuple[type[np.generic], float]:
    """The stored type and the largest size within its error bound."""
    if isinstance(codec, NeuralCodec) and codec.latent == "codes":
        return np.int16, float(np.iinfo(np.int16).max)
    return np.float16, _LOG_LIMIT if isinstance(codec, LogPowerCodec) else float(_HALF.max)
