"""Scores as MIDI files, read back by pretty_midi, which shares no code with our writer."""

import io
from itertools import pairwise

import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.music.score import DRUMS, KEYS, Note, Part, instrument_class, midi_bytes

# pretty_midi names keys with a mix of sharps and flats.
FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}


@st.composite
def notes(draw: st.DrawFn) -> tuple[Note, ...]:
    """Notes of a few pitches; those of one pitch follow each other, some at once."""
    result = []
    for pitch in draw(st.lists(st.integers(0, 127), min_size=1, max_size=4, unique=True)):
        now = 0.0
        for rest, seconds, velocity in draw(st.lists(st.tuples(RESTS, LENGTHS, st.integers(1, 127)), max_size=6)):
            result.append(Note(now + rest, seconds, pitch, velocity))
            now += rest + seconds
    return tuple(sorted(result, key=lambda note: (note.start_seconds, note.pitch)))


RESTS = st.just(0.0) | st.floats(0.001, 30)
LENGTHS = st.floats(0.01, 20)
PARTS = st.builds(
    Part,
    name=st.text("abc xyz", min_size=1, max_size=200),
    program=st.integers(0, 127),
    is_drum=st.booleans(),
    instrument_class=st.just("Piano"),
    notes=notes(),
    pan=st.floats(-1, 1),
    gain_db=st.floats(-40, 4),
)


def read(midi: bytes) -> pretty_midi.PrettyMIDI:
    return pretty_midi.PrettyMIDI(io.BytesIO(midi))


def piano(*played: Note) -> Part:
    return Part("piano", 0, False, "Piano", played, 0.0, 0.0)


@given(
    parts=st.lists(PARTS, min_size=1, max_size=8),
    tempo_bpm=st.floats(30, 250),
    meter=st.sampled_from(["4/4", "3/4", "6/8"]),
)
def test_a_midi_file_reads_back_as_the_same_notes_within_a_tick(parts: list[Part], tempo_bpm: float, meter: str):
    tick_seconds = 60 / tempo_bpm / (1.5 if meter == "6/8" else 1) / 960
    heard = read(midi_bytes(parts, tempo_bpm=tempo_bpm, meter=meter, key="C major")).instruments
    written = [part for part in parts if part.notes]
    assert [(i.name.strip(), i.program, i.is_drum) for i in heard] == [
        (part.name.strip(), part.program, part.is_drum) for part in written
    ]
    for instrument, part in zip(heard, written, strict=True):
        found = sorted(instrument.notes, key=lambda note: (note.start, note.pitch))
        wanted = sorted(part.notes, key=lambda note: (round(note.start_seconds / tick_seconds), note.pitch))
        assert [(note.pitch, note.velocity) for note in found] == [(note.pitch, note.velocity) for note in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one.start == pytest.approx(other.start_seconds, abs=tick_seconds)
            assert one.end == pytest.approx(other.start_seconds + other.seconds, abs=tick_seconds)


@pytest.mark.parametrize("key", KEYS)
def test_a_midi_file_states_the_key(key: str):
    (change,) = read(midi_bytes([piano()], tempo_bpm=120, meter="4/4", key=key)).key_signature_changes
    tonic, mode = pretty_midi.key_number_to_key_name(change.key_number).split()
    assert f"{FLATS.get(tonic, tonic)} {mode.lower()}" == key


@pytest.mark.parametrize(("meter", "beats_per_bar"), [("4/4", 4), ("3/4", 3), ("6/8", 2)])
def test_a_midi_file_has_the_beats_and_downbeats_of_its_tempo_and_meter(meter: str, beats_per_bar: int):
    song = read(midi_bytes([piano(Note(0.0, 20.0, 60, 90))], tempo_bpm=100, meter=meter, key="C major"))
    beats = song.get_beats()
    assert [after - before for before, after in pairwise(beats)] == pytest.approx([0.6] * (len(beats) - 1), abs=1e-4)
    assert song.get_downbeats() == pytest.approx(beats[::beats_per_bar])


def test_pan_and_gain_become_the_controllers_that_synthesizers_obey():
    part = Part("lead", 80, False, "Synth Lead", (Note(0, 1, 60, 90),), pan=-0.5, gain_db=-6.0)
    (instrument,) = read(midi_bytes([part], tempo_bpm=120, meter="4/4", key="C major")).instruments
    controls = {change.number: change.value for change in instrument.control_changes}
    assert controls == {10: 32, 7: 71}  # 40 dB times log10 of 71 / 100 is -6 dB


def test_more_melodic_parts_than_midi_has_channels_are_refused():
    parts = [piano()] * 15
    midi_bytes(parts, tempo_bpm=120, meter="4/4", key="C major")
    with pytest.raises(ValueError, match="16 parts"):
        midi_bytes([*parts, piano()], tempo_bpm=120, meter="4/4", key="C major")


def test_programs_are_grouped_in_slakhs_words():
    words = [instrument_class(program) for program in (0, 15, 16, 31, 33, 40, 48, 56, 66, 73, 80, 95)]
    assert words == [
        *("Piano", "Chromatic Percussion", "Organ", "Guitar", "Bass", "Strings", "Strings (continued)"),
        *("Brass", "Reed", "Pipe", "Synth Lead", "Synth Pad"),
    ]
    assert DRUMS == "Drums"
