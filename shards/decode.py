"""The bytes of an audio file -> Clip, in process; what is shorter than it declares is an error, not a short clip."""

import io
import struct

import numpy as np
import soundfile
import soxr

from shards.example import Clip
from shards.problem import DataProblem

_RIFF_STREAMING_BYTES = 0xFFFFFFFF  # what a writer leaves that could not know its length


class DecodeError(DataProblem):
    """A recording cannot be turned into a whole, finite clip."""


def decode(
    source: bytes, *, sample_rate_hz: int | None = None, start_seconds: float = 0.0, seconds: float | None = None
) -> Clip:
    """Read part of an audio file as mono (mean of channels), resampled by soxr HQ when its rate differs.

    `sample_rate_hz=None` keeps the file's own rate. Amplitudes keep the file's level; peaks above 1 are kept. Raises
    DecodeError when the bytes are empty, no audio, shorter than declared or asked for, or not finite.
    """
    if not source:
        raise DecodeError("the file has 0 bytes")
    _refuse_truncated_riff(source)
    try:
        with soundfile.SoundFile(io.BytesIO(source)) as file:
            waveform = _read_span(file, start_seconds, seconds)
            native_rate_hz = file.samplerate
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"libsndfile cannot read it: {error.error_string}") from error
    if not np.isfinite(waveform).all():
        raise DecodeError("the decoded waveform holds NaN or infinite amplitudes")
    clip = Clip(waveform[None, :], native_rate_hz)
    return clip if sample_rate_hz is None else resampled(clip, sample_rate_hz)


def resampled(clip: Clip, sample_rate_hz: int) -> Clip:
    """The clip at another rate, by soxr HQ; itself when it has that rate."""
    if clip.sample_rate_hz == sample_rate_hz:
        return clip
    waveform = soxr.resample(clip.waveform.T, clip.sample_rate_hz, sample_rate_hz, quality="HQ").T
    return Clip(np.ascontiguousarray(waveform), sample_rate_hz)


def _read_span(file: soundfile.SoundFile, start_seconds: float, seconds: float | None) -> np.ndarray:
    start = round(start_seconds * file.samplerate)
    wanted = file.frames - start if seconds is None else round(seconds * file.samplerate)
    if start + wanted > file.frames:
        raise DecodeError(
            f"samples {start:,} to {start + wanted:,} were asked for, but the file declares only {file.frames:,}"
        )
    file.seek(start)
    frames = file.read(wanted, dtype="float32", always_2d=True)
    if len(frames) != wanted:
        raise DecodeError(f"{wanted:,} samples were declared, but only {len(frames):,} could be decoded")
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)


def _refuse_truncated_riff(source: bytes) -> None:
    """libsndfile quietly shortens a cut WAV to what is there, so the declared length is compared with the bytes."""
    if source[:4] != b"RIFF" or source[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(source):
        name, declared_bytes = struct.unpack_from("<4sI", source, position)
        position += 8
        if name == b"data":
            present_bytes = len(source) - position
            if declared_bytes > present_bytes and declared_bytes != _RIFF_STREAMING_BYTES:
                raise DecodeError(
                    f"the WAV is truncated: {declared_bytes:,} bytes of audio declared, {present_bytes:,} present"
                )
            return
        position += declared_bytes + declared_bytes % 2
    raise DecodeError("the WAV is truncated: it ends before its audio begins")
