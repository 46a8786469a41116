"""Statistics of the log mel against their definition in float64, and the bound of their storage."""

from collections.abc import Callable
from functools import partial

import librosa
import numpy as np
import pytest
import torch

from shards.example import Clip
from shards.feature import Feature, load_feature
from shards.problem import UsageProblem

STATISTICS = load_feature("logmel_stats")


def clip_of(waveform: np.ndarray) -> Clip:
    return Clip(waveform.astype(np.float32)[None], 16_000)


def note(rng: np.random.Generator, level: float) -> np.ndarray:
    seconds = np.arange(48_000) / 16_000
    return level * (np.sin(2 * np.pi * 330 * seconds) * np.exp(-seconds) + 1e-3 * rng.standard_normal(48_000))


def loud_sine(rng: np.random.Generator) -> np.ndarray:
    """The worst case: most bands hold nothing but float32's rounding of the one that is heard."""
    return np.sin(2 * np.pi * rng.uniform(30, 7900) * np.arange(48_000) / 16_000)


@pytest.mark.parametrize(
    "wave", [loud_sine, *(partial(note, level=level) for level in (1e-3, 0.1, 1.0))], ids=["sine", "-60", "-20", "0 dB"]
)
def test_statistics_are_within_the_contracts_bound_of_their_definition_in_float64(
    wave: Callable[[np.random.Generator], np.ndarray], rng: np.random.Generator
):
    waveform = wave(rng).astype(np.float32).astype(np.float64)
    spectrum = np.abs(librosa.stft(waveform, n_fft=2048, hop_length=512, pad_mode="reflect")) ** 2
    basis = librosa.filters.mel(sr=16_000, n_fft=2048, n_mels=128, norm="slaney", dtype=np.float64)
    bands = np.log(basis @ spectrum + 1e-6)
    exact = np.concatenate([bands.mean(axis=1), bands.std(axis=1), np.abs(np.diff(bands, axis=1)).mean(axis=1)])
    (stored,) = STATISTICS([clip_of(waveform)])
    assert stored.shape == (384, STATISTICS.frames(48_000)) and stored.dtype == np.float32
    assert np.abs(stored[:, 0] - exact).max() <= STATISTICS.contract["absolute_error"]


def test_a_louder_clip_differs_in_its_means_alone(rng: np.random.Generator):
    waveform = rng.standard_normal(32_000)
    quiet, loud = (STATISTICS([clip_of(level * waveform)])[0][:, 0] for level in (0.1, 0.2))
    np.testing.assert_allclose(loud[:128] - quiet[:128], 2 * np.log(2), atol=1e-3)
    np.testing.assert_allclose(loud[128:], quiet[128:], atol=1e-3)


def test_silence_and_the_shortest_clip_have_finite_statistics():
    (silent,) = STATISTICS([clip_of(np.zeros(16_000))])
    np.testing.assert_allclose(silent[:128], np.log(1e-6), rtol=1e-6)
    assert (silent[128:] == 0).all()
    assert np.isfinite(STATISTICS([clip_of(np.ones(1_025))])[0]).all()


def test_what_is_stored_is_restored_as_it_is_and_cannot_be_heard(rng: np.random.Generator):
    (stored,) = STATISTICS([clip_of(note(rng, 0.1))])
    assert torch.equal(STATISTICS.restore(torch.from_numpy(stored)), torch.from_numpy(stored))
    assert STATISTICS.preview(stored) is None


def test_too_short_a_clip_is_refused():
    with pytest.raises(ValueError, match="too short"):
        STATISTICS([clip_of(np.zeros(500))])


def test_there_is_one_contract_without_weights():
    assert isinstance(STATISTICS, Feature) and load_feature(STATISTICS.word) == STATISTICS
    for word in ("logmel_stats:mean", "logmel_stats@weights"):
        with pytest.raises(UsageProblem, match="neither contracts nor weights"):
            load_feature(word)
