"""Single tones of a SoundFont, played by a fluidsynth child process; the one place that knows fluidsynth.

About 90 tones of 4 s a second and core. A tone's samples do not depend on the tones played before it.
"""

import io
import re
import shutil
import struct
import subprocess
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soxr

from shards.problem import EnvironmentProblem, RunFailed

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")

_INSTALL = "Install it: apt-get install fluidsynth fluid-soundfont-gm"
_CHILD_SECONDS = 600  # far more than any score takes; a hung child ends as an error
# Tones lie in slots: silence the last tone; play a short primer of the new one; silence; play it. FluidSynth ramps a
# voice's gain from the one that its place in the voice table had last, so that without the primer a tone's first 64
# samples would depend on the tone before. The primer outlasts the delay of every voice (organ clicks start 9 ms late).
# All times are whole periods of 4 ms, in which the child renders and frees voices, so that every slot goes alike.
_SAMPLES_PER_MS, _PERIOD_MS = 48, 4
_PRIMER_MS, _PRIMER_END_MS, _LEAST_LEAD_MS = 16, 64, 80
_SILENT_PEAK = 1e-5
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
    sound = _fluidsynth(_midi_file(tones, lead_ms, held_ms, slot_ms), soundfont, len(tones) * slot_ms)
    slots = sound.reshape(len(tones), slot_ms * _SAMPLES_PER_MS)
    return [
        _audible(tone, _resampled(slot[lead_ms * _SAMPLES_PER_MS :], sample_rate_hz))
        for tone, slot in zip(tones, slots, strict=True)
    ]


def _resampled(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    return soxr.resample(waveform, 1000 * _SAMPLES_PER_MS, sample_rate_hz, quality="HQ")


def _audible(tone: Tone, waveform: np.ndarray) -> np.ndarray:
    peak = float(np.abs(waveform).max())
    if peak < _SILENT_PEAK:
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


def check_soundfont(soundfont: Path, tones: Sequence[Tone]) -> None:
    """Raise EnvironmentProblem unless the SoundFont is there and has the preset of every tone.

    FluidSynth itself would play another preset in place of a missing one.
    """
    if not soundfont.is_file():
        raise EnvironmentProblem(
            f"There is no SoundFont at {soundfont}, so nothing can be played. {_INSTALL} (or pass --soundfont FILE)"
        )
    missing = {(tone.bank, tone.program) for tone in tones} - presets_of(soundfont)
    if missing:
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


def _fluidsynth(midi: bytes, soundfont: Path, wanted_ms: int) -> np.ndarray:
    """The first `wanted_ms` of a MIDI file's sound, mono float32 at 48 kHz: in floats no level can clip."""
    with tempfile.TemporaryDirectory(prefix="sonograph-") as folder:
        score, raw = Path(folder, "tones.mid"), Path(folder, "tones.raw")
        score.write_bytes(midi)
        # -f: no configuration file of the user or the system; -R, -C: no reverb, no chorus.
        options = f"-niq -f /dev/null -R 0 -C 0 -r {1000 * _SAMPLES_PER_MS} -z {_PERIOD_MS * _SAMPLES_PER_MS} -g 0.6"
        form = "-T raw -O float -E little -o synth.dynamic-sample-loading=1 -o synth.midi-bank-select=gs"
        child = _run([_program(), *options.split(), *form.split(), "-F", str(raw), str(soundfont), str(score)])
        said = child.stderr.strip().splitlines() or ["nothing"]
        stereo = np.fromfile(raw, "<f4") if raw.is_file() else np.empty(0, "<f4")
    if child.returncode:
        raise RunFailed(_child_failed(f"exit code {child.returncode}, it said: {said[-1]}"))
    wanted = 2 * wanted_ms * _SAMPLES_PER_MS
    if len(stereo) < wanted:
        raise RunFailed(_child_failed(f"{stereo.nbytes:,} of {wanted * 4:,} bytes, it said: {said[-1]}"))
    left, right = stereo[:wanted:2], stereo[1:wanted:2]
    return (left + right) * np.float32(0.5)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_CHILD_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(_child_failed(f"it hung for {_CHILD_SECONDS} s")) from error


def _child_failed(cause: str) -> str:
    return (
        f"fluidsynth failed: {cause}. Its tones were not written. It needs about 1.6 MB for each tone in "
        f"{tempfile.gettempdir()}: free some space there, and repeat the command to go on."
    )


def _midi_file(tones: Sequence[Tone], lead_ms: int, held_ms: int, slot_ms: int) -> bytes:
    """A standard MIDI file of one track, format 0, in which one tick is one millisecond."""
    track, last_ms = bytearray(), 0
    for at_ms, message in _messages(tones, lead_ms, held_ms, slot_ms):
        track += _variable_length(at_ms - last_ms) + message
        last_ms = at_ms
    # Without a tempo a quarter note lasts 500 ms.
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, 500, b"MTrk", len(track)) + bytes(track)


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
    yield len(tones) * slot_ms + _PERIOD_MS, b"\xff\x2f\x00"


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
