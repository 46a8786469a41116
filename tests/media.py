"""A few seconds of sound in each format that people keep music in, encoded by the ffmpeg program once per test run."""

import io
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ, SECONDS = 44_100, 4.0
NEEDS_FFMPEG = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg here to encode with")

_WRITTEN = {
    "wav-u8": ("WAV", "PCM_U8"),
    "wav-16": ("WAV", "PCM_16"),
    "wav-24": ("WAV", "PCM_24"),
    "wav-32": ("WAV", "PCM_32"),
    "wav-float": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "aiff-16": ("AIFF", "PCM_16"),
    "aiff-24": ("AIFF", "PCM_24"),
    "au-16": ("AU", "PCM_16"),
    "flac-16": ("FLAC", "PCM_16"),
    "flac-24": ("FLAC", "PCM_24"),
    "vorbis-small-pages": ("OGG", "VORBIS"),
}
_ENCODED = {  # name -> suffix and ffmpeg's words
    "mp3-cbr": ("mp3", "-b:a 128k"),
    "mp3-vbr": ("mp3", "-q:a 5"),
    "mp3-low": ("mp3", "-b:a 8k -ar 16000"),
    "mp3-plain": ("mp3", "-q:a 5 -write_xing 0 -id3v2_version 0"),
    "vorbis": ("ogg", "-c:a libvorbis"),
    "opus": ("opus", "-c:a libopus"),
    "flac-ogg": ("ogg", "-c:a flac"),
    "m4a": ("m4a", "-c:a aac -aac_pns 0"),
    "m4a-fragments": ("m4a", "-c:a aac -aac_pns 0 -movflags +frag_keyframe+empty_moov -frag_duration 500000"),
    "alac": ("m4a", "-c:a alac"),
    "aac": ("aac", "-c:a aac -aac_pns 0"),
    "ac3": ("ac3", "-c:a ac3 -b:a 640k"),
    "webm": ("webm", "-c:a libopus"),
    "mka-vorbis": ("mka", "-c:a libvorbis"),
}
LOSSLESS = (
    "wav-16",
    "wav-24",
    "wav-32",
    "rf64",
    "aiff-16",
    "aiff-24",
    "au-16",
    "flac-16",
    "flac-24",
    "flac-ogg",
    "alac",
)
FORMATS = (*_WRITTEN, *_ENCODED)


@cache
def music(seconds: float = SECONDS, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Decaying chords in a little noise, different in both channels, (samples, 2) float32, in steps of 16 bits."""
    rng, time = np.random.default_rng(7), np.arange(round(seconds * rate_hz)) / rate_hz
    voices = [
        np.sin(2 * np.pi * 110 * 2 ** (step / 12) * part * time) * np.exp(-3 * (time % 0.5)) / part
        for step in rng.integers(0, 36, 6)
        for part in (1, 2, 3)
    ]
    stereo = 0.08 * np.stack([sum(voices[::2]), sum(voices[1::2])], axis=1)
    stereo += 0.002 * rng.standard_normal(stereo.shape)
    stereo = (np.round(stereo * 2**15) / 2**15).astype(np.float32)
    stereo.flags.writeable = False
    return stereo


@cache
def encoded(name: str, seconds: float = SECONDS) -> bytes:
    """The music in the format of that name; skips the test where ffmpeg is needed and missing."""
    if name in _WRITTEN:
        container, subtype = _WRITTEN[name]
        buffer = io.BytesIO()
        soundfile.write(buffer, music(seconds), RATE_HZ, format=container, subtype=subtype)
        return buffer.getvalue()
    suffix, words = _ENCODED[name]
    return by_ffmpeg(encoded("wav-16", seconds), suffix, *words.split())


def by_ffmpeg(source: bytes, suffix: str, *words: str) -> bytes:
    """`source` through the ffmpeg program, into a file: an MP4 cannot be written to a pipe."""
    if not shutil.which("ffmpeg"):
        pytest.skip("there is no ffmpeg here to encode with")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"music.{suffix}"
        subprocess.run(["ffmpeg", "-v", "error", "-i", "-", *words, target], input=source, check=True)
        return target.read_bytes()


def decibels(error: np.ndarray, reference: np.ndarray) -> float:
    """The power of an error against that of its reference; -300 for none."""
    return float(10 * np.log10(np.mean(error**2) / np.mean(reference**2) + 1e-30))
