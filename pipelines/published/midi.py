"""MIDI bytes -> notes, beats and tempos, and the chords that notes spell; the one place that knows pretty_midi.

Whatever the bytes are, reading them ends, with the music or with a ValueError that says why. About 2 µs a byte.
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter

import mido
import numpy as np
import pretty_midi

from pipelines.music.score import PITCH_CLASSES

MOST_BYTES = 1 << 20  # a song of an hour has a tenth; reading as many takes some seconds
MOST_BEATS = 100_000
MOST_TICKS = 10_000_000  # pretty_midi keeps 8 bytes for each

# A number of MIDI goes on while its bytes are 128 or more: as long as the file lets it, and in quadratic time.
_ENDLESS_NUMBER = re.compile(rb"[\x80-\xff]{1024}")

_QUALITIES = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "maj6": (0, 4, 7, 9),
    "hdim7": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
}
_SOUNDING_SHARE = 0.25  # of a beat: what sounds shorter is a passing note, and no part of its chord


@dataclass(frozen=True)
class MidiNote:
    """One key held down, in seconds of the file; `program` is General MIDI's, 0..127, that of a kit for drums."""

    start_seconds: float
    end_seconds: float
    pitch: int
    velocity: int
    program: int
    is_drum: bool


@dataclass(frozen=True)
class Midi:
    """What a MIDI file plays. Beats end with the last note; in compound meters they are three of its units."""

    notes: tuple[MidiNote, ...]
    """By start, then pitch."""
    beats: tuple[tuple[float, int], ...]
    """Seconds and number in the bar: 1 is the downbeat."""
    tempos: tuple[tuple[float, float], ...]
    """Seconds from which it holds, and quarter notes a minute."""


