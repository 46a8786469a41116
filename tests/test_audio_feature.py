"""Sound as FLAC: what comes back, how near, and what is cut off or refused."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from shards.decode import decode, flac_bytes
from shards.example import Clip
from shards.feature import Feature, fingerprint, load_feature
from shards.features.audio import Audio
from shards.problem import UsageProblem

AUDIO = load_feature("audio")
HALF_A_STEP = 2.0**-16


def noise(samples: int, *, rate_hz: int = 44_100, level: float = 0.2, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip((level * rng.standard_normal((1, samples))).astype(np.float32), rate_hz)


@given(
    samples=st.integers(1, 9_000),
    rate_hz=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 65_535, 96_000, 192_000]),
    level=st.floats(1e-5, 0.5),
)
def test_a_clip_comes_back_at_its_rate_within_the_contracts_bound(samples: int, rate_hz: int, level: float):
    clip = noise(samples, rate_hz=rate_hz, level=level)
    (stored,) = AUDIO([clip])
    heard = AUDIO.preview(stored)
    assert heard.sample_rate_hz == rate_hz
    assert heard.waveform.shape == (1, AUDIO.frames(samples))
    inside = np.abs(clip.waveform) <= 1 - 2.0**-15
    assert np.abs(heard.waveform - clip.waveform)[inside].max(initial=0.0) <= AUDIO.contract["absolute_error"]


def test_the_bound_is_reached_so_that_it_is_no_idle_one():
    clip = Clip(np.float32([[0.5 + HALF_A_STEP, -0.25 - HALF_A_STEP]]), 16_000)
    assert np.abs(AUDIO.preview(AUDIO([clip])[0]).waveform - clip.waveform).max() == HALF_A_STEP


def test_what_is_beyond_full_scale_is_cut_off_and_the_rest_keeps_its_level():
    clip = noise(20_000, level=0.4)
    heard = AUDIO.preview(AUDIO([clip])[0]).waveform
    beyond = np.abs(clip.waveform) > 1
    assert 100 < beyond.sum() < 1000
    assert np.abs(heard[beyond] - np.sign(clip.waveform[beyond])).max() <= 2.0**-15
    assert np.abs(heard - clip.waveform)[np.abs(clip.waveform) < 0.9999].max() <= HALF_A_STEP


def test_a_clip_of_which_a_tenth_would_be_cut_off_is_refused():
    with pytest.raises(ValueError, match="too loud for 16 bits: [89].% of its amplitudes are beyond full scale"):
        AUDIO([noise(1_000, level=8.0)])


def test_an_empty_clip_and_an_impossible_rate_are_refused():
    with pytest.raises(ValueError, match="no sample"):
        AUDIO([noise(0)])
    with pytest.raises(ValueError, match="cannot have a rate of 65,537 Hz"):
        AUDIO([noise(10, rate_hz=65_537)])


def test_members_are_plain_flac_files_of_16_bits_and_equal_bytes_for_equal_clips():
    (stored,), (again,) = AUDIO([noise(5_000)]), AUDIO([noise(5_000)])
    about = soundfile.info(io.BytesIO(stored))
    assert (about.format, about.subtype, about.channels, about.frames) == ("FLAC", "PCM_16", 1, 5_000)
    assert stored == again


def test_flac_keeps_the_channels_of_a_clip():
    stereo = Clip(np.concatenate([noise(500).waveform, noise(500, seed=1).waveform]), 44_100)
    heard = decode(flac_bytes(stereo), channels="keep").waveform
    assert np.abs(heard - stereo.waveform).max() <= HALF_A_STEP


def test_sixteen_bit_sources_come_back_exactly():
    steps = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (1, 4_000))
    clip = Clip((steps / np.float32(1 << 15)).astype(np.float32), 44_100)
    np.testing.assert_array_equal(AUDIO.preview(AUDIO([clip])[0]).waveform, clip.waveform)


def test_words_columns_and_contracts():
    resampled = load_feature("audio:24000")
    assert isinstance(AUDIO, Feature) and isinstance(resampled, Feature)
    assert (AUDIO.column, AUDIO.word, AUDIO.sample_rate_hz) == ("audio", "audio", None)
    assert (resampled.column, resampled.word, resampled.sample_rate_hz) == ("audio-24000", "audio:24000", 24_000)
    assert load_feature(resampled.word) == resampled == Audio(24_000)
    assert fingerprint(resampled) != fingerprint(AUDIO)


@pytest.mark.parametrize("word", ["audio:mp3", "audio:0", "audio:65537", "audio:-1", "audio:24k", "audio@weights"])
def test_wrong_words_are_refused_with_a_remedy(word: str):
    with pytest.raises(UsageProblem, match="audio"):
        load_feature(word)
