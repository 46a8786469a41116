"""What bass, chord players and drums play over a passage, from the patterns of their style."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from pipelines.music.form import BEAT_TICKS, Meter, Passage
from pipelines.music.harmony import Chord, ladder, voicing
from pipelines.music.melody import Register, Tone, hits
from pipelines.music.styles import DRUM_PITCHES

_STRUM_TICKS = 0.3  # from string to string, about 7 ms
_LOUDNESS = {"X": 1.0, "x": 0.88, "o": 0.58, "?": 0.48, "d": 0.95, "u": 0.75, "b": 0.9, "t": 0.8}
_SOFT_DRUMS = {
    "HH": 0.75,
    "PH": 0.6,
    "OH": 0.72,
    "RC": 0.72,
    "SH": 0.7,
    "CC": 0.9,
    "CL": 0.8,
    "CA": 0.7,
    "MA": 0.7,
    "CB": 0.7,
}
_KICK = DRUM_PITCHES["BD"]
_TIMEKEEPERS = {"HH", "PH", "OH", "RC", "SH", "TB", "CA", "MA"}


def laid(pattern: str, passage: Passage) -> Iterator[tuple[int, int, str]]:
    """Start tick, end tick and sign of a pattern's notes, repeated over a passage.

    A note held over a change of chord is split there, and both halves have its sign.
    """
    steps = passage.bars * passage.meter.steps
    text = (pattern * (steps // len(pattern) + 1))[:steps]
    for start, end, sign in hits(text, passage.meter.step_ticks):
        begin = start
        for beat in range(start // BEAT_TICKS + 1, (end - 1) // BEAT_TICKS + 1):
            if passage.chords_by_beat[beat] != passage.chord_at(begin):
                yield begin, beat * BEAT_TICKS, sign
                begin = beat * BEAT_TICKS
        yield begin, end, sign


def bass(pattern: str, passage: Passage, register: Register) -> Iterator[Tone]:
    """A bass line: the root wherever a chord begins, then what the pattern asks for."""
    pitch, chord = register.low + 5, None
    for start, end, sign in laid(pattern, passage):
        before, chord = chord, passage.chord_at(start)
        sign = sign if chord == before else "R"
        if sign in "aw":
            rungs = ladder(passage.scale, chord, register.low, register.high)
            goal = _chord_pitch("R", passage.chord_at(end), pitch, register)
            pitch = _approach(goal, rungs, pitch) if sign == "a" else _step(goal, rungs, chord, pitch)
        else:
            pitch = _chord_pitch(sign, chord, pitch, register)
        yield start, end, pitch, 1.0 if start % passage.meter.bar_ticks == 0 else 0.88


def _chord_pitch(sign: str, chord: Chord, pitch: int, register: Register) -> int:
    root = _near(chord.root, (pitch + register.low + 7) / 2, register)
    if sign == "5":
        return _near(chord.fifth, root + 1, register)
    if sign == "3":
        return _near(chord.third, root + 4, register)
    return root + 12 if sign == "8" and root + 12 <= register.high else root


def _near(pitch_class: int, pitch: float, register: Register) -> int:
    choices = range(register.low + (pitch_class - register.low) % 12, register.high + 1, 12)
    return min(choices, key=lambda choice: abs(choice - pitch))


def _approach(goal: int, rungs: Sequence[int], pitch: int) -> int:
    """The goal's neighbour on our side, or where we stand on it the one beyond; from the goal itself, the one below."""
    others = [rung for rung in rungs if rung not in (goal, pitch)]
    place = bisect_left(others, goal)
    near = others[max(place - 1, 0) : place + 1]
    return near[0] if pitch <= goal else near[-1]


def _step(goal: int, rungs: Sequence[int], chord: Chord, pitch: int) -> int:
    """A step towards a far goal; where it is near, another tone of the chord, so that the walk does not stand still."""
    if abs(goal - pitch) > 4:
        place = bisect_left(rungs, pitch)
        return rungs[place + 1] if goal > pitch else rungs[place - 1]
    tones = [rung for rung in rungs if rung % 12 in chord.pitch_classes and rung != pitch]
    return min(tones, key=lambda tone: abs(tone - pitch - 4))


