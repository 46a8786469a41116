"""Chords, beats and keys as people write them: real files, each published form, and every way a line can be wrong."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.music import score
from pipelines.published.annotations import (
    KEYS,
    PITCH_CLASSES,
    chord_name,
    key_name,
    majmin,
    read_beats,
    read_chords,
    read_keys,
)
from shards.problem import DataProblem

GENUINE = Path(__file__).parent / "data" / "annotations"
SPELLINGS = {
    **{name: place for place, name in enumerate(PITCH_CLASSES)},
    **{"Db": 1, "Eb": 3, "Gb": 6, "Ab": 8, "Bb": 10, "Cb": 11, "Fb": 4, "E#": 5, "B#": 0, "Abb": 7, "F##": 7},
}


def test_a_genuine_billboard_lab_is_read_as_chords_that_fill_the_song():
    events = read_chords((GENUINE / "billboard_0003_majmin.lab").read_text())
    assert events[0] == (0.0, 0.073469387, "N")
    assert events[3] == (1.8015782305999999, 3.529687074200001, "A:min")
    assert {chord for _, _, chord in events} == {"N", "A:min", "C:maj", "F:maj", "D:maj", "G:maj", "A:maj"}
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(events))
    assert all(majmin(chord) == chord for _, _, chord in events)


@pytest.mark.parametrize(
    "label, name, reduced",
    [
        ("C", "C:maj", "C:maj"),
        ("Ab/3", "G#:maj", "G#:maj"),
        ("A:min7/b3", "A:min7", "A:min"),
        ("D:maj(9)", "D:maj", "D:maj"),
        ("C:7(#9)", "C:7", "C:maj"),
        ("E:min(*5,b6)/5", "E:min", "E:min"),
        ("G:maj(*3)", "G:5", "X"),
        ("Bb:(1,3,5)/3", "A#:maj", "A#:maj"),
        ("B:(1,b3,5,9)", "B:min", "B:min"),
        ("C:(3,#5)", "C:aug", "X"),
        ("C:(1,4,5)", "C:sus4", "X"),
        ("C:(1,3,4,5)", "C:maj", "C:maj"),
        ("C:(1,b3,3,5)", "X", "X"),
        ("F#:hdim7", "F#:hdim7", "X"),
        ("Eb:sus4(b7)", "D#:sus4", "X"),
        ("Eb:5", "D#:5", "X"),
        ("C:1/1", "C:1", "X"),
        ("Cb:minmaj7", "B:minmaj7", "B:min"),
        ("N", "N", "N"),
        ("X", "X", "X"),
    ],
)
def test_chord_labels_become_root_and_quality_and_reduce_by_their_triad(label: str, name: str, reduced: str):
    assert chord_name(label) == name
    assert majmin(name) == reduced
    assert chord_name(name) == name


@pytest.mark.parametrize(
    "label", ["", "H:maj", "C:major", "c:maj", "C:maj/H", "C:maj7,", "C:(", "&pause", "C maj", "N:"]
)
def test_what_is_no_chord_label_is_refused(label: str):
    with pytest.raises(ValueError, match="no chord in Harte's notation"):
        chord_name(label)


@given(
    lengths=st.lists(st.floats(0.01, 20), min_size=1, max_size=20),
    chords=st.lists(
        st.sampled_from([f"{root}:{quality}" for root in PITCH_CLASSES for quality in ("maj", "min7", "5")])
    ),
    between=st.sampled_from(["\t", " ", "  \t"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_chords_that_are_written_are_read_back(lengths: list[float], chords: list[str], between: str, end: str):
    events, start = [], 0.0
    for seconds, chord in zip(lengths, chords, strict=False):
        events.append((start, start + seconds, chord))
        start += seconds
    lines = (between.join((repr(start), repr(stop), chord)) + end for start, stop, chord in events)
    assert read_chords("".join(lines)) == tuple(events)


@pytest.mark.parametrize(
    "line, cause",
    [
        ("3 2 C:maj", "it ends at 2.0 s, before it begins at 3.0 s"),
        ("0.5 2 C:maj", "it begins at 0.5 s, before the one above it ends at 1.0 s"),
        ("-1 2 C:maj", "'-1' is no time in seconds"),
        ("nan 2 C:maj", "'nan' is no time"),
        ("1 inf C:maj", "'inf' is no time"),
        ("1,5 2 C:maj", "'1,5' is no time"),
        ("1 2", "it has 2 fields, not start, end and label"),
        ("1 2 Z:maj", "'Z:maj' is no chord"),
    ],
)
def test_a_wrong_line_of_a_lab_is_named_with_its_number_and_its_file(line: str, cause: str):
    with pytest.raises(DataProblem, match=r"^song\.lab, line 3: ") as caught:
        read_chords(f"0 1 N\n\n{line}\n", source="song.lab")
    assert cause in str(caught.value)


def test_overlaps_within_rounding_are_cut_and_stretches_without_length_left_out():
    text = "0.0 1.0000000004 C\n1.0 1.0 G\n1.0 2.0 F:min\n"
    assert read_chords(text) == ((0.0, 1.0000000004, "C:maj"), (1.0000000004, 2.0, "F:min"))


def test_beats_are_read_with_and_without_their_position():
    assert read_beats("13.249  2\n13.959  3\n14.965\t1\n") == (
        (13.249, 13.249, 2),
        (13.959, 13.959, 3),
        (14.965, 14.965, 1),
    )
    assert read_beats("0.113\n0.829\n\n") == ((0.113, 0.113, 0), (0.829, 0.829, 0))
    assert read_beats("\ufeff0.5 1\n") == ((0.5, 0.5, 1),)
    assert read_beats("") == ()


@pytest.mark.parametrize(
    "line, cause",
    [
        ("0.5 2", "the beat at 0.5 s does not come after the one at 1.0 s"),
        ("1.0 2", "does not come after"),
        ("2.0 two", "its position in the bar is 'two'"),
        ("2.0 -1", "its position in the bar is '-1'"),
        ("2.0 1.5", "its position in the bar is '1.5'"),
        ("2.0 1 x", "it has 3 fields"),
        ("beat 1", "'beat' is no time"),
    ],
)
def test_a_wrong_line_of_beats_is_named_with_its_number(line: str, cause: str):
    with pytest.raises(DataProblem, match=r"a\.beats, line 2: ") as caught:
        read_beats(f"1.0 1\n{line}\n", source="a.beats")
    assert cause in str(caught.value)


def test_isophonics_keys_are_read_with_silence_and_modes_that_are_no_key():
    text = "0.000\t0.421\tSilence\n0.421\t90.5\tKey\tE\n90.5\t100\tKey\tC#:minor\n100\t120\tKey\tD:mixolydian\n"
    assert [key for _, _, key in read_keys(text)] == ["N", "E major", "C# minor", "X"]
    with pytest.raises(DataProblem, match="line 1: 'Chord E' is neither"):
        read_keys("0 1 Chord E")


@pytest.mark.parametrize(
    "text, key",
    [
        ((GENUINE / "giantsteps_10089_key.txt").read_text(), "D major"),
        ("F# Major", "F# major"),
        ("Gb major", "F# major"),
        ("d# minor", "D# minor"),
        ("bb minor\n", "A# minor"),
        ("b minor", "B minor"),
        ("F#m", "F# minor"),
        ("A:min", "A minor"),
        ("E♭ maj", "D# major"),
        ("CM", "C major"),
        ("G", "G major"),
    ],
)
def test_usual_spellings_of_a_key_are_understood(text: str, key: str):
    assert key_name(text) == key


@given(tonic=st.sampled_from(sorted(SPELLINGS)), mode=st.sampled_from(["major", "minor"]))
def test_every_enharmonic_spelling_means_one_of_the_24_keys(tonic: str, mode: str):
    assert KEYS.index(key_name(f"{tonic} {mode}")) == SPELLINGS[tonic] + 12 * (mode == "minor")


@pytest.mark.parametrize(
    "text", ["", "-", "E / B / A minor", "G minor/major", "A-A# minor", "H major", "D dorian", "1d"]
)
def test_doubtful_keys_are_refused(text: str):
    with pytest.raises(ValueError, match="no major or minor key"):
        key_name(text)


def test_composed_and_annotated_keys_have_the_same_names_in_the_same_order():
    assert score.KEYS == KEYS
