"""A part of a recording is the same part of the whole, whichever library reads it."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.containers.container import DecodeError
from shards.decode import decode
from tests.media import FORMATS, RATE_HZ, by_ffmpeg, decibels, encoded, music

# Bit for bit where packets lean on a few before them at most; Opus forgets gradually, AC-3 adds noise of its own.
TOLERANCE_DB = {"opus": -100.0, "webm": -100.0, "ac3": -20.0}


def tolerance_db(name: str) -> float:
    return next((limit for start, limit in TOLERANCE_DB.items() if name.startswith(start)), -200.0)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=6)
@given(start_seconds=st.floats(0.0, 3.4), seconds=st.floats(0.02, 0.5))
def test_a_part_is_the_same_part_of_the_whole(name: str, start_seconds: float, seconds: float):
    whole = decode(encoded(name), channels="keep")
    part = decode(encoded(name), channels="keep", start_seconds=start_seconds, seconds=seconds)
    start, samples = round(start_seconds * whole.sample_rate_hz), round(seconds * whole.sample_rate_hz)
    assert part.waveform.shape[1] == samples
    expected = whole.waveform[:, start : start + samples]
    assert decibels(part.waveform - expected, whole.waveform) <= tolerance_db(name)


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_sample_is_the_first_sample_of_the_music(name: str):
    """A shift by one sample already fails: it leaves -20 dB at the chords' edges where a codec leaves less."""
    clip = decode(encoded(name), channels="keep", sample_rate_hz=RATE_HZ)
    delay = _delay_samples(clip.waveform[0], music()[:, 0])
    assert delay == EXPECTED_DELAY_SAMPLES.get(name, 0)


# These containers do not say how many samples an encoder put before the music, so nobody can take them away.
EXPECTED_DELAY_SAMPLES = {"mp3-plain": 1105, "aac": 1024, "m4a-fragments": 1024, "ac3": 256}


def _delay_samples(found: np.ndarray, music: np.ndarray) -> int:
    size = 1 << 19
    spectrum = np.fft.rfft(found, size) * np.conj(np.fft.rfft(music, size))
    return int(np.argmax(np.fft.irfft(spectrum)))


def test_a_part_far_into_a_long_recording_costs_little_more_than_one_at_its_beginning():
    long = by_ffmpeg(encoded("wav-16"), "m4a", "-af", "aloop=loop=24:size=176400", "-c:a", "aac")

    def seconds_for(start_seconds: float) -> float:
        begin = time.process_time()
        decode(long, start_seconds=start_seconds, seconds=2.0)
        return time.process_time() - begin

    whole = min(seconds_for(0.0) for _ in range(3)) * 50
    assert min(seconds_for(95.0) for _ in range(3)) < whole / 5


def test_a_stream_that_changes_its_channels_is_refused_and_crashes_nothing():
    stereo, mono = encoded("ac3"), by_ffmpeg(encoded("wav-16"), "ac3", "-ac", "1", "-b:a", "640k")
    with pytest.raises(DecodeError, match="changes from 2 channels to 1"):
        decode(stereo + mono)


@pytest.mark.parametrize("words", ["-c:a libopus -ar 48000", "-c:a aac -aac_pns 0"])
def test_a_sound_track_beside_pictures_is_read_alone(words: str):
    pictures = (
        "-f",
        "lavfi",
        "-i",
        "color=size=64x64:rate=10:duration=4",
        "-map",
        "1:v",
        "-map",
        "0:a",
        "-c:v",
        "mpeg4",
    )
    for suffix in ("mkv", "mp4"):
        clip = decode(by_ffmpeg(encoded("wav-16"), suffix, *pictures, *words.split()), channels="keep")
        assert clip.seconds == pytest.approx(4.0, abs=0.1)
