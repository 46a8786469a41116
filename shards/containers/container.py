"""What the bytes of an audio file say of themselves: container, rate, channels, length, and whether the end is there.

Plain Python over a few kilobytes: no decoder starts here, so listing a million files cannot crash in one.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import NamedTuple

import numpy as np

from shards.problem import DataProblem

UNKNOWN_BYTES = 0xFFFFFFFF  # what a writer leaves that could not know its length
_MOST_CHUNKS = 10_000
_AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # by its number for the coding
_MOST_HZ, _MOST_CHANNELS = 10_000_000, 1024


DEMUXERS = {  # container -> FFmpeg's name for it; nothing else is ever opened by it
    "wav": "wav",
    "wav-24": "wav",
    "aiff": "aiff",
    "au": "au",
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "mp3-stream": "mp3",
    "aac-stream": "aac",
    "ac3-stream": "ac3",
    "mov": "mov",
    "matroska": "matroska",
}


class DecodeError(DataProblem):
    """A recording cannot be turned into a whole, finite clip."""


class Unreadable(DecodeError):
    """A library cannot read it; another might."""


Block = Sequence[np.ndarray]  # consecutive samples: one float32 array for each channel


@dataclass(frozen=True)
class AudioHeader:
    """What a container declares of its first audio stream.

    `seconds` is None where nothing is declared. The decoded length may differ from it by `slack_seconds`: 0 where
    the container counts samples, None where its length is that of a picture track or of nothing in particular.
    """

    seconds: float | None
    sample_rate_hz: int
    channels: int
    container: str
    slack_seconds: float | None = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate_hz <= _MOST_HZ or not 0 < self.channels <= _MOST_CHANNELS:
            raise DecodeError(f"its header makes no sense: {self.channels} channels at {self.sample_rate_hz:,} Hz")


class Chunk(NamedTuple):
    """A named piece of a RIFF or AIFF file; its contents begin at `start` and `declared_bytes` are promised."""

    name: bytes
    start: int
    declared_bytes: int


def bytes_at(file: BufferedIOBase, start: int, count: int) -> bytes:
    """Exactly `count` bytes from `start`; raises DecodeError where the file ends before."""
    file.seek(start)
    found = file.read(count)
    if len(found) < count:
        raise DecodeError(f"it is truncated: its header needs {start + count:,} bytes, {start + len(found):,} present")
    return found


def size_of(file: BufferedIOBase) -> int:
    """Bytes of a seekable file."""
    return file.seek(0, 2)


def tags_end(file: BufferedIOBase) -> int:
    """Where the audio begins: after any ID3v2 tags (pictures and texts), which may stand before every format."""
    start = 0
    for _ in range(8):
        file.seek(start)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            break
        footer_bytes = 10 if tag[5] & 0x10 else 0
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        start += footer_bytes
    return start


def refuse_missing(what: str, declared_bytes: int, present_bytes: int) -> None:
    """Decoders quietly shorten what was cut, so each length that is declared in bytes is compared with the file."""
    if declared_bytes > present_bytes:
        raise DecodeError(
            f"the {what} is truncated: {declared_bytes:,} bytes of audio declared, {present_bytes:,} present"
        )


def wav_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """RIFF, RF64 and BW64 with samples of whole bytes, or whatever else with a `fact` chunk.

    Those of 24 bits are a container of their own, as another back end is the faster one for them.
    """
    channels = rate_hz = block_bytes = 0
    fact_samples: int | None = None
    long_bytes: int | None = None
    for chunk in _chunks(file, start + 12, "<", "WAV"):
        if chunk.name == b"ds64":
            long_bytes = struct.unpack("<Q", bytes_at(file, chunk.start + 8, 8))[0]
        elif chunk.name == b"fmt ":
            coding, channels, rate_hz, _, block_bytes = struct.unpack("<HHIIH", bytes_at(file, chunk.start, 14))
            block_bytes = block_bytes if coding in (1, 3, 6, 7, 0xFFFE) else 0
        elif chunk.name == b"fact" and chunk.declared_bytes >= 4:
            fact_samples = struct.unpack("<I", bytes_at(file, chunk.start, 4))[0]
        elif chunk.name == b"data":
            present_bytes = size_of(file) - chunk.start
            streamed = chunk.declared_bytes == UNKNOWN_BYTES
            declared_bytes = chunk.declared_bytes if not streamed else long_bytes or present_bytes
            refuse_missing("WAV", declared_bytes, present_bytes)
            samples = declared_bytes // block_bytes if block_bytes else fact_samples
            return counted(samples, rate_hz, channels, "wav-24" if block_bytes == 3 * channels else "wav")
    raise DecodeError("the WAV is truncated: it ends before its audio begins")


def aiff_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """AIFF and AIFF-C: the COMM chunk counts samples, the SSND chunk bytes."""
    header = None
    for chunk in _chunks(file, start + 12, ">", "AIFF"):
        if chunk.name == b"COMM":
            channels, samples, _, exponent, mantissa = struct.unpack(">HIHHQ", bytes_at(file, chunk.start, 18))
            rate_hz = int(mantissa * 2.0 ** min(exponent - 16383 - 63, 0))
            header = counted(samples, rate_hz, channels, "aiff")
        elif chunk.name == b"SSND":
            refuse_missing("AIFF", chunk.declared_bytes, size_of(file) - chunk.start)
    if header is None:
        raise DecodeError("the AIFF is truncated: it ends before its COMM chunk")
    return header


def au_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """Sun AU, in which GTZAN was published: bytes of audio, or all that follow where a writer left them open."""
    audio, declared_bytes, coding, rate_hz, channels = struct.unpack(">5I", bytes_at(file, start + 4, 20))
    if coding not in _AU_SAMPLE_BYTES:
        raise DecodeError(f"its AU coding {coding} is none that is known here")
    present_bytes = size_of(file) - start - audio
    if declared_bytes == UNKNOWN_BYTES:
        declared_bytes = max(present_bytes, 0)
    refuse_missing("AU", declared_bytes, present_bytes)
    return counted(declared_bytes // max(_AU_SAMPLE_BYTES[coding] * channels, 1), rate_hz, channels, "au")


def flac_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """The STREAMINFO block, which stands first."""
    return flac_stream_info(bytes_at(file, start + 8, 18), "flac")


def counted(samples: int | None, rate_hz: int, channels: int, container: str) -> AudioHeader:
    """The header of a container that counts samples exactly."""
    return AudioHeader(None if samples is None else samples / max(rate_hz, 1), rate_hz, channels, container)


def _chunks(file: BufferedIOBase, start: int, order: str, what: str) -> Iterator[Chunk]:
    size_bytes = size_of(file)
    for _ in range(_MOST_CHUNKS):
        if start + 8 > size_bytes:
            return
        name, declared_bytes = struct.unpack(f"{order}4sI", bytes_at(file, start, 8))
        yield Chunk(name, start + 8, declared_bytes)
        start += 8 + declared_bytes + declared_bytes % 2
    raise DecodeError(f"the {what} has more than {_MOST_CHUNKS:,} chunks")


def flac_stream_info(block: bytes, container: str) -> AudioHeader:
    """From the STREAMINFO block of a FLAC, wherever that lies."""
    if len(block) < 18:
        raise DecodeError("its FLAC header is cut short")
    bits = int.from_bytes(block[10:18], "big")
    rate_hz, channels, samples = bits >> 44, (bits >> 41 & 7) + 1, bits & (1 << 36) - 1
    return counted(samples or None, rate_hz, channels, container)