def read_midi(source: bytes) -> Midi:
    """Everything that a standard MIDI file of type 0 or 1 plays, drums being channel 10.

    Tempo and meter are those of its first track, as pretty_midi and, with it, Slakh's makers read them. Raises
    ValueError when it is damaged, empty, too large, or timed by other clocks than a beat.
    """
    if len(source) > MOST_BYTES:
        raise ValueError(f"it has {len(source):,} bytes, more than the {MOST_BYTES:,} that music needs")
    if _ENDLESS_NUMBER.search(source):
        raise ValueError("it holds a number without end")
    with _explained():
        file = mido.MidiFile(file=io.BytesIO(source))
    _check(file)
    with _explained(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tempo and meter on later tracks: see above
        music = pretty_midi.PrettyMIDI(mido_object=file)
    return _midi(music)


def program_name(program: int) -> str:
    """General MIDI's name of a program, 0..127."""
    return pretty_midi.program_to_instrument_name(program)


def derived_chords(notes: Iterable[MidiNote], beats: Sequence[float]) -> Iterator[tuple[float, float, str]]:
    """Start, end and Harte label of every stretch of beats in which the notes that are no drums spell one chord.

    A beat has a chord when the pitch classes that sound for a quarter of it or longer are exactly those of one chord;
    where they are those of several (C:maj6 is A:min7), the lowest note is its root. Other beats are left out.
    """
    labels = _labels(_sounding(notes, np.asarray(beats, dtype=np.float64)))
    spans = zip(pairwise(beats), labels, strict=True)
    for label, group in groupby(spans, key=lambda span: span[1]):
        stretch = [span for span, _ in group]
        if label:
            yield stretch[0][0], stretch[-1][1], label


@contextmanager
def _explained() -> Iterator[None]:
    """What mido and pretty_midi raise for damaged files, as ValueError."""
    try:
        yield
    except EOFError as error:
        raise ValueError("it is truncated") from error
    except (OSError, ValueError, LookupError, mido.KeySignatureError) as error:
        raise ValueError(f"it is no MIDI that can be read: {error}") from error


def _check(file: mido.MidiFile) -> None:
    """Drop empty tracks. Raises ValueError for what pretty_midi would stumble over, or take for something else."""
    if file.type == 2:
        raise ValueError("its tracks are separate pieces (type 2)")
    if file.ticks_per_beat <= 0:
        raise ValueError(f"it counts {file.ticks_per_beat} ticks a beat: its clock is that of a film, or none")
    file.tracks = [track for track in file.tracks if track]
    if not file.tracks:
        raise ValueError("it has no events")
    ticks = max(sum(event.time for event in track) for track in file.tracks)
    if ticks >= MOST_TICKS:
        raise ValueError(f"it lasts {min(ticks, 1 << 63):,} ticks, where a song has less than {MOST_TICKS:,}")
    if any(event.type == "set_tempo" and not event.tempo for event in file.tracks[0]):
        raise ValueError("it has a tempo of 0 µs a quarter note")


def _midi(music: pretty_midi.PrettyMIDI) -> Midi:
    played = [
        MidiNote(float(note.start), float(note.end), note.pitch, note.velocity, int(part.program), bool(part.is_drum))
        for part in music.instruments
        for note in part.notes
    ]
    notes = sorted(played, key=attrgetter("start_seconds", "pitch", "end_seconds"))
    end_seconds = max((note.end_seconds for note in notes), default=0.0)
    beats = [(float(music.tick_to_time(tick)), number) for tick, number in _beat_ticks(music, end_seconds)]
    starts, tempos = music.get_tempo_changes()
    return Midi(tuple(notes), tuple(beats), tuple(zip(starts.tolist(), tempos.tolist(), strict=True)))


def _beat_ticks(music: pretty_midi.PrettyMIDI, end_seconds: float) -> Iterator[tuple[int, int]]:
    """Counted in ticks: pretty_midi's own beats add up seconds, and drift towards changes that are near."""
    end_tick = music.time_to_tick(end_seconds)
    changes = [(music.time_to_tick(sign.time), sign.numerator, sign.denominator) for sign in _meters(music)]
    left = MOST_BEATS
    for (start, numerator, denominator), (end, *_) in pairwise([*changes, (end_tick, 0, 0)]):
        is_compound = numerator % 3 == 0 and numerator > 3
        step = 4 * music.resolution / denominator * (3 if is_compound else 1)
        count = max(0, -int((start - min(end, end_tick)) // step))
        if count > left:
            raise ValueError(f"it has more than {MOST_BEATS:,} beats")
        left -= count
        beats_per_bar = numerator // 3 if is_compound else numerator
        yield from ((round(start + beat * step), beat % beats_per_bar + 1) for beat in range(count))


def _meters(music: pretty_midi.PrettyMIDI) -> list[pretty_midi.TimeSignature]:
    """Where the meter changes; 4/4 before the first change, as MIDI defines."""
    changes = music.time_signature_changes
    return changes if changes and changes[0].time == 0 else [pretty_midi.TimeSignature(4, 4, 0.0), *changes]


def _sounding(notes: Iterable[MidiNote], beats: np.ndarray) -> np.ndarray:
    """Which of the 128 pitches sound long enough in which beat: (beats - 1, 128)."""
    sounding = np.zeros((max(0, len(beats) - 1), 128), dtype=bool)
    pitched = sorted((note for note in notes if not note.is_drum), key=attrgetter("pitch", "start_seconds"))
    for pitch, played in groupby(pitched, key=attrgetter("pitch")):
        times, sounded_seconds = _sounded(played)
        sounding[:, pitch] = np.diff(np.interp(beats, times, sounded_seconds)) >= _SOUNDING_SHARE * np.diff(beats)
    return sounding


def _sounded(played: Iterable[MidiNote]) -> tuple[list[float], list[float]]:
    """For how long notes of one pitch, by start, have sounded at their starts and ends; overlaps count once."""
    times, sounded_seconds = [0.0], [0.0]
    for note in played:
        start, end = max(note.start_seconds, times[-1]), note.end_seconds
        if end > start:
            times += [start, end]
            sounded_seconds += [sounded_seconds[-1], sounded_seconds[-1] + end - start]
    return times, sounded_seconds


def _labels(sounding: np.ndarray) -> Iterator[str]:
    for pitches in map(np.flatnonzero, sounding):
        names = _CHORDS.get(frozenset((pitches % 12).tolist()), ())
        named = [label for root, label in names if len(names) == 1 or root == pitches[0] % 12]
        yield named[0] if named else ""


def _chords() -> dict[frozenset[int], list[tuple[int, str]]]:
    """Every set of pitch classes that is a chord, with the root and the Harte label of each chord that it is."""
    chords: dict[frozenset[int], list[tuple[int, str]]] = {}
    for root, name in enumerate(PITCH_CLASSES):
        for quality, steps in _QUALITIES.items():
            chords.setdefault(frozenset((root + step) % 12 for step in steps), []).append((root, f"{name}:{quality}"))
    return chords


_CHORDS = _chords()
