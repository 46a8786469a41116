"""MIDI as it is read: genuine files, meters and tempos worked out by hand, and whatever else bytes may be."""

import math
import random
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.music.score import PITCH_CLASSES
from pipelines.published.midi import MOST_BYTES, Midi, MidiNote, derived_chords, program_name, read_midi

GENUINE = Path(__file__).parent / "data" / "slakh" / "Track00001"
SMALL = GENUINE / "MIDI" / "S04.mid"
TEMPO_120, NOTE, END = b"\x00\xff\x51\x03\x07\xa1\x20", b"\x00\x90\x3c\x40", b"\x00\xff\x2f\x00"


def midi(*tracks: bytes, ticks: int = 480, form: int = 1, end: bytes = END) -> bytes:
    """A MIDI file of the given events; without a tempo, a quarter note lasts half a second."""
    chunks = b"".join(struct.pack(">4sI", b"MTrk", len(track + end)) + track + end for track in tracks)
    return struct.pack(">4sIHHh", b"MThd", 6, form, len(tracks), ticks) + chunks


def meter(delta: int, beats: int, unit_power: int) -> bytes:
    return variable(delta) + b"\xff\x58\x04" + bytes([beats, unit_power, 24, 8])


def variable(number: int) -> bytes:
    return bytes([128 | number >> 14 & 127, 128 | number >> 7 & 127, number & 127])


def held(ticks: int) -> bytes:
    return NOTE + variable(ticks) + b"\x3c\x00"


def music_or_reason(source: bytes) -> Midi | str:
    try:
        return read_midi(source)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("path", sorted(GENUINE.rglob("*.mid")), ids=lambda path: path.name)
def test_a_genuine_file_has_the_notes_and_beats_that_pretty_midi_finds(path: Path):
    found, peer = read_midi(path.read_bytes()), pretty_midi.PrettyMIDI(str(path))
    notes = [(note.start, note.end, note.pitch, note.velocity) for part in peer.instruments for note in part.notes]
    assert sorted((n.start_seconds, n.end_seconds, n.pitch, n.velocity) for n in found.notes) == sorted(notes)
    assert {(n.program, n.is_drum) for n in found.notes} == {
        (int(part.program), part.is_drum) for part in peer.instruments
    }
    beats = [seconds for seconds, _ in found.beats]
    assert beats == pytest.approx(peer.get_beats()[: len(beats)], abs=1e-9)
    assert 0 <= max(note.end_seconds for note in found.notes) - beats[-1] < 60.001 / found.tempos[0][1]
    downbeats = [seconds for seconds, number in found.beats if number == 1]
    assert downbeats == pytest.approx(peer.get_downbeats()[: len(downbeats)], abs=1e-9)


def test_notes_come_by_start_then_pitch():
    notes = read_midi((GENUINE / "all_src.mid").read_bytes()).notes
    assert [(n.start_seconds, n.pitch) for n in notes] == sorted((n.start_seconds, n.pitch) for n in notes)


def test_a_change_of_meter_starts_a_new_bar_and_a_compound_meter_is_felt_in_threes():
    signs = meter(0, 3, 2) + meter(4 * 480, 6, 3)  # 3/4, broken off after four quarters, then 6/8
    found = read_midi(midi(signs, held(7 * 480)))
    assert found.beats == ((0.0, 1), (0.5, 2), (1.0, 3), (1.5, 1), (2.0, 1), (2.75, 2))


def test_beats_and_notes_follow_the_tempo():
    tempos = TEMPO_120 + variable(480) + b"\xff\x51\x03\x0f\x42\x40"  # a quarter of 0.5 s, then quarters of 1 s
    found = read_midi(midi(tempos, held(3 * 480)))
    assert found.beats == ((0.0, 1), (0.5, 2), (1.5, 3))
    assert found.tempos == ((0.0, 120.0), (0.5, 60.0))
    assert found.notes == (MidiNote(0.0, 2.5, 60, 64, 0, False),)


