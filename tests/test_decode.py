"""Decoding gives whole finite clips or says why not."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from shards.decode import DecodeError, decode, resampled

REAL_NOTES = sorted((Path(__file__).parent / "data" / "nsynth").rglob("*.wav"))


def wav(waveform: np.ndarray, rate_hz: int = 16_000, subtype: str = "PCM_16", container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, subtype=subtype, format=container)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, (8000, 2)).astype(np.float32)


def test_real_notes_decode_to_their_four_seconds():
    assert len(REAL_NOTES) >= 10
    for path in REAL_NOTES:
        clip = decode(path.read_bytes())
        assert (
            clip.waveform.shape == (1, 64_000) and clip.waveform.dtype == np.float32 and clip.sample_rate_hz == 16_000
        )


def test_channels_are_averaged_and_amplitudes_kept():
    clip = decode(wav(NOISE, subtype="FLOAT"))
    np.testing.assert_allclose(clip.waveform[0], NOISE.mean(axis=1), atol=1e-7)


def test_peaks_above_one_are_kept():
    assert decode(wav(np.full((100, 1), 1.5, np.float32), subtype="FLOAT")).waveform.max() == 1.5


@given(start=st.integers(0, 7999), data=st.data())
def test_a_part_of_a_file_is_the_same_part_of_the_whole(start: int, data: st.DataObject):
    source = wav(NOISE)
    samples = data.draw(st.integers(1, 8000 - start))
    part = decode(source, start_seconds=start / 16_000, seconds=samples / 16_000)
    np.testing.assert_array_equal(part.waveform, decode(source).waveform[:, start : start + samples])


def test_another_rate_is_resampled_by_soxr_hq():
    clip = decode(wav(NOISE, rate_hz=44_100), sample_rate_hz=16_000)
    expected = soxr.resample(decode(wav(NOISE)).waveform[0], 44_100, 16_000, quality="HQ")
    np.testing.assert_allclose(clip.waveform[0], expected, atol=1e-6)
    assert clip.sample_rate_hz == 16_000 and resampled(clip, 16_000) is clip


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_truncated_file_is_refused_and_never_a_short_clip(kept: float, container: str):
    source = wav(NOISE, container=container)
    with pytest.raises(DecodeError):
        decode(source[: int(len(source) * kept)])


@pytest.mark.parametrize(
    "source, reason", [(b"", "0 bytes"), (b"no audio at all", "cannot read"), (b"RIFF\0\0\0\0WAVE", "truncated")]
)
def test_what_is_no_audio_is_refused_with_its_reason(source: bytes, reason: str):
    with pytest.raises(DecodeError, match=reason):
        decode(source)


def test_nan_is_refused():
    broken = NOISE.copy()
    broken[100] = np.nan
    with pytest.raises(DecodeError, match="NaN"):
        decode(wav(broken, subtype="FLOAT"))


def test_more_than_there_is_cannot_be_asked_for():
    with pytest.raises(DecodeError, match="declares only 8,000"):
        decode(wav(NOISE), seconds=0.6)
