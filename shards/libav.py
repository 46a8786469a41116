"""FFmpeg's libraries in this process, held to one container and to the bytes that they are given."""

import io
import statistics
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice

import av
import numpy as np

from shards.containers.container import DEMUXERS, AudioHeader, Block, DecodeError, Unreadable
from shards.containers.ogg import opus_samples
from shards.containers.packets import PACKETS, first_packet, packet_starts

_PREROLL_SECONDS = 0.5  # codecs with memory forget it within this: 80 ms of Opus, one packet of AAC and Vorbis
_PREROLL_PACKETS = 32  # a packet of MP3 at 8 kbit/s leans on up to 24 before it
_TIMED = {"mp3", "ogg", "mov", "wav-24"}
_AGREEING_FRAMES = 9  # as many time stamps decide together where a seek has landed: single ones in Ogg can be wrong
_BLOCK_SAMPLES = 1 << 14
_CLOSED = {
    "protocol_whitelist": "none",
    "format_whitelist": ",".join(sorted(set(DEMUXERS.values()))),
}
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}

Frames = Iterator[av.AudioFrame]


def read(
    source: bytes, header: AudioHeader, start_seconds: float, seconds: float | None, *, may_seek: bool = True
) -> Iterator[tuple[Block, int]]:
    """Blocks from `start_seconds` on, and their rate in Hz.

    Raises Unreadable for what the libraries refuse.
    """
    needed, sliced_samples = source, 0
    if header.container in PACKETS and may_seek:
        needed, sliced_samples = _sliced(source, header, start_seconds)
    options = _CLOSED | ({"enable_drefs": "0"} if header.container == "mov" else {})
    try:
        with av.open(io.BytesIO(needed), "r", format=DEMUXERS[header.container], options=options) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None or stream.sample_rate <= 0:
                raise Unreadable("FFmpeg's libraries find no audio in it that they can decode")
            stream.codec_context.thread_count = 1
            rate_hz = stream.sample_rate
            landed, frames = (
                _approach(container, stream, header, start_seconds)
                if may_seek
                else (0, _frames(container.demux(stream)))
            )
            skipped = round(start_seconds * rate_hz) - landed - round(sliced_samples * rate_hz / header.sample_rate_hz)
            if skipped < 0:
                yield from read(source, header, start_seconds, seconds, may_seek=False)
                return
            wanted = None if seconds is None else skipped + round(seconds * rate_hz)
            for block in _blocks(frames, wanted):
                yield [plane[skipped:] for plane in block], rate_hz
                skipped = max(skipped - len(block[0]), 0)
    except (av.FFmpegError, ValueError, OverflowError, KeyError) as error:
        raise Unreadable(f"FFmpeg's libraries cannot read it: {getattr(error, 'strerror', None) or error}") from error


def _sliced(source: bytes, header: AudioHeader, start_seconds: float) -> tuple[bytes, int]:
    """The stream from a packet some pre-roll before the start, and the samples that this leaves out."""
    if start_seconds <= _PREROLL_SECONDS:
        return source, 0
    stream = first_packet(io.BytesIO(source))
    assert stream, "its header was read"
    starts, packet = packet_starts(io.BytesIO(source), *stream)
    first = int(start_seconds * header.sample_rate_hz / packet.samples) - _PREROLL_PACKETS
    first = min(max(first, 0), len(starts) - 1)
    return source[starts[first] :], first * packet.samples


def _approach(
    container: av.container.InputContainer, stream: av.AudioStream, header: AudioHeader, start_seconds: float
) -> tuple[int, Frames]:
    """Where decoding begins, some pre-roll before the start or earlier, and all frames from there on."""
    samples = _PREROLL_PACKETS * 1152 if header.container == "mp3" else 0
    target_seconds = start_seconds - max(_PREROLL_SECONDS, samples / header.sample_rate_hz)
    if header.container == "matroska" and target_seconds > 0 and stream.codec_context.name == "opus":
        return _approach_opus(container.demux(stream), round(target_seconds * stream.sample_rate))
    if not _is_exactly_timed(header, stream.codec_context.name):
        return 0, _frames(container.demux(stream))
    zero, ticks_per_second = stream.start_time or 0, 1 / (stream.time_base or Fraction(1, stream.sample_rate))
    if target_seconds > 0:
        container.seek(zero + int(target_seconds * ticks_per_second), stream=stream)
    frames = _frames(container.demux(stream))
    first = list(islice(frames, _AGREEING_FRAMES))
    return _landed(first, zero), chain(first, frames)


def _is_exactly_timed(header: AudioHeader, codec: str) -> bool:
    """Whether time stamps name samples: others are rounded to milliseconds, or wrong after a seek."""
    return header.container in _TIMED and codec != "flac" and header.slack_seconds is not None


def _landed(frames: list[av.AudioFrame], zero: int) -> int:
    """The position of the first sample on which most time stamps agree."""
    before, positions = 0, []
    tick_seconds = float(next((frame.time_base for frame in frames if frame.time_base), 0))  # one for a whole stream
    for frame in frames:
        if frame.pts is not None and tick_seconds:
            positions.append(round((frame.pts - zero) * tick_seconds * frame.sample_rate) - before)
        before += frame.samples
    return statistics.mode(positions or [0])


def _approach_opus(packets: Iterator[av.Packet], target: int) -> tuple[int, Frames]:
    """Every packet of Opus says how long it is, so those before the target are counted and not decoded.

    The decoder drops the encoder's delay from the packet that it gets first, whichever that is.
    """
    position = 0
    for packet in packets:
        samples = opus_samples(bytes(packet))
        if position + samples > target:
            return position, _frames(chain([packet], packets))
        position += samples
    return position, iter(())


def _frames(packets: Iterator[av.Packet]) -> Frames:
    for packet in packets:
        yield from packet.decode()  # type: ignore[misc]  # an audio stream has no other frames


def _blocks(frames: Frames, wanted: int | None) -> Iterator[Block]:
    """Frames joined to larger blocks, for a call of numpy costs as much as a frame; `wanted` samples at most."""
    fifo, left, channels = av.AudioFifo(), wanted, None
    for frame in frames:
        found = frame.layout.nb_channels
        if found != (channels := channels or found):  # the queue refuses other changes, but crashes with this one
            raise DecodeError(f"it changes from {channels} channels to {found} within its stream")
        frame.pts = None  # the queue would refuse gaps
        fifo.write(frame)
        if left is not None:
            left -= frame.samples
            if left <= 0:
                break
        if fifo.samples >= _BLOCK_SAMPLES:
            yield _amplitudes(fifo.read())
    if fifo.samples:
        last = _amplitudes(fifo.read())
        yield last if left is None or left >= 0 else [plane[:left] for plane in last]


def _amplitudes(frame: av.AudioFrame | None) -> Block:
    """At most 1 for what was stored as integers; views of the frame's own memory where it holds floats."""
    assert frame
    dtype = np.dtype(_DTYPES[frame.format.packed.name])
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        return [_floats(np.frombuffer(memoryview(plane), dtype, frame.samples)) for plane in frame.planes]
    packed = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels)
    return [_floats(packed[channel::channels]) for channel in range(channels)]


def _floats(amplitudes: np.ndarray) -> np.ndarray:
    floats = amplitudes.astype(np.float32, copy=False)
    if amplitudes.dtype.kind == "f":
        return floats
    if amplitudes.dtype.kind == "u":
        floats -= 128
    floats *= 2.0 ** (1 - 8 * amplitudes.dtype.itemsize)
    return floats
