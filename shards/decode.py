"""The bytes of an audio file -> Clip, in process; what is shorter than it declares is an error, not a short clip.

We recognise the container and read its header ourselves, and tell the decoder what to expect: none ever guesses,
follows a name or opens a second file. docs/decoding.md has the measurements that chose the back ends.
"""

import faulthandler
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from shards import ffmpeg, libav
from shards.containers.container import AudioHeader, Block, DecodeError, Unreadable
from shards.containers.header import read_header
from shards.example import Clip

SILENT_PEAK = 1e-4  # below it a clip is one constant to a network (Myna's preprocessing contract)
FULL_SCALE = 0.9999  # the largest amplitude of 16 bits is 0.99997
CLIPPED_SHARE = 1e-3
_BLOCK_AMPLITUDES = 1 << 17  # decoded at once, in memory that stays in the processor's cache
_EXPECTED_AMPLITUDES = 1 << 22  # a header may claim any length: beyond this it gets memory only for what comes
_MOST_AMPLITUDES = 1 << 29

Channels = Literal["mean", "first", "keep"]
BackEnd = Callable[[bytes, AudioHeader, float, float | None], Iterator[tuple[Block, int]]]
"""(source, its header, start and length in seconds) -> blocks with their rate in Hz."""


def decode(
    source: bytes,
    *,
    sample_rate_hz: int | None = None,
    start_seconds: float = 0.0,
    seconds: float | None = None,
    channels: Channels = "mean",
    isolated: bool = False,
) -> Clip:
    """Read part of an audio file, decoding little more than that part; resampled by soxr HQ when its rate differs.

    `channels` are averaged, or only the first or all are kept; `sample_rate_hz=None` keeps the file's own rate.
    Amplitudes keep the file's level; peaks above 1 are kept. Time zero is the first sample of the first audio stream.
    `isolated` decodes in a limited child process: 70 ms slower, and nothing in the file can take this process with it.

    Raises DecodeError when the bytes are empty, no audio, shorter than declared or asked for, or not finite.
    """
    header = read_header(io.BytesIO(source))
    cut = partial(_clip, source, header, start_seconds=start_seconds, seconds=seconds, channels=channels)
    try:
        clip = cut(ffmpeg.read if isolated else BACK_ENDS[header.container])
    except Unreadable as error:
        if not ffmpeg.is_installed():
            raise
        try:
            clip = cut(ffmpeg.read)
        except DecodeError as second:
            raise DecodeError(f"{error}; {second}") from second
    return clip if sample_rate_hz is None else resampled(clip, sample_rate_hz)


def decode_by(back_end: BackEnd, source: bytes, *, channels: Channels = "mean") -> Clip:
    """The whole recording by one back end, for measuring and comparing them. Raises as `decode` does."""
    header = read_header(io.BytesIO(source))
    return _clip(source, header, back_end, start_seconds=0.0, seconds=None, channels=channels)


def probe(source: bytes | Path) -> AudioHeader:
    """What the header declares, without decoding; no native code runs. Raises DecodeError, or OSError for a path.

    Takes some 50 microseconds, but reads the whole file where packets must be counted: MP3 without a Xing header,
    AAC and AC-3 without a container.
    """
    if isinstance(source, bytes):
        return read_header(io.BytesIO(source))
    with source.open("rb") as file:
        return read_header(file)


def resampled(clip: Clip, sample_rate_hz: int) -> Clip:
    """The clip at another rate, by soxr HQ; itself when it has that rate."""
    if clip.sample_rate_hz == sample_rate_hz:
        return clip
    waveform = soxr.resample(clip.waveform.T, clip.sample_rate_hz, sample_rate_hz, quality="HQ").T
    return Clip(np.ascontiguousarray(waveform), sample_rate_hz)


def flac_bytes(clip: Clip) -> bytes:
    """The clip as a FLAC file of 16 bits, which `decode` gives back to within 2^-16; cut off beyond full scale.

    One rounding to the nearest of our own: libsndfile multiplies by 32,767, and reading divides by 32,768.
    """
    amplitudes = np.rint(clip.waveform.T * np.float32(1 << 15)).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, amplitudes, clip.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def is_silent(clip: Clip) -> bool:
    """Whether no amplitude reaches SILENT_PEAK."""
    return not np.abs(clip.waveform).max(initial=0.0) >= SILENT_PEAK


def clipped_share(clip: Clip) -> float:
    """How many of the amplitudes, from 0 to 1, stand at full scale or above."""
    return float(np.mean(np.abs(clip.waveform) >= FULL_SCALE)) if clip.waveform.size else 0.0


def noticed(clip: Clip) -> tuple[str, ...]:
    """What a listener would complain about, in words: silence, clipping; empty for a clip in good order."""
    silence = (f"it is silent: no amplitude reaches {SILENT_PEAK}",) if is_silent(clip) else ()
    share = clipped_share(clip)
    return silence + ((f"it is clipped: {share:.2%} of its amplitudes stand at full scale",) * (share > CLIPPED_SHARE))


