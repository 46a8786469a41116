"""A SoundFont played by a fluidsynth child process, and its sound as audio files; the one place that knows fluidsynth.

About 90 single tones of 4 s a second and core. A tone's samples do not depend on the tones played before it.
"""

import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
import wave
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from shards.problem import EnvironmentProblem, RunFailed

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
SILENT_PEAK = 1e-5

_INSTALL = "Install it: apt-get install fluidsynth fluid-soundfont-gm"
# A hung child ends as an error; the densest score plays ten times faster than this on an idle core.
_START_SECONDS, _SECONDS_PER_SECOND = 120, 2
# Tones lie in slots: silence the last tone; play a short primer of the new one; silence; play it. FluidSynth ramps a
# voice's gain from the one that its place in the voice table had last, so that without the primer a tone's first 64
# samples would depend on the tone before. The primer outlasts the delay of every voice (organ clicks start 9 ms late).
# All times are whole periods of 4 ms, in which the child renders and frees voices, so that every slot goes alike.
_SAMPLES_PER_MS, _PERIOD_MS = 48, 4
_DRY = {"synth.reverb.active": 0, "synth.chorus.active": 0}
_PRIMER_MS, _PRIMER_END_MS, _LEAST_LEAD_MS = 16, 64, 80
_BLOCK_SAMPLES = 1 << 18
_GAIN = 0.6
_MP3_COMPRESSION = 0.5  # halfway between the best sound and the smallest file
_ALL_SOUND_OFF = bytes([0xB0, 120, 0])


@dataclass(frozen=True)
class Timbre:
    """Shifts of SoundFont generators away from what the preset says; all zero is the preset as it is."""

    cutoff_cents: int = 0
    resonance_centibels: int = 0
    attack_timecents: int = 0
    decay_timecents: int = 0
    release_timecents: int = 0
    vibrato_cents: int = 0
    tuning_cents: int = 0


@dataclass(frozen=True)
class Tone:
    """One preset of a SoundFont at one MIDI pitch and velocity, 0..127 each."""

    bank: int
    program: int
    pitch: int
    velocity: int
    timbre: Timbre = field(default_factory=Timbre)


# Generator number (SoundFont 2.01, section 8.1.2) and what one NRPN step is worth (section 9.6), in the Timbre's units.
_GENERATORS = {
    "cutoff_cents": (8, 2),
    "resonance_centibels": (9, 1),
    "attack_timecents": (34, 2),
    "decay_timecents": (36, 2),
    "release_timecents": (38, 2),
    "vibrato_cents": (6, 2),
    "tuning_cents": (52, 1),
}


