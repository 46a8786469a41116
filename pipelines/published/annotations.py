"""Annotations in time as people write them: chords (.lab), beats and keys -> Events.

The forms of Isophonics, McGill Billboard and GTZAN-Rhythm: one line a stretch or instant, tabs or spaces between.
Chords become ROOT:QUALITY with sharps ("C#:min7"), "N" where none sounds, "X" where what sounds has no chord name.
"""

import math
import re
from collections.abc import Callable, Iterator

from pipelines.recording import Event
from shards.problem import DataProblem

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in PITCH_CLASSES)
NO_CHORD, UNKNOWN_CHORD = "N", "X"
NO_KEY, UNKNOWN_KEY = "N", "X"
ROUNDING_SECONDS = 1e-3
"""Ends and starts that differ by less are one: Billboard's times are sums of rounded numbers."""

# Shorthands of Harte et al. (2005) and of Billboard, and the intervals above the root that name each one's triad.
_TRIADS = {
    "maj": {"", "maj", "maj7", "7", "maj6", "6", "maj9", "9", "maj11", "11", "maj13", "13"},
    "min": {"min", "min7", "minmaj7", "min6", "min9", "min11", "min13"},
    "dim": {"dim", "dim7", "hdim7"},
    "aug": {"aug"},
    "sus": {"sus2", "sus4"},
    "none": {"1", "5"},
}
_TRIAD_OF = {quality: triad for triad, qualities in _TRIADS.items() for quality in qualities}
_SPELLED = {
    frozenset(degrees.split()): quality
    for degrees, quality in (
        *(("3 5", "maj"), ("b3 5", "min"), ("b3 b5", "dim"), ("3 #5", "aug")),
        *(("4 5", "sus4"), ("2 5", "sus2"), ("5", "5"), ("", "1")),
    )
}
_DEGREE = r"\*?[b#]*\d{1,2}"
_CHORD = re.compile(
    rf"(?P<root>[A-G][b#]*)(?::(?P<quality>[a-z0-9]*)(?:\((?P<degrees>{_DEGREE}(?:,{_DEGREE})*)?,?\))?)?"
    rf"(?:/(?P<bass>[b#]*\d{{1,2}}))?"
)
_KEY = re.compile(r"(?P<tonic>[A-Ga-g])(?P<accidentals>[b#♭♯]*)[ :_-]?(?P<mode>[A-Za-z]*)")
_MODES = {
    **dict.fromkeys(("", "major", "maj", "ionian", "M"), "major"),
    **dict.fromkeys(("minor", "min", "aeolian", "m"), "minor"),
}
_SHIFTS = {"b": -1, "♭": -1, "#": 1, "♯": 1}


def read_chords(text: str, *, source: str = "the annotation") -> tuple[Event, ...]:
    """Chords of a .lab: lines of start, end, label. Stretches of no length are left out.

    Raises DataProblem with `source` and the line's number where times or labels are not what they should be.
    """
    return tuple(_stretches(text, source, chord_name))


def read_keys(text: str, *, source: str = "the annotation") -> tuple[Event, ...]:
    """Keys of an Isophonics .lab: start, end, "Key", name, or start, end, "Silence".

    Values are of KEYS; "X" for modes that are neither major nor minor, "N" for silence. Raises as `read_chords`.
    """
    return tuple(_stretches(text, source, _key_of_lab))


def read_beats(text: str, *, source: str = "the annotation") -> tuple[Event, ...]:
    """Beats: lines of a time and, if known, the position in the bar, 1 on the downbeat; 0 where it is not written.

    Raises DataProblem with `source` and the line's number for times that do not rise and positions that are none.
    """
    events: list[Event] = []
    for line, fields in _lines(text):
        if len(fields) > 2:
            raise _bad(source, line, f"it has {len(fields)} fields, not a time and a position")
        seconds = _seconds(fields[0], source, line)
        if events and seconds <= events[-1][0]:
            raise _bad(source, line, f"the beat at {seconds} s does not come after the one at {events[-1][0]} s")
        position = fields[1] if len(fields) == 2 else "0"
        if not position.isdecimal():
            raise _bad(source, line, f"its position in the bar is {position!r}")
        events.append((seconds, seconds, int(position)))
    return tuple(events)


