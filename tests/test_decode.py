"""Decoding gives whole finite clips or says why not."""

import io
import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import ffmpeg, libav
from shards.containers.container import DecodeError
from shards.decode import BACK_ENDS, clipped_share, decode, decode_by, noticed, probe, resampled, with_libsndfile
from shards.example import Clip
from tests.benchmarks.decode import resampler_response
from tests.media import FORMATS, LOSSLESS, SECONDS, by_ffmpeg, decibels, encoded, music

ROOT = Path(__file__).parents[1]
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


def listed_media() -> list[tuple[Path, dict]]:
    """Every real and damaged file whose outcome is listed; the larger collection where it lies beside the project."""
    folders = (ROOT / "tests" / "data" / "media", ROOT.parent / "shared" / "data" / "media")
    lists = [(folder, json.loads((folder / "manifest.json").read_text())) for folder in folders if folder.exists()]
    return [(folder / row["file"], row) for folder, listed in lists for row in listed["items"]]


@pytest.mark.parametrize(("path", "row"), [pytest.param(*each, id=each[1]["file"]) for each in listed_media()])
def test_every_listed_file_has_its_outcome(path: Path, row: dict):
    if row["expected"] == "ok":
        clip = decode(path.read_bytes(), channels="keep")
        assert clip.seconds == pytest.approx(row["duration_s"], abs=row.get("tolerance_s", 0.06))
        assert (clip.sample_rate_hz, len(clip.waveform)) == (row["sample_rate"], row["channels"])
        assert any("silent" in words for words in noticed(clip)) == row.get("silent", False)
    elif row["expected"] == "ok_or_error":
        with suppress(DecodeError):
            assert decode(path.read_bytes()).seconds == pytest.approx(row["duration_s"], abs=1e-5)
    else:  # "partial" may be refused or kept with a report; we refuse
        with pytest.raises(DecodeError) as caught:
            decode(path.read_bytes())
        assert 10 < len(str(caught.value)) < 300


def test_channels_are_averaged_or_the_first_or_all_are_kept():
    source = wav(NOISE, subtype="FLOAT")
    np.testing.assert_array_equal(decode(source, channels="first").waveform, NOISE[:, :1].T)
    np.testing.assert_array_equal(decode(source, channels="keep").waveform, NOISE.T)
    assert decode(source, channels="keep").waveform.flags.c_contiguous


@pytest.mark.parametrize("name", LOSSLESS)
def test_all_back_ends_agree_on_a_lossless_file(name: str):
    source = encoded(name)
    back_ends = [BACK_ENDS[probe(source).container], libav.read, *([ffmpeg.read] if ffmpeg.is_installed() else [])]
    for read in back_ends:
        assert decibels(decode_by(read, source, channels="keep").waveform - music().T, music()) < -90


def test_whole_and_fractional_amplitudes_of_every_width_have_one_scale():
    for name in ("wav-u8", "wav-16", "wav-24", "wav-32", "wav-float"):
        for read in (with_libsndfile, libav.read):
            loudest = np.abs(decode_by(read, encoded(name)).waveform).max()
            assert loudest == pytest.approx(np.abs(music().mean(axis=1)).max(), abs=0.01)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44_100, 16_000), (48_000, 16_000), (44_100, 24_000), (96_000, 44_100)])
def test_the_resampler_is_flat_where_it_passes_and_silent_where_it_stops(from_hz: int, to_hz: int):
    response = resampler_response(from_hz, to_hz)
    assert response.ripple_db < 0.01
    assert response.rejection_db > 100


def test_silence_and_clipping_are_noticed():
    tone = 0.5 * np.sin(np.arange(16_000) / 10, dtype=np.float32)[None]
    assert noticed(Clip(tone, 16_000)) == ()
    assert "silent" in noticed(Clip(tone * 1e-4, 16_000))[0]
    clipped = Clip(np.clip(tone * 4, -1, 1), 16_000)
    assert clipped_share(clipped) > 0.5 and "clipped: " in noticed(clipped)[0]


def test_native_code_that_hangs_ends_its_process_in_time():
    program = (
        "import re; from shards.decode import a_hang_is_a_crash\n"
        "with a_hang_is_a_crash(30): pass\n"
        "with a_hang_is_a_crash(0.5): re.match('(a*)*$', 'a' * 40 + 'b')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Timeout" in ended.stderr


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12)
@given(data=st.data())
def test_damaged_bytes_give_a_clip_or_a_reason_and_take_little_memory(name: str, data: st.DataObject):
    damaged = bytearray(encoded(name))
    header_bytes = st.integers(0, min(len(damaged) - 1, 400))
    anywhere = st.integers(0, len(damaged) - 1)
    for position in data.draw(st.lists(header_bytes | anywhere, max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(anywhere) :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(DecodeError):
        assert np.isfinite(decode(bytes(damaged), seconds=data.draw(st.sampled_from([None, 0.5, 3.0]))).waveform).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_piece_up_to_an_end_that_only_pictures_tell_is_what_sound_there_is():
    source = by_ffmpeg(encoded("opus"), "mkv", "-f", "lavfi", "-i", "color=s=16x16:d=4.05", "-c:a", "copy")
    header = probe(source)
    assert header.slack_seconds is None and header.seconds > SECONDS
    rest = decode(source, start_seconds=3.0, seconds=header.seconds - 3.0)
    assert rest.seconds == pytest.approx(SECONDS - 3.0, abs=0.03)
    with pytest.raises(DecodeError, match="samples were declared"):
        decode(source, start_seconds=0.0, seconds=header.seconds - 0.01)
