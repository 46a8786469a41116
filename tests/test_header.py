"""A header tells the length before anything is decoded, and a file that was cut is found out."""

import io
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from shards.containers.container import DecodeError
from shards.decode import decode, probe
from tests.media import FORMATS, LOSSLESS, RATE_HZ, SECONDS, by_ffmpeg, encoded, music

MEDIA = Path(__file__).parent / "data" / "media"


@pytest.mark.parametrize("name", FORMATS)
def test_the_declared_length_is_the_decoded_one(name: str):
    header, clip = probe(encoded(name)), decode(encoded(name), channels="keep")
    assert header.seconds == pytest.approx(SECONDS, abs=0.1)
    assert header.slack_seconds is not None
    assert clip.seconds == pytest.approx(header.seconds, abs=max(header.slack_seconds, 1e-9))
    assert (header.sample_rate_hz, header.channels) == (clip.sample_rate_hz, len(clip.waveform))


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_container_that_counts_samples_gives_all_of_them(name: str):
    assert round(probe(encoded(name)).seconds * RATE_HZ) == len(music())


@pytest.mark.parametrize("path", sorted(path for path in MEDIA.iterdir() if path.suffix not in (".json", ".md")))
def test_a_path_tells_what_its_bytes_tell(path: Path):
    assert probe(path) == probe(path.read_bytes())


def test_the_bytes_decide_and_not_the_name(tmp_path: Path):
    misnamed = tmp_path / "song.flac"
    misnamed.write_bytes(encoded("vorbis"))
    assert probe(misnamed).container == "ogg"


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_refused_and_never_a_short_clip(name: str, kept: float):
    source = encoded(name)
    with pytest.raises(DecodeError) as caught:
        decode(source[: int(len(source) * kept)])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_missing_bytes_are_missed(name: str):
    with pytest.raises(DecodeError):
        decode(encoded(name)[:-10])


def test_a_cut_file_is_refused_with_both_lengths():
    source = encoded("wav-16")
    with pytest.raises(DecodeError, match=r"705,600 bytes of audio declared, 352,\d\d\d present"):
        probe(source[: len(source) // 2])


def test_a_flac_cut_within_its_audio_is_refused_with_both_lengths():
    source = encoded("flac-16")
    with pytest.raises(DecodeError, match=r"176,400 samples were declared, but only \d+,\d\d\d|libsndfile cannot"):
        decode(source[: len(source) // 2])


def test_an_mp3_without_a_count_is_counted_packet_by_packet():
    source = encoded("mp3-plain")
    header = probe(source)
    assert header.container == "mp3-stream"
    assert decode(source).waveform.shape[1] == round(header.seconds * RATE_HZ)


def test_mp3s_that_were_joined_are_not_taken_for_the_first_of_them():
    first, second = encoded("mp3-cbr"), encoded("mp3-plain")
    assert decode(first + second).seconds == pytest.approx(2 * SECONDS, abs=0.2)


def test_a_tag_after_the_last_packet_is_no_audio():
    source = encoded("mp3-plain")
    assert probe(source + b"TAG" + b"title".ljust(125)) == probe(source)


def test_junk_between_packets_is_damage():
    source = encoded("mp3-plain")
    half = len(source) // 2
    with pytest.raises(DecodeError, match="no audio packet, yet some follow"):
        decode(source[:half] + bytes(3000) + source[half:])


def test_an_opus_that_begins_in_the_middle_of_its_stream_is_measured_from_there():
    source = (MEDIA / "opus_96k.opus").read_bytes()
    assert decode(source).waveform.shape[1] == round(probe(source).seconds * 48_000) == 383_431


def test_a_length_that_its_writer_did_not_know_is_that_of_the_bytes():
    source = bytearray(encoded("wav-16"))
    struct.pack_into("<I", source, source.index(b"data") + 4, 0xFFFFFFFF)
    assert decode(bytes(source)).waveform.shape[1] == len(music())


def test_rates_from_8_to_192_khz_and_six_channels_are_read():
    for rate_hz, channels in ((8_000, 1), (96_000, 2), (192_000, 2), (48_000, 6)):
        buffer = io.BytesIO()
        soundfile.write(buffer, music()[:8000, :1].repeat(channels, axis=1), rate_hz, format="FLAC", subtype="PCM_24")
        clip = decode(buffer.getvalue(), channels="keep")
        assert (clip.sample_rate_hz, clip.waveform.shape) == (rate_hz, (channels, 8000))
    surround = by_ffmpeg(encoded("wav-16"), "m4a", "-af", "pan=5.1|c0=c0|c1=c1|c2=c0|c3=c1|c4=c0|c5=c1", "-c:a", "aac")
    assert decode(surround, channels="keep").waveform.shape[0] == 6


HUGE = {
    "flac": (lambda source: source[:21] + bytes([source[21] | 15]) + b"\xff" * 4 + source[26:], "flac-16"),
    "aiff": (lambda source: source[:22] + b"\x7f\xff\xff\xff" + source[26:], "aiff-16"),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_header_that_claims_billions_of_samples_gets_no_memory_for_them(what: str):
    forge, name = HUGE[what]
    source = forge(encoded(name))
    assert probe(source).seconds > 10_000
    tracemalloc.start()
    with pytest.raises(DecodeError):
        decode(source)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64e6


@given(
    source=st.binary(max_size=300), head=st.sampled_from([b"RIFF\xff\xff\xff\xffWAVE", b"FORM\0\0\0\0AIFF", b"fLaC"])
)
def test_any_bytes_behind_a_known_beginning_give_a_header_or_a_reason(source: bytes, head: bytes):
    with suppress(DecodeError):
        assert probe(head + source).sample_rate_hz > 0