@contextmanager
def a_hang_is_a_crash(limit_seconds: float) -> Iterator[None]:
    """End this process with status 1 when the block takes longer: native code that hangs cannot be interrupted.

    For worker processes whose tasks are repeated when they die. One at a time in a process.
    """
    faulthandler.dump_traceback_later(limit_seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def with_libsndfile(
    source: bytes, header: AudioHeader, start_seconds: float, seconds: float | None
) -> Iterator[tuple[Block, int]]:
    """Blocks from `start_seconds` on, and their rate in Hz; each is gone when the next is asked for."""
    try:
        with soundfile.SoundFile(_Bytes(source)) as file:
            start = round(start_seconds * file.samplerate)
            left = file.frames - start if seconds is None else round(seconds * file.samplerate)
            file.seek(start)
            buffer = np.empty((max(_BLOCK_AMPLITUDES // file.channels, 1), file.channels), np.float32)
            while left > 0 and len(block := file.read(out=buffer[:left])):
                left -= len(block)
                yield list(block.T), file.samplerate
    except soundfile.SoundFileError as error:
        raise Unreadable(f"libsndfile cannot read it: {getattr(error, 'error_string', error)}") from error


class _Bytes(io.BytesIO):
    """Damaged files make libsndfile ask for what lies before the first byte; no error may leave its callback."""

    def seek(self, offset: int, whence: int = 0) -> int:
        return super().seek(offset if whence else max(offset, 0), whence)


BACK_ENDS: dict[str, BackEnd] = {
    "wav": with_libsndfile,
    "wav-24": libav.read,
    "aiff": with_libsndfile,
    "au": libav.read,
    "flac": with_libsndfile,
    "mp3": libav.read,  # libsndfile lands packets away from where it is sent, and guesses lengths
    "mp3-stream": libav.read,
    "ogg": libav.read,
    "mov": libav.read,
    "matroska": libav.read,
    "aac-stream": libav.read,
    "ac3-stream": libav.read,
}


def _clip(
    source: bytes,
    header: AudioHeader,
    back_end: BackEnd,
    *,
    start_seconds: float,
    seconds: float | None,
    channels: Channels,
) -> Clip:
    _refuse_beyond_the_end(header, start_seconds, seconds)
    slack_seconds = header.slack_seconds or 0.0
    expected_seconds = seconds or max((header.seconds or 0.0) - start_seconds, 0.0) + slack_seconds
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found afterwards
        clip = _gathered(back_end(source, header, start_seconds, seconds), channels, expected_seconds)
    return _checked(clip, header, start_seconds, seconds)


def _refuse_beyond_the_end(header: AudioHeader, start_seconds: float, seconds: float | None) -> None:
    if header.seconds is None or header.slack_seconds is None:
        return
    rate_hz = header.sample_rate_hz
    start, declared = round(start_seconds * rate_hz), round(header.seconds * rate_hz)
    stop = start + round((seconds or 0.0) * rate_hz)
    if stop > declared + round(header.slack_seconds * rate_hz):
        raise DecodeError(f"samples {start:,} to {stop:,} were asked for, but the file declares only {declared:,}")


def _checked(clip: Clip, header: AudioHeader, start_seconds: float, seconds: float | None) -> Clip:
    """The clip without an encoder's padding. Raises DecodeError when it is shorter than it should be, or not finite."""
    rate_hz, found, slack = clip.sample_rate_hz, clip.waveform.shape[1], 0
    wanted = found if seconds is None else round(seconds * rate_hz)
    if header.seconds is not None:
        left = round(header.seconds * rate_hz) - round(start_seconds * rate_hz)
        if header.slack_seconds is not None:
            wanted = left if seconds is None else wanted
            slack = round(header.slack_seconds * rate_hz) if wanted >= left else 0
        elif wanted >= left:
            wanted = min(wanted, found)  # up to the end, and nothing says where that is
    if found < max(wanted - slack, 1):
        raise DecodeError(f"{wanted:,} samples were declared, but only {found:,} could be decoded")
    waveform = clip.waveform[:, :wanted] if found - wanted <= slack else clip.waveform
    if not np.isfinite(waveform).all():
        raise DecodeError("the decoded waveform holds NaN or infinite amplitudes")
    return Clip(waveform, rate_hz)


def _gathered(blocks: Iterator[tuple[Block, int]], channels: Channels, expected_seconds: float) -> Clip:
    """Blocks down-mixed one by one, each to its place in memory, which grows with what comes."""
    joined, samples, rates = np.empty((1, 0), np.float32), 0, set()
    for block, rate_hz in blocks:
        if not len(block[0]):
            continue
        rows, end = len(block) if channels == "keep" else 1, samples + len(block[0])
        if rows * end > _MOST_AMPLITUDES:
            raise DecodeError(f"it decodes to more than {_MOST_AMPLITUDES:,} amplitudes: ask for a part of it")
        if end > joined.shape[1]:
            expected = min(expected_seconds * rate_hz, _EXPECTED_AMPLITUDES / rows)
            joined = _enlarged(joined[:, :samples], rows, max(end, 2 * samples, math.ceil(expected)))
        _mix(block, channels, joined[:, samples:end])
        samples = end
        rates.add(rate_hz)
    if not samples:
        raise DecodeError("no sample could be decoded")
    (rate_hz,) = rates
    return Clip(np.ascontiguousarray(joined[:, :samples]), rate_hz)


def _enlarged(joined: np.ndarray, rows: int, samples: int) -> np.ndarray:
    larger = np.empty((rows, samples), np.float32)
    larger[:, : joined.shape[1]] = joined
    return larger


def _mix(block: Block, channels: Channels, target: np.ndarray) -> None:
    """Into (channels, samples) by the rule. Channel by channel: numpy's own mean is 40 times slower."""
    if channels == "keep":
        np.stack(block, out=target)
    elif channels == "first" or len(block) == 1:
        target[0] = block[0]
    else:
        np.add(block[0], block[1], out=target[0])
        for channel in block[2:]:
            target[0] += channel
        target[0] /= len(block)
