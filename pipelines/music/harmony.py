"""Chords: what they are called, which follow each other, and how a player voices them.

Chords are written as Roman numerals of a key: capitals are major, "b" lowers the degree, "V7/ii" is the dominant of ii.
Phrases follow tonic, predominant and dominant functions and end in a cadence (Aldwell & Schachter, Harmony and Voice
Leading); voices move to the nearest chord tones (Tymoczko, A Geometry of Music).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate

import numpy as np

from pipelines.music.score import PITCH_CLASSES

INTERVALS = {  # Harte shorthands: semitones above the root, the ones that colour the chord most last
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "5": (0, 7),
    "maj6": (0, 7, 4, 9),
    "min6": (0, 7, 3, 9),
    "7": (0, 7, 4, 10),
    "maj7": (0, 7, 4, 11),
    "min7": (0, 7, 3, 10),
    "dim7": (0, 6, 3, 9),
    "hdim7": (0, 6, 3, 10),
    "9": (0, 7, 4, 10, 2),
    "maj9": (0, 7, 4, 11, 2),
    "min9": (0, 7, 3, 10, 2),
}
SCALES = {
    ("diatonic", "major"): (0, 2, 4, 5, 7, 9, 11),
    ("diatonic", "minor"): (0, 2, 3, 5, 7, 8, 10),
    ("pentatonic", "major"): (0, 2, 4, 7, 9),
    ("pentatonic", "minor"): (0, 3, 5, 7, 10),
    ("blues", "major"): (0, 2, 3, 4, 7, 9),
    ("blues", "minor"): (0, 3, 5, 6, 7, 10),
}

_NUMERAL = re.compile(r"([b#]?)([ivIV]+)(o7|o|h7|maj7|maj9|sus2|sus4|5|6|7|9|)(?:/(.+))?")
_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
_SUFFIXES = {"o": "dim", "o7": "dim7", "h7": "hdim7"}
_FUNCTIONS = {  # the chords of each function and how often they stand for it
    "major": {"T": {"I": 6, "vi": 3, "iii": 1}, "P": {"IV": 4, "ii": 4}, "D": {"V": 1}},
    "minor": {"T": {"i": 6, "bVI": 2, "bIII": 2}, "P": {"iv": 6, "iio": 1}, "D": {"V": 7, "bVII": 2}},
}
_NEXT = {"T": {"T": 2, "P": 5, "D": 2}, "P": {"P": 1, "D": 6, "T": 1}, "D": {"T": 7, "P": 1}}
_CADENCES = {
    "half": {"major": ("ii", "V"), "minor": ("iv", "V")},
    "authentic": {"major": ("V", "I"), "minor": ("V", "i")},
    "plagal": {"major": ("IV", "I"), "minor": ("iv", "i")},
    "deceptive": {"major": ("V", "vi"), "minor": ("V", "bVI")},
}
_TONICISED = {"ii", "iii", "IV", "V", "vi", "bIII", "iv", "bVI"}  # chords that may have a dominant of their own
_SEVENTHS = {
    **{"I": "Imaj7", "ii": "ii7", "iii": "iii7", "IV": "IVmaj7", "V": "V7", "vi": "vi7"},
    **{"i": "i7", "iio": "iih7", "bIII": "bIIImaj7", "iv": "iv7", "bVI": "bVImaj7", "bVII": "bVII7"},
}


@dataclass(frozen=True)
class Chord:
    """A root (pitch class, C is 0) and a Harte shorthand."""

    root: int
    quality: str

    @cached_property
    def label(self) -> str:
        """The chord in Harte's syntax (Harte et al. 2005): "F#:min7"."""
        return f"{PITCH_CLASSES[self.root]}:{self.quality}"

    @cached_property
    def pitch_classes(self) -> tuple[int, ...]:
        """Root first, then by how well the chord does without the tone."""
        return tuple((self.root + interval) % 12 for interval in INTERVALS[self.quality])

    @cached_property
    def third(self) -> int:
        """The pitch class of the third, or of what stands in its place."""
        return (self.root + next((i for i in INTERVALS[self.quality] if i in (3, 4, 5, 2)), 7)) % 12

    @cached_property
    def fifth(self) -> int:
        """The pitch class of the fifth, perfect or not."""
        return (self.root + next(i for i in INTERVALS[self.quality] if i in (6, 7, 8))) % 12


