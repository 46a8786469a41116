"""The mel contract: published facts, three reference implementations, and the bound of its storage."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.example import Clip
from shards.feature import fingerprint, load_feature
from shards.features.mel import MYNA
from shards.problem import UsageProblem
from shards.spectrum import _import_functional, mel_basis, power_mel

FFT, HOP = 2048, 512
BASIS = mel_basis(sample_rate_hz=16_000, fft_samples=FFT, bands=128, low_hz=0.0, high_hz=8_000.0)


def power(waveform: np.ndarray) -> torch.Tensor:
    """Power mel (bands, frames) before storage."""
    mel = power_mel(torch.from_numpy(waveform.astype(np.float32))[None], BASIS, fft_samples=FFT, hop_samples=HOP)
    return mel[0].T


def sine(samples: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000)


@pytest.mark.parametrize("samples, frames", [(48_000, 94), (50_000, 98), (100_000, 196), (160_000, 313)])
def test_the_published_frame_counts(samples: int, frames: int):
    assert MYNA.frames(samples) == frames == power(sine(samples)).shape[1]


@given(st.integers(1025, 40_000))
def test_the_mel_knows_its_frame_count_without_running(samples: int):
    clip = Clip(np.zeros((1, samples), np.float32), 16_000)
    assert MYNA([clip])[0].shape == (128, MYNA.frames(samples))


def test_a_sine_of_440_hz_has_the_published_values():
    frame = power(sine(50_000))[:, 50]
    assert frame.argmax() == 18
    assert frame[18] == pytest.approx(13_134.4, abs=1)
    assert frame.sum() == pytest.approx(16_816.5, abs=2)


def test_the_basis_is_librosas_slaney_basis_and_has_no_empty_band():
    reference = librosa.filters.mel(sr=16_000, n_fft=FFT, n_mels=128, htk=False, norm="slaney")
    assert BASIS.shape == (1025, 128)
    assert np.abs(BASIS.numpy().T - reference).max() < 1e-6
    assert (BASIS.sum(0) > 0).all()
    other = librosa.filters.mel(sr=16_000, n_fft=FFT, n_mels=128, htk=False, norm=1)
    assert np.abs(other - reference).max() == pytest.approx(
        0.29, abs=0.01
    )  # the trap: librosa's norm=1 is another scaling


def references(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """Mel power by nnAudio (Myna's own front end), torchaudio and librosa."""
    _import_functional()
    from nnAudio.features.mel import MelSpectrogram as NNAudio
    from torchaudio.transforms import MelSpectrogram as TorchAudio

    tensor = torch.from_numpy(waveform.astype(np.float32))[None]
    common = {"sample_rate": 16_000, "n_fft": FFT, "hop_length": HOP, "n_mels": 128}
    return {
        "nnAudio": NNAudio(sr=16_000, n_fft=FFT, hop_length=HOP, n_mels=128, verbose=False)(tensor)[0].numpy(),
        "torchaudio": TorchAudio(**common, norm="slaney", mel_scale="slaney")(tensor)[0].numpy(),
        "librosa": librosa.feature.melspectrogram(
            y=waveform, sr=16_000, n_fft=FFT, hop_length=HOP, n_mels=128, norm="slaney", pad_mode="reflect"
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["noise", "note"])
def test_power_equals_nnaudio_torchaudio_and_librosa(source: str, rng: np.random.Generator):
    harmonics = sum(sine(64_000, 220 * partial) / partial for partial in range(1, 12))
    waveform = 0.1 * (
        rng.standard_normal(64_000) if source == "noise" else harmonics * np.exp(-np.arange(64_000) / 20_000)
    )
    ours = power(waveform).numpy()
    for name, theirs in references(waveform).items():
        error = np.abs(ours - theirs).max() / theirs.max()
        assert error < 5e-6, f"{name} differs by {error} of the peak"


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1.0))
def test_storage_keeps_power_within_the_contracts_bound(seed: int, level: float):
    waveform = level * np.random.default_rng(seed).standard_normal(8192)
    exact = power(waveform).double()
    (stored,) = MYNA([Clip(waveform.astype(np.float32)[None], 16_000)])
    restored = MYNA.restore(torch.from_numpy(stored.copy())).double()
    normal = exact.sqrt() >= torch.finfo(torch.float16).smallest_normal
    error = ((restored - exact).abs() / exact)[normal].max()
    assert stored.dtype == np.float16
    assert error <= MYNA.contract["relative_error"] * (1 + 2**-10)


def test_full_scale_input_does_not_overflow():
    square = np.sign(sine(64_000, 110)).astype(np.float32)[None]
    assert np.isfinite(MYNA([Clip(square, 16_000)])[0]).all()


def test_frames_cropped_from_the_whole_equal_the_mel_of_just_their_samples(rng: np.random.Generator):
    waveform = rng.standard_normal(100_000).astype(np.float32)
    first = 40
    start = HOP * first - FFT // 2
    frames = torch.from_numpy(waveform[start : start + 50_688]).unfold(0, FFT, HOP) * torch.hann_window(FFT)
    alone = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1) @ BASIS
    torch.testing.assert_close(power(waveform)[:, first : first + 96].T, alone, rtol=1e-5, atol=1e-5)


def test_a_mel_does_not_depend_on_what_else_is_computed_with_it(rng: np.random.Generator):
    clips = [Clip(rng.standard_normal((1, 64_000)).astype(np.float32), 16_000) for _ in range(3)]
    together = MYNA(clips)
    for clip, array in zip(clips, together, strict=True):
        np.testing.assert_array_equal(MYNA([clip])[0], array)


def test_words_load_the_contract_and_wrong_ones_name_the_nearest():
    assert load_feature("mel") is load_feature("mel:myna") is MYNA
    assert len(fingerprint(MYNA)) == 64
    with pytest.raises(UsageProblem, match="Did you mean mel"):
        load_feature("mell")
    with pytest.raises(UsageProblem, match="Did you mean myna"):
        load_feature("mel:mina")
