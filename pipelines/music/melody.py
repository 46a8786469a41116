"""Tunes: motifs that return, move by sequence and inversion, and come to rest at phrase ends."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.music.form import BEAT_TICKS, Passage
from pipelines.music.harmony import Chord, chord_tones, ladder
from pipelines.music.styles import CADENCES

Tone = tuple[float, float, int, float]
"""Start and end tick in a passage, MIDI pitch, loudness: 1 is an accent."""

# Four bars: motif a or b, then how it is stated: as it was, n steps of the scale higher or lower, or upside down ("i").
_PLANS = ("a a+1 b", "a b a", "a a b", "a a-1 b", "a ai b", "a a+2 b", "a b a-1", "a a-2 bi")
_HIT = re.compile(r"[^-.]-*")


@dataclass(frozen=True)
class Motif:
    """A bar of rhythm (start and end tick of its notes) and the way between its notes in steps of the scale."""

    rhythm: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Register:
    """Where a player's notes lie: lowest and highest MIDI pitch."""

    low: int
    high: int

    @property
    def middle(self) -> float:
        """Halfway between its ends."""
        return (self.low + self.high) / 2


def hits(pattern: str, step_ticks: int) -> list[tuple[int, int, str]]:
    """Start tick, end tick and sign of every note of a pattern."""
    return [(match.start() * step_ticks, match.end() * step_ticks, match[0][0]) for match in _HIT.finditer(pattern)]


def motif(cell: str, step_ticks: int, leaps: float, rng: np.random.Generator) -> Motif:
    """A motif on a rhythm: mostly steps in one direction and back, a leap now and then that the next step answers."""
    rhythm = tuple((start, end) for start, end, _ in hits(cell, step_ticks))
    steps, direction = [0], 1 if rng.random() < 0.55 else -1
    for _ in rhythm[1:]:
        if abs(steps[-1]) > 1:
            direction = -1 if steps[-1] > 0 else 1
        elif rng.random() < 0.35:
            direction = -direction
        size = 0 if rng.random() < 0.12 else 1 + (rng.random() < leaps) + (rng.random() < leaps / 3)
        steps.append(direction * size)
    return Motif(rhythm, tuple(steps))


def tune(
    passage: Passage, cells: Sequence[str], register: Register, *, leaps: float, rng: np.random.Generator
) -> list[Tone]:
    """A melody over a passage. `cells` are rhythms of one bar; `leaps` is the share of intervals wider than a step.

    Every four bars state a motif, answer it and rest on a chord tone; the last phrase rests on the tonic if its chord
    allows. Long notes and notes on strong beats are tones of the chord.
    """
    step_ticks = passage.meter.step_ticks
    first, second = (motif(cells[place], step_ticks, leaps, rng) for place in rng.permutation(len(cells))[:2])
    ends = CADENCES[passage.meter.name]
    words = _PLANS[rng.integers(len(_PLANS))].split()
    tones: list[Tone] = []
    for phrase_bar in range(0, passage.bars, 4):
        anchor = register.middle + 5 * (rng.random() - 0.5) + 2 * (phrase_bar // 4 % 2)
        cadence = motif(ends[rng.integers(len(ends))], step_ticks, 0.0, rng)
        stated = [_stated(word, first, second) for word in words] + [(cadence, 0)]
        for bar, (one, shift) in enumerate(stated[: passage.bars - phrase_bar], phrase_bar):
            tones += _sung(one, bar * passage.meter.bar_ticks, anchor + 1.7 * shift, passage, register)
    start, end, pitch, loudness = tones[-1]
    return [*tones[:-1], (start, end, resting_pitch(passage.chord_at(start), passage.tonic, pitch, register), loudness)]


def _stated(word: str, first: Motif, second: Motif) -> tuple[Motif, int]:
    one = first if word[0] == "a" else second
    if word[1:] == "i":
        return replace(one, steps=tuple(-step for step in one.steps)), 0
    return one, int(word[1:] or 0)


def _sung(one: Motif, tick: int, anchor: float, passage: Passage, register: Register) -> Iterator[Tone]:
    """The motif from the chord tone nearest to `anchor`, on the ladder of each chord it meets."""
    pitch = round(anchor)
    for place, ((start, end), step) in enumerate(zip(one.rhythm, one.steps, strict=True)):
        chord = passage.chord_at(tick + start)
        rungs = ladder(passage.scale, chord, register.low, register.high)
        pitch = _rung(rungs, pitch, step)
        is_strong = start % (2 * BEAT_TICKS) == 0 or end - start >= BEAT_TICKS
        if is_strong or not place:
            tones = chord_tones(chord, register.low, register.high)
            pitch = tones[_nearest(tones, pitch)]
        yield tick + start, tick + end, pitch, 1.0 if is_strong else 0.88


def _rung(rungs: Sequence[int], pitch: int, step: int) -> int:
    """The pitch `step` rungs away, turned back at the ladder's ends."""
    place = _nearest(rungs, pitch)
    return rungs[place + step] if 0 <= place + step < len(rungs) else rungs[place - step]


def _nearest(pitches: Sequence[int], pitch: float) -> int:
    place = bisect_left(pitches, pitch)
    if place == len(pitches) or (place and pitch - pitches[place - 1] <= pitches[place] - pitch):
        return place - 1
    return place


def resting_pitch(chord: Chord, tonic: int, pitch: int, register: Register) -> int:
    """The tonic nearest to a pitch, or the chord's root where the chord lacks the tonic."""
    goal = tonic if tonic in chord.pitch_classes else chord.root
    choices = range(register.low + (goal - register.low) % 12, register.high + 1, 12)
    return choices[_nearest(choices, pitch)]


def varied(tones: Sequence[Tone], passage: Passage, register: Register, rng: np.random.Generator) -> list[Tone]:
    """A tune as it returns: some of its longer notes now pass on to the next one."""
    result = list(tones[:1])
    for tone in tones[1:]:
        start, end, pitch, loudness = result[-1]
        is_apart = end - start >= BEAT_TICKS / 2 and abs(tone[2] - pitch) > 2 and end == tone[0]
        if is_apart and rng.random() < 0.4:
            rungs = ladder(passage.scale, passage.chord_at(start), register.low, register.high)
            middle, passing = (start + end) / 2, _rung(rungs, pitch, 1 if tone[2] > pitch else -1)
            result[-1:] = [(start, middle, pitch, loudness), (middle, end, passing, 0.8)]
        result.append(tone)
    return result


def doubled(tones: Sequence[Tone], passage: Passage, register: Register) -> Iterator[Tone]:
    """The tune a third or a fourth lower; silent where that leaves the register."""
    for start, end, pitch, loudness in tones:
        rungs = ladder(passage.scale, passage.chord_at(start), register.low, register.high)
        place = bisect_left(rungs, pitch - 2) - 1
        if place >= 0:
            yield start, end, rungs[place], 0.85 * loudness


def answers(
    passage: Passage, cells: Sequence[str], register: Register, *, leaps: float, rng: np.random.Generator
) -> Iterator[Tone]:
    """Short replies where the tune rests: in every fourth bar, in some passages in every second one."""
    one = motif(cells[int(rng.integers(len(cells)))], passage.meter.step_ticks, leaps, rng)
    every = 2 if rng.random() < 0.4 else 4
    anchor = register.middle + 4 * (rng.random() - 0.5)
    for bar in range(every - 1, passage.bars, every):
        tick = bar * passage.meter.bar_ticks
        yield from (tone for tone in _sung(one, tick, anchor, passage, register) if tone[0] - tick >= BEAT_TICKS / 2)