def chord_name(label: str) -> str:
    """A Harte or Billboard label as ROOT:QUALITY, without bass and added degrees; "N" or "X". Raises ValueError."""
    if label in {"N", "X"}:
        return label
    match = _CHORD.fullmatch(label)
    if not match or (match["quality"] or "") not in _TRIAD_OF:
        raise ValueError(f"{label!r} is no chord in Harte's notation")
    quality = _quality(match["quality"] or "", {*(match["degrees"] or "").split(",")} - {""})
    return f"{_pitch_class(match['root'])}:{quality}" if quality else UNKNOWN_CHORD


def majmin(chord: str) -> str:
    """What a chord of `chord_name` is to a probe of 25 classes: "C:maj", "C:min", "N", or "X" (not to be counted).

    Sevenths, sixths and further extensions go by their triad; diminished, augmented and suspended ones become "X".
    """
    root, _, quality = chord.partition(":")
    triad = _TRIAD_OF.get(quality, "none") if quality else chord
    if triad in {"maj", "min"}:
        return f"{root}:{triad}"
    return NO_CHORD if chord == NO_CHORD else UNKNOWN_CHORD


def key_name(text: str) -> str:
    """Any usual spelling of a key ("Gb minor", "F#m", "A:min", "E") as one of KEYS. Raises ValueError for others."""
    match = _KEY.fullmatch(text.strip())
    mode = _MODES.get(match["mode"], _MODES.get(match["mode"].lower())) if match else None
    if not match or mode is None:
        raise ValueError(f"{text.strip()[:60]!r} is no major or minor key")
    return f"{_pitch_class(match['tonic'].upper() + match['accidentals'])} {mode}"


def _pitch_class(name: str) -> str:
    shift = sum(_SHIFTS[accidental] for accidental in name[1:])
    return PITCH_CLASSES[(PITCH_CLASSES.index(name[0]) + shift) % 12]


def _quality(shorthand: str, degrees: set[str]) -> str:
    """The shorthand that names the triad, also where it is spelled in degrees or has lost its third; else empty."""
    if any(degree.startswith("*") and degree.endswith("3") for degree in degrees):
        return "5"
    if shorthand or not degrees:
        return shorthand or "maj"
    thirds = {degree for degree in degrees if degree.lstrip("b#") == "3"}
    steps = {"5"} if thirds else {"2", "4", "5"}  # beside a third, a second or fourth is an added tone
    return _SPELLED.get(frozenset(thirds | {degree for degree in degrees if degree.lstrip("b#") in steps}), "")


def _key_of_lab(label: str) -> str:
    kind, _, name = label.partition(" ")
    if kind == "Silence":
        return NO_KEY
    if kind != "Key" or not _KEY.fullmatch(name):
        raise ValueError(f'{label!r} is neither "Key" and a name nor "Silence"')
    try:
        return key_name(name)
    except ValueError:
        return UNKNOWN_KEY


def _stretches(text: str, source: str, value_of: Callable[[str], str]) -> Iterator[Event]:
    last_end = 0.0
    for line, fields in _lines(text):
        if len(fields) < 3:
            raise _bad(source, line, f"it has {len(fields)} fields, not start, end and label")
        start, end = (_seconds(field, source, line) for field in fields[:2])
        if end < start:
            raise _bad(source, line, f"it ends at {end} s, before it begins at {start} s")
        if start < last_end - ROUNDING_SECONDS:
            raise _bad(source, line, f"it begins at {start} s, before the one above it ends at {last_end} s")
        try:
            value = value_of(" ".join(fields[2:]))
        except ValueError as error:
            raise _bad(source, line, str(error)) from error
        if abs(start - last_end) <= ROUNDING_SECONDS:
            start = last_end
        if end > start:
            yield start, end, value
            last_end = end


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if fields := content.split():
            yield line, fields


def _seconds(field: str, source: str, line: int) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise _bad(source, line, f"{field[:40]!r} is no time in seconds from the start")
    return seconds


def _bad(source: str, line: int, cause: str) -> DataProblem:
    return DataProblem(
        f"{source}, line {line}: {cause}. Nothing of it is used, since the lines after it may be wrong too. Correct "
        "that line, or take the file away."
    )
