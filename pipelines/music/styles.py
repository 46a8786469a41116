"""What makes a style: its tempi, harmony, rhythms and players.

Rhythms are written as text, one sign a step: sixteen steps in 4/4, twelve in 3/4 and in 6/8 (sixteenths, all of them).
"-" holds the note before, "." is silence. The other signs are, by what a player plays:

    drums    after a drum's two letters: "X" accent, "x" normal, "o" ghost, "?" a ghost now and then
    bass     "R" root, "5" fifth, "8" octave, "3" third, "w" a step of a walk, "a" the approach to the next root
    chords   "X" accent, "x" chord, "o" soft, "d" and "u" strums, "b" its lowest tone, "t" the others, "0".."5" one tone
    melody   "x" a note

A pattern of several bars is as many times longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DRUM_PITCHES = {  # General MIDI's drum map
    **{"BD": 36, "RS": 37, "SD": 38, "CP": 39, "BS": 40, "FT": 41, "HH": 42, "PH": 44, "LT": 45, "OH": 46, "MT": 47},
    **{"CC": 49, "HT": 50, "RC": 51, "RB": 53, "TB": 54, "CB": 56, "HB": 60, "LB": 61, "MC": 62, "HC": 63, "LC": 64},
    **{"TH": 65, "TL": 66, "CA": 69, "MA": 70, "GS": 73, "CL": 75, "HW": 76, "LW": 77, "TR": 81, "SH": 82},
}


FILLS = {
    "4/4": (
        "SD ........x.xxx... HT ..........x.....  LT ............x.x.  BD X.......x...x...",
        "SD ............XxXx BD X.......x.......",
        "SD ........xx...... HT ..........xx....  MT ............xx..  FT ..............xx BD X...........x...",
        "SD ....X...X.x.x.x. FT ...........x.x.x BD X.......x.......",
        "HT ........x.x..... MT ............x...  FT ..............x. BD X.......x.......",
    ),
    "3/4": (
        "SD ........x.x. BD x...........",
        "HT ........x... FT ..........x. BD x...........",
    ),
    "6/8": (
        "SD ......x.x.x. BD X...........",
        "HT ......x..... MT ........x... FT ..........x. BD X...........",
    ),
}


@dataclass(frozen=True)
class Player:
    """One who plays along: what, on which programs (one is drawn a piece), in which register, where on the stage."""

    name: str
    """Of the part, and of the patterns it takes from the groove; without patterns there it stays silent."""
    plays: str
    """drums, bass, chords, power (chords without thirds), melody, double (the melody, lower) or answer."""
    programs: tuple[int, ...]
    low_pitch: int = 0
    high_pitch: int = 127
    pan: float = 0.0
    gain_db: float = 0.0
    voices: int = 3
    share: float = 1.0
    """The share of pieces that have this player."""
    sections: str = "ivcbo"
    """The initials of the sections in which it plays: intro, verse, chorus, bridge, outro."""
    held: float = 0.95
    """How much of a note's written length sounds."""


@dataclass(frozen=True)
class Harmony:
    """Where chords come from: loops that the style is known for, or the grammar of functions."""

    major: tuple[str, ...]
    """Roman numerals, a word a bar, "," between two in one bar; a loop repeats until its section is full."""
    minor: tuple[str, ...]
    grammar_share: float = 0.0
    """Of the sections whose chords are new, the share that follows the grammar."""
    sevenths_share: float = 0.0
    secondary_share: float = 0.0
    half_cadence_share: float = 0.5
    """The share of verses and bridges that end on the dominant."""
    bars_per_chord: int = 1


@dataclass(frozen=True)
class Groove:
    """A meter, its tempi, and the rhythms of every player, of which one is drawn for each section."""

    meter: str
    tempos_bpm: tuple[int, int]
    patterns: Mapping[str, tuple[str, ...]]
    swing: float = 0.5
    """The share of a pair of notes that the first one takes: 0.5 is even, 0.67 is triplets."""
    swung_pairs_per_beat: int = 1
    """1 swings eighths, 2 swings sixteenths."""


@dataclass(frozen=True)
class Style:
    """A style, as compose.py needs it."""

    name: str
    minor_share: float
    scale: str
    """Of the melody: diatonic, pentatonic or blues."""
    harmony: Harmony
    grooves: tuple[Groove, ...]
    players: tuple[Player, ...]
    phrase_bars: int = 8
    jitter_ms: float = 4.0
    """Standard deviation of a note's start from the grid; never more than three of them."""
    dynamics: float = 0.5
    """How much softer than a chorus an intro is: 0 not at all, 1 half as loud a velocity."""
    leaps: float = 0.2
    """The share of a melody's intervals that are wider than a step."""
    fills: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FILLS)


EVEN = (
    *("x-x-x---x-x-x---", "x---x-x-x-------", "x-----x-x---x---", "x---x---x-x-x-x-"),
    *("..x-x-x-x-------", "x---x-x-x---x---", "x---x---x-------", "x-x-x-x-x---x---"),
)
SYNCOPATED = (
    *("x--x--x---x-x---", "x-x--x----x-x-x-", "..x-x--x--x-----", "x-----x---x---x-"),
    *("x--x----x--x----", "....x--x--x-x---", "x-x-..x-x-..x-x-", "x---x--x--x-----"),
)
LONG = ("x-------x-------", "x---------------", "x-----------x---", "....x-----------", "x-------x---x---")
SWUNG = (
    *("x-x-x---..x-x---", "..x-x-x-x-x-x---", "x---..x-x-x-x-x-", "....x-x-x-x-x---"),
    *("x-x-x-x-x-------", "x-----x-..x-x-x-", "x-x---x-x---....", "..x-----x-x-x---"),
)
WALTZ = ("x---x---x---", "x-------x---", "x---x-x-x---", "x-----x-x---", "x-x-x-x-x---", "x-----------")
JIG = ("x-x-x-x-x-x-", "x---x-x---x-", "x---x-x-----", "x-x-x-x-----", "x-x-x-x---x-", "x-----x-x-x-")
CADENCES = {
    "4/4": ("x---x-----------", "x-----------....", "x-x-x-------....", "x-------x-------", "x-x-x---x-------"),
    "3/4": ("x---x-------", "x-----------", "x-x-x-------"),
    "6/8": ("x-x-x-------", "x---x-------", "x-----------"),
}
