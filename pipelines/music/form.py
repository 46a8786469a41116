"""The plan of a piece: its sections, and the chord that sounds on every beat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.music.harmony import SCALES, Chord, chord_of, phrase, with_secondary_dominants, with_sevenths
from pipelines.music.score import PITCH_CLASSES
from pipelines.music.styles import Groove, Style

BEAT_TICKS = 24  # of a plan: a sixteenth of 4/4 has 6 of them, one of 6/8 has 4, so that both are whole

_CYCLES = (
    ("verse", "chorus", "verse", "chorus", "bridge", "chorus"),
    ("verse", "verse", "chorus", "verse", "chorus", "bridge", "chorus"),
    ("verse", "chorus", "verse", "chorus", "bridge", "verse", "chorus"),
)
_MATERIAL = {"intro": "verse", "outro": "chorus"}  # whose chords and tune an intro and an outro use

Bar = tuple[str, ...]
"""The Roman numerals of one bar."""


@dataclass(frozen=True)
class Section:
    """Consecutive bars of one kind. `turn` counts the sections of its name that came before."""

    name: str
    first_bar: int
    bars: int
    turn: int

    @property
    def material(self) -> str:
        """The name of the sections whose chords and tune it shares."""
        return _MATERIAL.get(self.name, self.name)


@dataclass(frozen=True)
class Meter:
    """How a bar is divided: `steps` signs of a pattern, `beats` that one taps (2 in 6/8)."""

    name: str
    beats: int
    steps: int

    @property
    def bar_ticks(self) -> int:
        """Ticks of a bar."""
        return self.beats * BEAT_TICKS

    @property
    def step_ticks(self) -> int:
        """Ticks of one sign of a pattern."""
        return self.bar_ticks // self.steps


METERS = {meter.name: meter for meter in (Meter("4/4", 4, 16), Meter("3/4", 3, 12), Meter("6/8", 2, 12))}


@dataclass(frozen=True)
class Passage:
    """A section as its players see it; all ticks count from its start.

    `scale` has the pitch classes that a melody moves on. One chord a beat, and the one that follows the passage.
    """

    meter: Meter
    scale: tuple[int, ...]
    tonic: int
    bars: int
    chords_by_beat: tuple[Chord, ...]

    def chord_at(self, tick: float) -> Chord:
        """The chord at a tick; for all time after the end, the one that follows."""
        return self.chords_by_beat[min(int(tick) // BEAT_TICKS, len(self.chords_by_beat) - 1)]


@dataclass(frozen=True)
class Plan:
    """What all players agree on before they play: style and groove, key and tempo, sections and chords.

    A whole piece has a bar or more after its sections, for the last chord; an excerpt is cut in full flow.
    """

    style: Style
    groove: Groove
    key: str
    tempo_bpm: float
    seconds: float
    sections: tuple[Section, ...]
    chords_by_beat: tuple[Chord, ...]
    is_whole: bool

    @cached_property
    def meter(self) -> Meter:
        """The groove's meter."""
        return METERS[self.groove.meter]

    @cached_property
    def tonic(self) -> int:
        """The key's pitch class."""
        return PITCH_CLASSES.index(self.key.split()[0])

    @cached_property
    def scale(self) -> tuple[int, ...]:
        """The pitch classes of the style's scale in this key."""
        return tuple((self.tonic + step) % 12 for step in SCALES[self.style.scale, self.key.split()[1]])

    @property
    def beat_seconds(self) -> float:
        """From beat to beat."""
        return 60.0 / self.tempo_bpm

    @property
    def end_bar(self) -> int:
        """The bar after the last section."""
        return self.sections[-1].first_bar + self.sections[-1].bars

    def passage(self, section: Section) -> Passage:
        """A section as its players see it."""
        first = section.first_bar * self.meter.beats
        chords = self.chords_by_beat[first : first + section.bars * self.meter.beats + 1]
        return Passage(self.meter, self.scale, self.tonic, section.bars, chords)


