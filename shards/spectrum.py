"""Power spectra, mel filters and the way back to sound; the one place that knows torchaudio."""

import sys
import types
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK_FRAMES = 128  # on a CPU: their spectrum stays in the processor's cache, and memory does not grow with the clip
_BLOCK_AMPLITUDES = 1 << 26  # on a GPU: what one step may take, half a GiB with its spectrum
_GROUP_BANDS = 32  # filters multiplied at once with only the bins they hear: 2 to 4 times faster than the full product
_MOMENTUM = 0.99  # of Griffin-Lim (Perraudin et al. 2013), torchaudio's default

Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True)
class MelFilters:
    """Triangular filters on the bins of a spectrum; edges in Hz, `norm` is Slaney's unit area or none."""

    sample_rate_hz: int
    fft_samples: int
    bands: int
    low_hz: float
    high_hz: float
    scale: Literal["slaney", "htk"]
    norm: Literal["slaney", "none"]


def _import_functional() -> types.ModuleType:
    """torchaudio's wheel looks for CUDA libraries at import; beside a CPU torch a stub stands in for its extension.

    Only transforms, functional and compliance are used, and they are plain torch: no decoder, no compiled operator.
    """
    try:
        import torchaudio.functional
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        extension = types.ModuleType("torchaudio._extension")
        extension.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=lambda function: function
        )
        sys.modules["torchaudio._extension"] = extension
        import torchaudio.functional
    return torchaudio.functional


@cache
def mel_basis(filters: MelFilters) -> Float[Tensor, "bins bands"]:
    """The filters as a matrix, librosa's `filters.mel` transposed. A band between two bins stays empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty bands: who chooses filters looks for them
        return _import_functional().melscale_fbanks(
            filters.fft_samples // 2 + 1,
            filters.low_hz,
            filters.high_hz,
            filters.bands,
            filters.sample_rate_hz,
            norm=None if filters.norm == "none" else filters.norm,
            mel_scale=filters.scale,
        )


def power_mel(
    waveform: Float[Tensor, "channels samples"], filters: MelFilters, *, hop_samples: int
) -> Float[Tensor, "channels frames bands"]:
    """Mel-weighted power of a centred, reflect-padded, periodic-Hann STFT; `1 + samples // hop_samples` frames.

    Own framing and rfft in place of torch.stft: the frames stay in the layout that the product and the shard want.
    """
    fft_samples, device = filters.fft_samples, waveform.device
    margin = fft_samples // 2
    padded = torch.nn.functional.pad(waveform, (margin, margin), mode="reflect")
    frames = padded.unfold(-1, fft_samples, hop_samples)
    window = _window(fft_samples, device)
    mel = torch.empty(*frames.shape[:2], filters.bands, device=device)
    step = _BLOCK_FRAMES if device.type == "cpu" else max(_BLOCK_AMPLITUDES // (len(frames) * fft_samples), 1)
    for begin in range(0, frames.shape[1], step):
        block = slice(begin, begin + step)
        spectrum = torch.fft.rfft(frames[:, block] * window)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        for bins, bands, weights in _groups(filters, device):
            mel[:, block, bands] = power[..., bins] @ weights
    return mel


@cache
def _window(samples: int, device: torch.device) -> Float[Tensor, " samples"]:
    return torch.hann_window(samples, device=device)


@cache
def _groups(filters: MelFilters, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """The basis cut into groups of neighbouring bands: the bins they hear, the bands, their weights."""
    basis, groups = mel_basis(filters), []
    for begin in range(0, filters.bands, _GROUP_BANDS):
        bands = slice(begin, begin + _GROUP_BANDS)
        heard = basis[:, bands].any(dim=1).nonzero()
        bins = slice(int(heard.min()), int(heard.max()) + 1) if len(heard) else slice(0, 0)
        groups.append((bins, bands, basis[bins, bands].contiguous().to(device)))
    return groups


def one_core_each(function: Callable[[Work], Done], works: Sequence[Work]) -> list[Done]:
    """`function` of all works in their order, as many at a time as torch has threads, each on a single one.

    torch's own threads share one spectrum and wait for each other at every step: on cores that others use too they
    took 4 to 100 times as long as one thread alone.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not works:
        return [function(work) for work in works]
    try:
        with ThreadPoolExecutor(min(threads, len(works)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, works))
    finally:
        torch.set_num_threads(threads)  # its default for new threads was lowered, too


def linear_power(mel: Float[Tensor, "bands frames"], filters: MelFilters) -> Float[Tensor, "bins frames"]:
    """The power spectrum of least norm that has this mel, negative powers raised to 0: for listening only."""
    return (_pseudo_inverse(filters) @ mel).clamp_min_(0)


@cache
def _pseudo_inverse(filters: MelFilters) -> Float[Tensor, "bins bands"]:
    return torch.linalg.pinv(mel_basis(filters).T.double()).float()


def griffin_lim(
    power: Float[Tensor, "bins frames"], n_fft: int, hop: int, iterations: int = 32, seed: int = 0
) -> Float[Tensor, " samples"]:
    """Sound of about this power spectrum, by fast Griffin-Lim from random phases: `(frames - 1) * hop` samples.

    `n_fft` and `hop` are in samples, windows are periodic Hann and centred. The same seed gives the same sound.
    """
    functional = _import_functional()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchaudio draws the first phases from the global generator
        return functional.griffinlim(
            power,
            window=torch.hann_window(n_fft),
            n_fft=n_fft,
            hop_length=hop,
            win_length=n_fft,
            power=2.0,
            n_iter=iterations,
            momentum=_MOMENTUM,
            length=(power.shape[1] - 1) * hop,
            rand_init=True,
        )


def kaldi_log_mel(
    waveform: Float[Tensor, " samples"], *, sample_rate_hz: int, bands: int
) -> Float[Tensor, "frames bands"]:
    """Kaldi's log-mel filter bank, frames of 25 ms every 10 ms, those that fit whole; symmetric Hann, no dither.

    Natural log with float32's epsilon as floor. Pre-emphasis 0.97, each frame's mean removed, 20 Hz to half the rate.
    """
    _import_functional()
    return import_module("torchaudio.compliance.kaldi").fbank(
        waveform[None],
        sample_frequency=float(sample_rate_hz),
        num_mel_bins=bands,
        htk_compat=True,
        use_energy=False,
        window_type="hanning",
        dither=0.0,
        frame_shift=10.0,
    )