def test_without_a_meter_bars_have_four_quarters():
    assert [number for _, number in read_midi(midi(held(5 * 480))).beats] == [1, 2, 3, 4, 1]


def test_a_tempo_on_a_later_track_is_passed_over_without_a_warning():
    late = midi(TEMPO_120, b"\x00\xff\x51\x03\x0f\x42\x40" + held(480))
    assert read_midi(late).notes[0].end_seconds == 0.5


def test_channel_10_is_a_drum_kit_and_a_program_holds_from_where_it_is_chosen():
    track = b"\x00\xc0\x21" + held(480) + b"\x00\xc0\x38" + held(480) + b"\x00\x99\x24\x7f\x60\x99\x24\x00"
    notes = read_midi(midi(track)).notes
    assert [(note.program, note.is_drum, note.pitch) for note in notes] == [
        (33, False, 60),
        (56, False, 60),
        (0, True, 36),
    ]


@pytest.mark.parametrize(
    "source, reason",
    [
        (b"", "truncated"),
        (b"RIFF" + bytes(40), "no MIDI"),
        (SMALL.read_bytes()[:-3], "truncated"),
        (midi(held(480), form=2), "type 2"),
        (midi(held(480), ticks=0), "0 ticks a beat"),
        (midi(held(480), ticks=-7_640), "clock is that of a film"),
        (midi(b"", b"", end=b""), "no events"),
        (midi(b"\x00\xff\x51\x03\x00\x00\x00" + held(480)), "tempo of 0"),
        (midi(meter(0, 0, 2) + held(480)), "numerator"),
        (midi(meter(0, 1, 12) + held(480 * 100)), "more than 100,000 beats"),
        (midi(b"\x00\xff\x59\x02\x51\x03" + held(480)), "key"),
        (midi(NOTE + b"\x84\xe2\xad\x00\x3c\x00"), "10,000,000 ticks"),
        (midi(b"\xff" * 2_000), "number without end"),
        (bytes(MOST_BYTES + 1), "1,048,577 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_value_error_that_says_why(source: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_midi(source)


def test_a_file_without_notes_is_silent_music():
    silent = read_midi(midi(TEMPO_120))
    assert (silent.notes, silent.beats) == ((), ())


@pytest.mark.parametrize(
    "bomb",
    [
        NOTE + b"\x01\x3c\x40" * 30_000 + b"\x01\x3c\x00",
        NOTE + b"\x00\x3c\x40" * 15_000 + b"\x00\x3c\x00" * 15_000,
        b"\x01\xff\x51\x03\x07\xa1\x20\x01\xff\x51\x03\x07\xa1\x21" * 8_000,
        (b"\xff" * 1_000 + b"\x00\x90\x3c\x40") * 90,
        b"\x01\xff\x58\x04\x04\x02\x18\x08" * 12_000,
    ],
    ids=["overlapping notes", "notes of no length", "tempos", "long numbers", "meters"],
)
def test_the_time_to_read_a_bomb_is_in_proportion_to_its_bytes(bomb: bytes):
    begin = time.process_time()
    found = music_or_reason(midi(bomb))
    if isinstance(found, Midi):
        list(derived_chords(found.notes, [seconds for seconds, _ in found.beats]))
    assert time.process_time() - begin < 100e-6 * len(bomb)


@settings(max_examples=300)
@given(source=st.binary(max_size=300))
def test_any_bytes_are_music_or_have_a_reason(source: bytes):
    assert music_or_reason(source)
    assert music_or_reason(midi(source, end=b""))


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 12))
def test_a_damaged_file_is_music_or_has_a_reason(seed: int, changes: int):
    rng, source = random.Random(seed), bytearray(SMALL.read_bytes())
    for _ in range(changes):
        place = rng.randrange(len(source))
        source[place : place + rng.choice((1, 1, 1, 0, 8))] = rng.randbytes(rng.choice((1, 1, 1, 4, 0)))
    found = music_or_reason(bytes(source))
    if isinstance(found, Midi):
        assert all(0 <= note.start_seconds < note.end_seconds < math.inf for note in found.notes)
        assert list(found.beats) == sorted(found.beats)
    else:
        assert found


def sounding(pitches: Sequence[int], start: float = 0.0, end: float = 1.0, *, is_drum: bool = False) -> list[MidiNote]:
    return [MidiNote(start, end, pitch, 64, 0, is_drum) for pitch in pitches]


@given(
    root=st.integers(36, 60),
    octaves=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    quality=st.sampled_from([("maj", (0, 4, 7)), ("min", (0, 3, 7)), ("dim", (0, 3, 6))]),
)
def test_a_triad_is_found_in_any_key_and_any_voicing(root: int, octaves: list[int], quality: tuple):
    name, steps = quality
    notes = sounding([root + step + 12 * octave for step, octave in zip(steps, octaves, strict=True)])
    assert list(derived_chords(notes, [0.0, 1.0])) == [(0.0, 1.0, f"{PITCH_CLASSES[root % 12]}:{name}")]


@pytest.mark.parametrize(
    "pitches, label",
    [
        ((48, 52, 55, 57), "C:maj6"),
        ((45, 48, 52, 55), "A:min7"),
        ((48, 52, 56), "C:aug"),
        ((47, 50, 53, 56), "B:dim7"),
        ((53, 57, 60, 64), "F:maj7"),
        ((55, 59, 62, 65), "G:7"),
        ((52, 55, 57, 60), None),
        ((48, 52), None),
        ((48, 50, 52, 55), None),
        ((), None),
    ],
)
def test_a_chord_is_derived_only_where_notes_spell_one_and_the_bass_decides_between_names(pitches, label):
    assert [name for *_, name in derived_chords(sounding(pitches), [0.0, 1.0])] == ([label] if label else [])


def test_equal_neighbours_are_one_chord_and_gaps_stay_gaps():
    c, g = (48, 52, 55), (43, 47, 50)
    notes = sounding(c, 0.0, 2.0) + sounding(g, 3.0, 4.0)
    found = list(derived_chords(notes, [0.0, 1.0, 2.0, 3.0, 4.0]))
    assert found == [(0.0, 2.0, "C:maj"), (3.0, 4.0, "G:maj")]


def test_passing_notes_and_drums_belong_to_no_chord():
    notes = sounding((48, 52, 55)) + sounding((54,), 0.0, 0.2) + sounding((36, 42), is_drum=True)
    assert list(derived_chords(notes, [0.0, 1.0])) == [(0.0, 1.0, "C:maj")]


def test_notes_of_one_pitch_that_overlap_count_once():
    notes = sounding((48, 52, 55)) + [MidiNote(0.0, 0.2, 54, 64, 0, False)] * 3
    assert list(derived_chords(notes, [0.0, 1.0])) == [(0.0, 1.0, "C:maj")]


def test_the_chords_of_a_genuine_track_are_those_of_its_key():
    found = read_midi((GENUINE / "all_src.mid").read_bytes())
    beats = [seconds for seconds, _ in found.beats]
    chords = list(derived_chords(found.notes, beats))
    share = sum(end - start for start, end, _ in chords) / beats[-1]
    diatonic = {"C:maj", "D:min", "E:min", "F:maj", "G:maj", "A:min", "G:7", "C:maj6", "F:maj7", "D:min7", "A:min7"}
    in_key = sum(end - start for start, end, label in chords if label in diatonic)
    assert share > 0.5
    assert in_key / sum(end - start for start, end, _ in chords) > 0.8  # by chance: 0.3


def test_programs_have_the_names_of_general_midi():
    assert [program_name(number) for number in (0, 33, 127)] == [
        "Acoustic Grand Piano",
        "Electric Bass (finger)",
        "Gunshot",
    ]