def play(
    tones: Sequence[Tone], *, soundfont: Path, held_seconds: float, seconds: float, sample_rate_hz: int
) -> list[np.ndarray]:
    """Each tone as mono float32 of exactly `seconds`: held for `held_seconds`, then released; dry, never clipped.

    Raises RunFailed when the child fails or a tone comes out silent.
    """
    clip_ms, held_ms = round(1000 * seconds), round(1000 * held_seconds)
    slot_ms = -(-(clip_ms + _LEAST_LEAD_MS) // _PERIOD_MS) * _PERIOD_MS
    lead_ms = slot_ms - clip_ms
    midi = midi_file(_messages(tones, lead_ms, held_ms, slot_ms), ticks_per_second=1000)
    samples = len(tones) * slot_ms * _SAMPLES_PER_MS
    period = {"audio.period-size": _PERIOD_MS * _SAMPLES_PER_MS}
    with sound_of(
        midi, soundfont, samples=samples, sample_rate_hz=1000 * _SAMPLES_PER_MS, settings=_DRY | period
    ) as stereo:
        sound = (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)
    slots = sound.reshape(len(tones), slot_ms * _SAMPLES_PER_MS)
    return [
        _audible(tone, _resampled(slot[lead_ms * _SAMPLES_PER_MS :], sample_rate_hz))
        for tone, slot in zip(tones, slots, strict=True)
    ]


def _resampled(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    return soxr.resample(waveform, 1000 * _SAMPLES_PER_MS, sample_rate_hz, quality="HQ")


def resampled(sound: np.ndarray, rate_hz: int, wanted_rate_hz: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of (samples, channels) at another rate, by soxr HQ, each with the sample at which it starts."""
    stream = soxr.ResampleStream(rate_hz, wanted_rate_hz, sound.shape[1], quality="HQ")
    at = 0
    for start in range(0, len(sound), _BLOCK_SAMPLES):
        block = np.ascontiguousarray(sound[start : start + _BLOCK_SAMPLES])
        if rate_hz != wanted_rate_hz:
            block = stream.resample_chunk(block, last=start + _BLOCK_SAMPLES >= len(sound))
        yield at, block
        at += len(block)


def _audible(tone: Tone, waveform: np.ndarray) -> np.ndarray:
    peak = float(np.abs(waveform).max())
    if peak < SILENT_PEAK:
        raise RunFailed(
            f"{tone} came out silent (peak {peak:.1e}), and what is said of it would be false, so it was not written. "
            "The SoundFont has no sound there: play with Debian's FluidR3_GM.sf2 (--soundfont)."
        )
    return waveform


def wav_of(waveform: np.ndarray, *, peak: float, sample_rate_hz: int) -> bytes:
    """A mono waveform as a 16-bit WAV, scaled so that its largest amplitude is `peak` of full scale."""
    samples = np.round(waveform * (peak / np.abs(waveform).max()) * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, sample_rate_hz, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def flac_of(waveform: np.ndarray, *, sample_rate_hz: int) -> bytes:
    """A waveform (channels, samples), float32 or int16, as a 16-bit FLAC at its own level; int16 is kept exactly.

    Raises ValueError when float amplitudes are beyond full scale.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, _int16(waveform).T, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def mp3_of(waveform: np.ndarray, *, sample_rate_hz: int) -> bytes:
    """A waveform (channels, samples), float32 or int16, as an MP3 of constant bit rate: 160 kbit/s at 44.1 kHz.

    0.45 dB softer, by which LAME makes room for its own peaks. MP3 has two channels at most and rates of 8 to 48 kHz.
    Raises ValueError when float amplitudes are beyond full scale.
    """
    # Floats: fed with 16-bit stereo, libsndfile 1.2.2 reads past its buffer and encodes what it finds there.
    samples = _int16(waveform).T.astype(np.float32) / 32768
    buffer = io.BytesIO()
    soundfile.write(
        buffer, samples, sample_rate_hz, format="MP3", bitrate_mode="CONSTANT", compression_level=_MP3_COMPRESSION
    )
    return buffer.getvalue()


def _int16(waveform: np.ndarray) -> np.ndarray:
    """Full scale is 32,768, as decoders divide by it, and the largest amplitude 32,767."""
    if waveform.dtype == np.int16:
        return waveform
    peak = float(np.abs(waveform).max(initial=0))
    if not peak <= 1:
        raise ValueError(f"the waveform peaks at {peak}, beyond full scale: its 16-bit form would be clipped")
    return np.minimum(np.round(waveform * 32768), 32767).astype(np.int16)


def fluidsynth_version() -> str:
    """The version of the fluidsynth on the PATH. Raises EnvironmentProblem when there is none that works."""
    answer = _run([_program(), "--version"])
    version = re.search(r"runtime version (\S+)", answer.stdout)
    if answer.returncode or not version:
        raise EnvironmentProblem(
            f"{_program()} --version ended with exit code {answer.returncode} and no version, so it cannot be trusted "
            f"to play. {_INSTALL}"
        )
    return version[1]


def check_soundfont(soundfont: Path, presets: Set[tuple[int, int]]) -> None:
    """Raise EnvironmentProblem unless the SoundFont is there and has every preset (bank, program); drums are bank 128.

    FluidSynth itself would play another preset in place of a missing one.
    """
    if not soundfont.is_file():
        raise EnvironmentProblem(
            f"There is no SoundFont at {soundfont}, so nothing can be played. {_INSTALL} (or pass --soundfont FILE)"
        )
    if missing := presets - presets_of(soundfont):
        raise EnvironmentProblem(
            f"{soundfont} lacks {len(missing)} presets that are wanted, such as bank {min(missing)[0]} program "
            f"{min(missing)[1]}; others would sound in their place. Pass FluidR3_GM.sf2 as --soundfont. {_INSTALL}"
        )


def presets_of(soundfont: Path) -> set[tuple[int, int]]:
    """(bank, program) of every preset, from the SoundFont's `phdr` chunk. Raises EnvironmentProblem if it has none."""
    with soundfont.open("rb") as file:
        riff, _, form = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        while riff == b"RIFF" and form == b"sfbk" and len(header := file.read(8)) == 8:
            name, chunk_bytes = struct.unpack("<4sI", header)
            if name == b"LIST":
                file.seek(4, 1)  # step into the list, past its type
            elif name == b"phdr":
                headers = struct.iter_unpack("<20sHH14x", file.read(chunk_bytes))
                return {(bank, program) for _, program, bank in list(headers)[:-1]}  # the last only marks the end
            else:
                file.seek(chunk_bytes + chunk_bytes % 2, 1)
    raise EnvironmentProblem(f"{soundfont} is no SoundFont 2 file, so nothing can be played. {_INSTALL}")


def _program() -> str:
    if program := shutil.which("fluidsynth"):
        return program
    raise EnvironmentProblem(f"fluidsynth is not on the PATH, so nothing can be played. {_INSTALL}")


@contextmanager
def sound_of(
    midi: bytes, soundfont: Path, *, samples: int, sample_rate_hz: int, settings: Mapping[str, float]
) -> Iterator[np.ndarray]:
    """The first `samples` of a MIDI file's sound as (samples, 2), float32: in floats no level can clip.

    It is mapped from a temporary file, so that any length needs little memory. `settings` are fluidsynth's own. Raises
    RunFailed when the child fails, hangs, or says less than was asked for.
    """
    wanted_bytes = samples * 2 * 4
    limit_seconds = _START_SECONDS + _SECONDS_PER_SECOND * samples / sample_rate_hz
    # Files without a name, which the child finds by number: whoever is killed, nothing stays on the disk.
    with tempfile.TemporaryFile() as score, tempfile.TemporaryFile() as raw:
        score.write(midi)
        score.seek(0)
        numbers = [score.fileno(), raw.fileno()]
        read, written = (f"/dev/fd/{number}" for number in numbers)
        words = [_program(), *_options(sample_rate_hz, settings), "-F", written, str(soundfont), read]
        child = _run(words, limit_seconds=limit_seconds, files=numbers)
        said = child.stderr.strip().splitlines() or ["nothing"]
        found_bytes = os.fstat(raw.fileno()).st_size
        if child.returncode:
            raise RunFailed(_child_failed(f"exit code {child.returncode}, it said: {said[-1]}", wanted_bytes))
        if found_bytes < wanted_bytes:
            cause = f"{found_bytes:,} of {wanted_bytes:,} bytes, it said: {said[-1]}"
            raise RunFailed(_child_failed(cause, wanted_bytes))
        yield np.memmap(raw, "<f4", "r", shape=(samples, 2))


def _options(sample_rate_hz: int, settings: Mapping[str, float]) -> list[str]:
    # No configuration file of the user or the system, and no default SoundFont in place of one that cannot be read.
    words = f"-niq -f /dev/null -r {sample_rate_hz} -g {_GAIN} -T raw -O float -E little".split()
    fixed = {"synth.dynamic-sample-loading": 1, "synth.midi-bank-select": "gs", "synth.default-soundfont": ""}
    return words + [word for name, value in {**fixed, **settings}.items() for word in ("-o", f"{name}={value}")]


def _run(
    words: Sequence[str], *, limit_seconds: float = 60, files: Collection[int] = ()
) -> subprocess.CompletedProcess[str]:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}
    try:
        return subprocess.run(words, **options, pass_fds=files, timeout=limit_seconds)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(_child_failed(f"it hung for {limit_seconds:.0f} s", 0)) from error


def _child_failed(cause: str, wanted_bytes: int) -> str:
    return (
        f"fluidsynth failed: {cause}. What it was playing was not written. It needs {wanted_bytes / 1e6:,.0f} MB in "
        f"{tempfile.gettempdir()}: free some space there, and repeat the command to go on."
    )


def midi_file(messages: Iterable[tuple[int, bytes]], *, ticks_per_second: int) -> bytes:
    """A standard MIDI file of one track, format 0, from messages in order of time, each with its tick.

    The sound ends with the last message. `ticks_per_second` is even and less than 65,536.
    """
    track, last_tick = bytearray(), 0
    for tick, message in messages:
        track += _variable_length(tick - last_tick) + message
        last_tick = tick
    track += b"\x00\xff\x2f\x00"
    # Without a tempo a quarter note lasts 500 ms.
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, ticks_per_second // 2, b"MTrk", len(track)) + bytes(track)


def _messages(tones: Sequence[Tone], lead_ms: int, held_ms: int, slot_ms: int) -> Iterator[tuple[int, bytes]]:
    for position, tone in enumerate(tones):
        start_ms = position * slot_ms
        note_on = bytes([0x90, tone.pitch, tone.velocity])
        yield start_ms, _ALL_SOUND_OFF
        yield from ((start_ms, message) for message in _setting(tone))
        yield start_ms + _PRIMER_MS, note_on
        yield start_ms + _PRIMER_END_MS, _ALL_SOUND_OFF
        yield start_ms + lead_ms, note_on
        yield start_ms + lead_ms + held_ms, bytes([0x80, tone.pitch, 0])
    yield len(tones) * slot_ms + _PERIOD_MS, _ALL_SOUND_OFF


def _setting(tone: Tone) -> Iterator[bytes]:
    """All controllers back to their defaults, then bank, program, full volume and the generators' shifts."""
    yield bytes([0xB0, 121, 0])
    yield bytes([0xB0, 0, tone.bank])
    yield bytes([0xC0, tone.program])
    yield bytes([0xB0, 7, 127])
    for name, shift in asdict(tone.timbre).items():
        generator, unit = _GENERATORS[name]
        steps = 8192 + round(shift / unit)
        for controller, value in ((99, 120), (98, generator), (38, steps & 127), (6, steps >> 7)):
            yield bytes([0xB0, controller, value])


def _variable_length(number: int) -> bytes:
    septets = [number & 127]
    while number := number >> 7:
        septets.append(128 | number & 127)
    return bytes(reversed(septets))
