"""Power mel spectrograms; the one place that knows torchaudio, for the filter banks."""

import sys
import types
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


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
def mel_basis(
    *, sample_rate_hz: int, fft_samples: int, bands: int, low_hz: float, high_hz: float
) -> Float[Tensor, "bins bands"]:
    """Slaney-scale, Slaney-area-normalised triangular filters (librosa's `htk=False, norm="slaney"`)."""
    return _import_functional().melscale_fbanks(
        fft_samples // 2 + 1, low_hz, high_hz, bands, sample_rate_hz, norm="slaney", mel_scale="slaney"
    )


def power_mel(
    waveform: Float[Tensor, "channels samples"],
    basis: Float[Tensor, "bins bands"],
    *,
    fft_samples: int,
    hop_samples: int,
) -> Float[Tensor, "channels frames bands"]:
    """Mel-weighted power of a centred, reflect-padded, periodic-Hann STFT; `1 + samples // hop_samples` frames.

    Own framing and rfft in place of torch.stft: the frames stay in the layout that the product and the shard want.
    """
    margin = fft_samples // 2
    padded = torch.nn.functional.pad(waveform, (margin, margin), mode="reflect")
    frames = padded.unfold(-1, fft_samples, hop_samples) * torch.hann_window(fft_samples)
    spectrum = torch.view_as_real(torch.fft.rfft(frames))
    return spectrum.square().sum(-1) @ basis
