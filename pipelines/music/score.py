"""A piece of music as exact notes and annotations, and as a MIDI file that plays them.

All times are seconds from the start of the piece. Beats, chords and sections lie on the ideal grid of one tempo; notes
deviate from it by the few milliseconds, and the swing, with which they are played.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in PITCH_CLASSES)
INSTRUMENT_CLASSES = (  # Slakh's words (`inst_class`) for the 16 groups of 8 General MIDI programs
    *("Piano", "Chromatic Percussion", "Organ", "Guitar", "Bass", "Strings", "Strings (continued)", "Brass"),
    *("Reed", "Pipe", "Synth Lead", "Synth Pad", "Synth Effects", "Ethnic", "Percussive", "Sound Effects"),
)
DRUMS = "Drums"

_TICKS_PER_QUARTER = 960  # at 120 quarters a minute a tick is 0.52 ms, finer than anybody plays
_DRUM_CHANNEL = 9
_MELODIC_CHANNELS = (*range(9), *range(10, 16))
_LEVEL_AT_0_DB = 100  # MIDI's volume controller (7) is an amplitude of (value / 127)^2, and 127 is 4.2 dB more


@dataclass(frozen=True)
class Note:
    """One key held down: MIDI pitch 0..127, velocity 1..127."""

    start_seconds: float
    seconds: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What one player plays: a General MIDI program (a drum kit's number for drums), notes by time, place and level.

    `pan` is -1 (left) to 1 (right); `gain_db` is relative to the preset's own level. No two notes of one pitch overlap.
    """

    name: str
    program: int
    is_drum: bool
    instrument_class: str
    notes: tuple[Note, ...]
    pan: float
    gain_db: float


@dataclass(frozen=True)
class Mark:
    """A stretch of the piece and what it is: a Harte chord label ("C:maj", "A:min7", "N") or a section's name."""

    start_seconds: float
    end_seconds: float
    value: str


@dataclass(frozen=True)
class Score:
    """A composed piece. Chords and sections tile it; keys are written with sharps ("C major", "F# minor").

    A beat is what one taps: a quarter in 4/4 and 3/4, a dotted quarter (2 a bar) in 6/8; `tempo_bpm` counts these.
    """

    style: str
    key: str
    tempo_bpm: float
    beats_per_bar: int
    seconds: float
    parts: tuple[Part, ...]
    beats: tuple[float, ...]
    downbeats: tuple[float, ...]
    chords: tuple[Mark, ...]
    sections: tuple[Mark, ...]
    meter: str = "4/4"


def instrument_class(program: int) -> str:
    """Slakh's word for the group of a melodic General MIDI program (0..127)."""
    return INSTRUMENT_CLASSES[program // 8]


def midi_bytes(parts: Sequence[Part], *, tempo_bpm: float, meter: str, key: str) -> bytes:
    """A standard MIDI file, type 1: a track of tempo, meter and key, then one track a part, drums on channel 10.

    Notes lie within half a tick (1/1920 of a quarter) of their seconds. Pan and gain (at most 4.1 dB) are controllers.
    Raises ValueError for more than 15 parts that are not drums: MIDI has no more channels.
    """
    beats, unit = (int(number) for number in meter.split("/"))
    quarters_per_beat = 1.5 if unit == 8 else 1.0
    quarter_us = round(60e6 / (tempo_bpm * quarters_per_beat))
    tracks = [_track(_conductor(quarter_us, beats, unit, key))]
    for part, channel in zip(parts, _channels(parts), strict=True):
        tracks.append(_track(_part_events(part, channel, quarter_us / 1e6 / _TICKS_PER_QUARTER)))
    return struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), _TICKS_PER_QUARTER) + b"".join(tracks)


def _channels(parts: Sequence[Part]) -> list[int]:
    free = iter(_MELODIC_CHANNELS)
    melodic = sum(not part.is_drum for part in parts)
    if melodic > len(_MELODIC_CHANNELS):
        raise ValueError(f"{melodic} parts are not drums; a MIDI file has channels for {len(_MELODIC_CHANNELS)}")
    return [_DRUM_CHANNEL if part.is_drum else next(free) for part in parts]


def _conductor(quarter_us: int, beats: int, unit: int, key: str) -> Iterator[tuple[int, bytes]]:
    clicks_per_beat = 36 if unit == 8 else 24
    yield 0, b"\xff\x51\x03" + quarter_us.to_bytes(3, "big")
    yield 0, b"\xff\x58\x04" + bytes([beats, unit.bit_length() - 1, clicks_per_beat, 8])
    yield 0, b"\xff\x59\x02" + _key_signature(key)


def _key_signature(key: str) -> bytes:
    """Sharps (flats below zero) and whether the key is minor, as MIDI wants them."""
    tonic, mode = key.split()
    is_minor = mode == "minor"
    fifths = (PITCH_CLASSES.index(tonic) + 3 * is_minor) * 7 % 12
    return struct.pack("bB", fifths if fifths <= 6 else fifths - 12, is_minor)


def _part_events(part: Part, channel: int, tick_seconds: float) -> Iterator[tuple[int, bytes]]:
    """Events by tick; at one tick notes end before others begin, so that a repeated pitch sounds again."""
    name = part.name.encode()
    level = min(127, round(_LEVEL_AT_0_DB * 10 ** (part.gain_db / 40)))
    yield 0, b"\xff\x03" + _variable_length(len(name)) + name
    yield 0, bytes([0xC0 | channel, part.program])
    yield 0, bytes([0xB0 | channel, 7, level])
    yield 0, bytes([0xB0 | channel, 10, min(127, 64 + round(64 * part.pan))])
    events = []
    for note in part.notes:
        start = round(note.start_seconds / tick_seconds)
        end = max(start + 1, round((note.start_seconds + note.seconds) / tick_seconds))
        events += [(start, 1, note.pitch, note.velocity), (end, 0, note.pitch, 0)]
    for tick, is_on, pitch, velocity in sorted(events):
        yield tick, bytes([(0x90 if is_on else 0x80) | channel, pitch, velocity])


def _track(events: Iterator[tuple[int, bytes]]) -> bytes:
    body, now = bytearray(), 0
    for tick, message in events:
        body += _variable_length(tick - now) + message
        now = tick
    body += b"\x00\xff\x2f\x00"
    return struct.pack(">4sI", b"MTrk", len(body)) + body


def _variable_length(number: int) -> bytes:
    """MIDI's numbers: seven bits a byte, the last byte alone below 128."""
    digits = [number & 127]
    while number := number >> 7:
        digits.append(128 | number & 127)
    return bytes(reversed(digits))