def chords(pattern: str, passage: Passage, register: Register, *, voices: int, is_power: bool) -> Iterator[Tone]:
    """Voice-led chords in the rhythm of a pattern, struck, strummed, split between hands, or one tone at a time.

    Power chords have no third.
    """
    lead: tuple[int, ...] = ()
    for start, end, sign in laid(pattern, passage):
        chord = passage.chord_at(start)
        chord = Chord(chord.root, "5") if is_power else chord
        lead = voicing(chord, lead, voices, register.low, register.high)
        yield from _struck(sign, start, end, lead, register)


def _struck(sign: str, start: float, end: float, lead: tuple[int, ...], register: Register) -> Iterator[Tone]:
    loudness = _LOUDNESS.get(sign, 0.85)
    if sign in "du":
        strings = lead if sign == "d" else lead[:0:-1]
        yield from ((start + _STRUM_TICKS * place, end, pitch, loudness) for place, pitch in enumerate(strings))
    elif sign.isdigit():
        octave, place = divmod(int(sign), len(lead))
        pitch = lead[place] + 12 * octave
        yield start, end, pitch if pitch <= register.high else lead[place], loudness
    else:
        pitches = {"b": lead[:1], "t": lead[1:]}.get(sign, lead)
        yield from ((start, end, pitch, loudness) for pitch in pitches)


def drums(
    patterns: Sequence[str], fill: str, passage: Passage, *, has_crash: bool, is_light: bool, rng: np.random.Generator
) -> Iterator[Tone]:
    """The first pattern, with the second one's bass drum every fourth bar, and a fill (or "") in the last bar.

    A light one has cymbals, shakers and bass drum only, until its fill.
    """
    meter = passage.meter
    for bar in range(passage.bars):
        strokes = _bar_of(patterns[0], bar, meter, is_light=is_light)
        if fill and bar == passage.bars - 1:
            strokes = _filled(strokes, _bar_of(fill, 0, meter, is_light=False))
        elif bar % 4 == 3:
            strokes = _with_kick(strokes, _bar_of(patterns[1], bar, meter, is_light=is_light))
        for start, end, pitch, loudness in strokes:
            if loudness != _LOUDNESS["?"] or rng.random() < 0.5:
                yield bar * meter.bar_ticks + start, bar * meter.bar_ticks + end, pitch, loudness
    if has_crash:
        yield 0, meter.bar_ticks, DRUM_PITCHES["CC"], _SOFT_DRUMS["CC"]


@lru_cache(maxsize=1 << 10)
def _bar_of(pattern: str, bar: int, meter: Meter, *, is_light: bool) -> tuple[Tone, ...]:
    """The strokes of one bar of a pattern whose lines may be several bars long."""
    words = pattern.split()
    return tuple(
        (start, end, DRUM_PITCHES[drum], _LOUDNESS[sign] * _SOFT_DRUMS.get(drum, 1.0))
        for drum, line in zip(words[::2], words[1::2], strict=True)
        if not is_light or drum in _TIMEKEEPERS or drum == "BD"
        for start, end, sign in hits(_one_bar(line, bar, meter.steps), meter.step_ticks)
    )


def _one_bar(line: str, bar: int, steps: int) -> str:
    first = bar * steps % len(line)
    return line[first : first + steps]


def _filled(usual: Sequence[Tone], fill: Sequence[Tone]) -> tuple[Tone, ...]:
    """The usual bar until the fill's first stroke; the fill brings its own bass drum."""
    begin = min(stroke[0] for stroke in fill if stroke[2] != _KICK)
    return (*(stroke for stroke in usual if stroke[0] < begin and stroke[2] != _KICK), *fill)


def _with_kick(usual: Sequence[Tone], other: Sequence[Tone]) -> tuple[Tone, ...]:
    kicks = (stroke for stroke in other if stroke[2] == _KICK)
    return (*(stroke for stroke in usual if stroke[2] != _KICK), *kicks)