@cache
def chord_of(numeral: str, tonic: int) -> Chord:
    """The chord of a Roman numeral in the key of a tonic (pitch class). Raises ValueError for what is no numeral."""
    match = _NUMERAL.fullmatch(numeral)
    if match is None or match[2].lower() not in _DEGREES:
        raise ValueError(f"{numeral!r} is no Roman numeral that names a chord")
    if match[4]:
        tonic = chord_of(match[4], tonic).root
    root = (tonic + {"b": -1, "#": 1, "": 0}[match[1]] + _DEGREES[match[2].lower()]) % 12
    return Chord(root, _quality(match[3], is_minor=match[2].islower()))


def _quality(suffix: str, *, is_minor: bool) -> str:
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix in ("6", "7", "9", ""):
        majors = {"6": "maj6", "7": "7", "9": "9", "": "maj"}
        return f"min{suffix}" if is_minor else majors[suffix]
    return suffix


def chosen(weights: dict[str, int], rng: np.random.Generator) -> str:
    """One of the keys, each as often as its weight says."""
    ends = list(accumulate(weights.values()))
    return list(weights)[bisect_right(ends, rng.random() * ends[-1])]


def phrase(length: int, mode: str, cadence: str, rng: np.random.Generator) -> list[str]:
    """`length` Roman numerals, two at least, from the tonic through the functions to a cadence.

    `cadence` is half, authentic, plagal or deceptive; what stands before the dominant of one is a predominant.
    """
    end = _CADENCES[cadence][mode]
    numerals = ["I" if mode == "major" else "i"][: length - 2]
    function = "T"
    for left in range(length - 2 - len(numerals), 0, -1):
        function = "P" if left == 1 and end[0] == "V" else chosen(_NEXT[function], rng)
        numbers = _FUNCTIONS[mode][function]
        neighbours = {numerals[-1], end[0] if left == 1 else ""}
        fresh = {name: weight for name, weight in numbers.items() if name not in neighbours}
        numerals.append(chosen(fresh or numbers, rng))
    return [*numerals, *end]


def with_secondary_dominants(numerals: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Some chords replaced by the dominant seventh of the chord that follows them; never the first or the last two."""
    result = list(numerals)
    for place in range(1, len(result) - 2):
        is_led = "/" in result[place - 1]  # the chord that a dominant leads to stays what it is
        if not is_led and result[place + 1] in _TONICISED and rng.random() < share:
            result[place] = f"V7/{result[place + 1]}"
    return result


def with_sevenths(numerals: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    """Diatonic triads made seventh chords, each kind of them with the chance `share`."""
    widened = {name for name in dict.fromkeys(numerals) if rng.random() < share}
    return [_SEVENTHS.get(name, name) if name in widened else name for name in numerals]


@cache
def ladder(scale: tuple[int, ...], chord: Chord, low: int, high: int) -> tuple[int, ...]:
    """The pitches, low to high, on which a melody moves over a chord.

    Those of the scale, but a chord tone that the scale lacks takes the place of its neighbours: V in minor raises the
    leading tone, V7/ii its own.
    """
    tones = set(chord.pitch_classes)
    foreign = tones - set(scale)
    kept = {pc for pc in scale if pc in tones or not {(pc + 1) % 12, (pc - 1) % 12} & foreign}
    return tuple(pitch for pitch in range(low, high + 1) if pitch % 12 in kept | tones)


@cache
def chord_tones(chord: Chord, low: int, high: int) -> tuple[int, ...]:
    """The pitches of a chord, both ends included."""
    return tuple(pitch for pitch in range(low, high + 1) if pitch % 12 in chord.pitch_classes)


@lru_cache(maxsize=1 << 14)
def voicing(chord: Chord, previous: tuple[int, ...], voices: int, low: int, high: int) -> tuple[int, ...]:
    """`voices` pitches of a chord, low to high, that lie nearest to the previous ones, and near the register's middle.

    The register must span two octaves. Power chords keep their root below.
    """
    middle = (low + high) / 2

    def cost(candidate: tuple[int, ...]) -> float:
        moved = sum(abs(a - b) for a, b in zip(candidate, previous, strict=False))
        return moved + 0.4 * abs(sum(candidate) - voices * middle)

    return min(_voicings(chord, voices, low, high), key=cost)


@cache
def _voicings(chord: Chord, voices: int, low: int, high: int) -> tuple[tuple[int, ...], ...]:
    """Every close position of a chord in a register."""
    # The bass has the root, so that a chord of more tones than voices does without it, then without the fifth.
    kept = chord.pitch_classes[max(0, len(chord.pitch_classes) - voices) :]
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 in kept]
    stacks = (tuple(pitches[place : place + voices]) for place in range(len(pitches) - voices + 1))
    return tuple(stack for stack in stacks if chord.quality != "5" or stack[0] % 12 == chord.root)