def sections_of_whole(bars: int, phrase_bars: int, rng: np.random.Generator) -> tuple[Section, ...]:
    """Intro, verses, choruses, bridges and outro that fill `bars` exactly; at least `phrase_bars` + 6.

    Bars that make no further phrase repeat the end of the last chorus, or lengthen the outro.
    """
    intro = min(4, (bars - phrase_bars) // 3)
    units, left = divmod(bars - 2 * intro, phrase_bars)
    cycle = _CYCLES[rng.integers(len(_CYCLES))]
    names = [cycle[place % len(cycle)] for place in range(units - 1)] + ["chorus"]
    lengths = [phrase_bars] * (units - 1) + [phrase_bars + left // 4 * 4]
    return _laid_out(["intro", *names, "outro"], [intro, *lengths, intro + left % 4])


def sections_of_excerpt(bars: int, phrase_bars: int, rng: np.random.Generator) -> tuple[Section, ...]:
    """Sections from the middle of a piece that cover `bars`."""
    cycle = _CYCLES[0]
    first = int(rng.integers(2))
    count = -(-bars // phrase_bars)
    names = [cycle[(first + place) % len(cycle)] for place in range(count)]
    lengths = [min(phrase_bars, bars - place * phrase_bars) for place in range(count)]
    return _laid_out(names, lengths)


def _laid_out(names: Sequence[str], lengths: Sequence[int]) -> tuple[Section, ...]:
    firsts = np.cumsum([0, *lengths])
    turns = [list(names[:place]).count(name) for place, name in enumerate(names)]
    rows = zip(names, firsts[:-1].tolist(), lengths, turns, strict=True)
    return tuple(Section(*row) for row in rows)


def material_bar(bar: int, section: Section, phrase_bars: int) -> int:
    """Which bar of its phrase a section's bar is.

    An outro is the end of its phrase, so that the cadence leads to the last chord; what is longer repeats that end.
    """
    is_end = section.name == "outro" or bar >= phrase_bars
    return bar - (section.bars - phrase_bars) if is_end else bar


def harmonies(style: Style, mode: str, rng: np.random.Generator) -> dict[str, list[Bar]]:
    """The Roman numerals of each bar of a verse, a chorus and a bridge; of these the chorus never ends openly."""
    loops = style.harmony.major if mode == "major" else style.harmony.minor
    order = rng.permutation(len(loops))
    result = {}
    for place, name in enumerate(("verse", "chorus", "bridge")):
        is_open = name != "chorus" and rng.random() < style.harmony.half_cadence_share
        if rng.random() < style.harmony.grammar_share:
            result[name] = list(_period("half" if is_open else "authentic", style, mode, rng))
        else:
            result[name] = _looped(loops[order[place % len(loops)]], is_open, style, rng)
    return result


def _looped(loop: str, is_open: bool, style: Style, rng: np.random.Generator) -> list[Bar]:
    harmony = style.harmony
    numerals = iter(with_sevenths(loop.replace(",", " ").split(), harmony.sevenths_share, rng))
    words = [tuple(next(numerals) for _ in bar.split(",")) for bar in loop.split()]
    bars = [bar for bar in words for _ in range(harmony.bars_per_chord)]
    filled = [bars[place % len(bars)] for place in range(style.phrase_bars)]
    if is_open:
        filled[-1] = tuple(with_sevenths(["V"], harmony.sevenths_share, rng))
    return filled


def _period(cadence: str, style: Style, mode: str, rng: np.random.Generator) -> Iterator[Bar]:
    """A question of four bars and its answer, each a phrase of the grammar."""
    ends = [_weak(rng) for _ in range(style.phrase_bars // 4 - 1)] + [cadence]
    for end in ends:
        numerals = phrase(int(rng.integers(4, 6)), mode, end, rng)
        numerals = with_secondary_dominants(numerals, style.harmony.secondary_share, rng)
        numerals = with_sevenths(numerals, style.harmony.sevenths_share, rng)
        # Five chords in four bars: the cadence's way to its end is the faster one.
        yield from [(name,) for name in numerals[:2]]
        yield from [(numerals[2],), (numerals[3],)] if len(numerals) == 4 else [tuple(numerals[2:4]), (numerals[4],)]


def _weak(rng: np.random.Generator) -> str:
    return ("half", "half", "deceptive", "plagal")[rng.integers(4)]


def chords_by_beat(section: Section, phrases: Sequence[Bar], *, meter: Meter, tonic: int) -> Iterator[Chord]:
    """The chord on every beat of a section; two chords share a bar of 3/4 as two beats and one."""
    for bar in range(section.bars):
        numerals = phrases[material_bar(bar, section, len(phrases))]
        for beat in range(meter.beats):
            yield chord_of(numerals[beat * len(numerals) // meter.beats], tonic)
