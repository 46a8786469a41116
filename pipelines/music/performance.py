"""A Score as sound: all parts in one pass of fluidsynth, in a room and lightly mastered, or a stem for each part.

About 25 times real time and core for seven parts at 44.1 kHz. The same score gives the same samples; memory is little
more than the sound itself, whatever its length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np

from pipelines.music.score import Part, Score
from pipelines.music.synthesis import SILENT_PEAK, midi_file, resampled, sound_of
from shards.problem import RunFailed

LOUDNESS_LUFS = -16.0
STEMS_LOUDNESS_LUFS = -20.0  # nothing limits stems, since they would no longer add up: peaks need more room
PEAK = 0.89  # 1 dB below full scale

_TICKS_PER_SECOND = 20_000
_LEAST_PLAYED_RATE_HZ = 44_100  # that of the SoundFont's samples: played below it, their treble would fold back
_MORE_SECONDS = 0.1  # played and cut off, so that resampling has something to end on
_PERIOD_SAMPLES = 1024  # written at a time: a tenth faster than 64, and the same sound
_FADE_SECONDS = 0.01  # at the end, where the last notes may still sound
_DRUM_CHANNEL = 9
_PITCHED_CHANNELS = [channel for channel in range(16) if channel != _DRUM_CHANNEL]
_REVERB_SENDS = {"Drums": 30, "Bass": 10}
_REVERB_SEND = 50
_LOUDNESS_SECONDS = 60  # measured at a time, to need little memory
_LEAST_LOUDNESS_SECONDS = 0.4  # one block of ITU-R BS.1770
_GATE_LUFS, _GATE_BELOW_MEAN_DB = -70.0, 10.0
_STEP_SAMPLES, _REACH_STEPS = 64, 20  # the limiter's gain moves within 20 steps, 29 ms at 44.1 kHz


def play_score(score: Score, *, sample_rate_hz: int, soundfont: Path) -> np.ndarray:
    """The whole piece as (2, samples) float32, `score.seconds` long, at -16 LUFS, limited to 1 dB below full scale.

    Raises RunFailed when the child fails or nothing sounds.
    """
    sound = _played(score.parts, score, sample_rate_hz, soundfont)
    sound *= _gain_to(LOUDNESS_LUFS, sound, sample_rate_hz)
    _limit(sound)
    return sound


def play_stems(score: Score, *, sample_rate_hz: int, soundfont: Path) -> list[np.ndarray]:
    """Each part alone as (samples,) float32, in order, all by one gain: their sum, the mix, is at -20 LUFS.

    It is softer where the mix or a stem would else peak above 1 dB below full scale. Stems are mono: pan has no part in
    them. Raises RunFailed when the child fails or nothing sounds.
    """
    centred = [replace(part, pan=0.0) for part in score.parts]
    stems = [_played((part,), score, sample_rate_hz, soundfont).mean(axis=0) for part in centred]
    mix = np.sum(stems, axis=0)
    loudest = max(_peak(sound) for sound in (mix, *stems))
    gain = min(_gain_to(STEMS_LOUDNESS_LUFS, mix[None], sample_rate_hz), np.float32(PEAK / loudest))
    return [stem * gain for stem in stems]


def _played(parts: Sequence[Part], score: Score, sample_rate_hz: int, soundfont: Path) -> np.ndarray:
    """(2, samples) of some parts of a score, in its room and at their levels among each other."""
    samples = round(score.seconds * sample_rate_hz)
    played_rate_hz = max(sample_rate_hz, _LEAST_PLAYED_RATE_HZ)
    played_seconds = score.seconds + _MORE_SECONDS
    sound = np.zeros((2, samples), np.float32)
    for channels in _passes(parts):
        midi = midi_file(_messages(channels, played_seconds), ticks_per_second=_TICKS_PER_SECOND)
        played_samples = round(played_seconds * played_rate_hz)
        with sound_of(
            midi, soundfont, samples=played_samples, sample_rate_hz=played_rate_hz, settings=_room(score)
        ) as stereo:
            for start, block in resampled(stereo, played_rate_hz, sample_rate_hz):
                sound[:, start : start + len(block)] += block[: max(0, samples - start)].T
    _fade_out(sound, round(_FADE_SECONDS * sample_rate_hz))
    return sound


def _passes(parts: Sequence[Part]) -> Iterator[list[tuple[int, Part]]]:
    """The parts with a channel each, in as few passes as channels allow: 15 pitched parts and a drum kit in one."""
    drums = [part for part in parts if part.is_drum]
    pitched = [part for part in parts if not part.is_drum]
    width = len(_PITCHED_CHANNELS)
    for number in range(max(-(-len(pitched) // width), len(drums))):
        own = pitched[number * width : (number + 1) * width]
        yield [
            *zip(_PITCHED_CHANNELS, own, strict=False),
            *((_DRUM_CHANNEL, kit) for kit in drums[number : number + 1]),
        ]


def _messages(channels: Sequence[tuple[int, Part]], seconds: float) -> Iterator[tuple[int, bytes]]:
    """MIDI messages by tick. At one tick notes end before others begin, so that a repeated pitch sounds again."""
    for channel, part in channels:
        yield from ((0, message) for message in _setting(channel, part))
    notes = chain.from_iterable(_note_events(channel, part) for channel, part in channels)
    end = round(seconds * _TICKS_PER_SECOND)
    yield from ((tick, message) for tick, _, message in sorted(notes) if tick < end)
    # FluidSynth keeps time in whole milliseconds and blocks of 64 samples, and ends with the last message.
    yield end + _TICKS_PER_SECOND // 100, bytes([0xB0, 120, 0])


def _setting(channel: int, part: Part) -> Iterator[bytes]:
    """Program, level, place and share of the reverb. The controller of level is an amplitude of (value / 127)^2."""
    level = round(100 * 10 ** (part.gain_db / 40))
    controllers = {
        7: min(127, level),
        10: min(127, 64 + round(64 * part.pan)),
        91: _REVERB_SENDS.get(part.instrument_class, _REVERB_SEND),
    }
    yield bytes([0xC0 | channel, part.program])
    yield from (bytes([0xB0 | channel, controller, value]) for controller, value in controllers.items())


def _note_events(channel: int, part: Part) -> Iterator[tuple[int, int, bytes]]:
    for note in part.notes:
        start = round(note.start_seconds * _TICKS_PER_SECOND)
        end = max(start + 1, round((note.start_seconds + note.seconds) * _TICKS_PER_SECOND))
        yield start, 1, bytes([0x90 | channel, note.pitch, note.velocity])
        yield end, 0, bytes([0x80 | channel, note.pitch, 0])


def _room(score: Score) -> Mapping[str, float]:
    """Fluidsynth's settings: reverb of a small to a large room, drawn from the score's own notes; no chorus."""
    notes = repr([(part.program, part.notes) for part in score.parts])
    rng = np.random.default_rng(list(sha256(notes.encode()).digest()))
    size, damping, level = rng.uniform((0.1, 0.1, 0.2), (0.7, 0.6, 0.7)).round(3)
    return {
        "audio.period-size": _PERIOD_SAMPLES,
        "synth.chorus.active": 0,
        "synth.reverb.active": 1,
        "synth.reverb.room-size": size,
        "synth.reverb.damp": damping,
        "synth.reverb.level": level,
    }


def _fade_out(sound: np.ndarray, samples: int) -> None:
    samples = min(samples, sound.shape[1])
    sound[:, sound.shape[1] - samples :] *= np.linspace(1, 0, samples, dtype=np.float32)


def _gain_to(loudness_lufs: float, sound: np.ndarray, sample_rate_hz: int) -> np.float32:
    if _peak(sound) < SILENT_PEAK:
        raise RunFailed(
            f"A score came out silent (peak {_peak(sound):.1e}), and what is said of it would be false, so it was not "
            "written. Either it has no notes, or the SoundFont no sound for them: play with Debian's FluidR3_GM.sf2."
        )
    return np.float32(10 ** ((loudness_lufs - _loudness_lufs(sound, sample_rate_hz)) / 20))


def _loudness_lufs(sound: np.ndarray, sample_rate_hz: int) -> float:
    """Integrated loudness of ITU-R BS.1770-4 (sections of a minute are filtered apart)."""
    import pyloudnorm  # its scipy.signal takes half a second to load, for which nobody who only reads should wait

    meter = pyloudnorm.Meter(sample_rate_hz)
    short = round(_LEAST_LOUDNESS_SECONDS * sample_rate_hz) + 1 - sound.shape[1]
    if short > 0:
        sound = np.pad(sound, ((0, 0), (0, short)))
    sections = -(-sound.shape[1] // (_LOUDNESS_SECONDS * sample_rate_hz))
    blocks: list[float] = []
    for section in np.array_split(sound, sections, axis=1):
        meter.integrated_loudness(section.T)
        blocks += meter.blockwise_loudness
    powers = 10 ** (np.array(blocks) / 10)
    heard = powers[powers > 10 ** (_GATE_LUFS / 10)]
    return float(10 * np.log10(heard[heard > heard.mean() / 10 ** (_GATE_BELOW_MEAN_DB / 10)].mean()))


def _limit(sound: np.ndarray) -> None:
    """Turn both channels down, smoothly, where either would exceed PEAK; in place."""
    starts = np.arange(0, sound.shape[1], _STEP_SAMPLES)
    high, low = (take.reduceat(sound, starts, axis=1) for take in (np.maximum, np.minimum))
    allowed = PEAK / np.maximum(PEAK, np.maximum(high, -low).max(axis=0))
    if (allowed == 1).all():
        return
    # The least gain within reach, and one step more, then its weighted mean within reach: never above what is allowed
    # at either end of a line between the middles of two steps.
    padded = np.pad(allowed, 2 * _REACH_STEPS + 1, mode="edge")
    least = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH_STEPS + 3).min(axis=1)
    weights = np.hanning(2 * _REACH_STEPS + 3)[1:-1]
    gain = np.convolve(least, weights / weights.sum(), mode="valid")
    for start in range(0, sound.shape[1], _STEP_SAMPLES * 4096):
        block = sound[:, start : start + _STEP_SAMPLES * 4096]
        steps = (np.arange(start, start + block.shape[1]) - _STEP_SAMPLES / 2) / _STEP_SAMPLES
        block *= np.interp(steps, np.arange(len(gain)), gain).astype(np.float32)


def _peak(sound: np.ndarray) -> float:
    return float(max(sound.max(), -sound.min()))
