"""What holds for every composed score, what tells styles apart, and whether a listener that is not ours agrees."""

import re
import subprocess
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.music import styles_acoustic, styles_electric, styles_synthetic
from pipelines.music.band import register_of
from pipelines.music.compose import STYLES, compose
from pipelines.music.form import METERS
from pipelines.music.harmony import INTERVALS, Chord, chord_of, phrase, voicing, with_secondary_dominants
from pipelines.music.instruments import PRESETS
from pipelines.music.score import DRUMS, KEYS, PITCH_CLASSES, Mark, Part, Score, instrument_class, midi_bytes
from pipelines.music.styles import DRUM_PITCHES, Style
from pipelines.music.synthesis import SOUNDFONT
from shards.problem import UsageProblem

RANGES = {preset.program: (preset.low_pitch, preset.high_pitch) for preset in PRESETS if preset.bank == 0}
TABLES = [
    table
    for module in (styles_acoustic, styles_electric, styles_synthetic)
    for table in vars(module).values()
    if isinstance(table, Style)
]
MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
# How well each pitch class fits a key, as listeners rated it (Krumhansl & Kessler 1982).
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
SCORES = st.builds(
    compose,
    style=st.sampled_from(STYLES),
    seconds=st.floats(3, 120) | st.sampled_from([3.0, 10.0, 44.9, 45.0, 600.0]),
    seed=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
    key=st.none() | st.sampled_from(KEYS),
)
corpus = settings(max_examples=60, deadline=None)


def at(marks: tuple[Mark, ...], seconds: float) -> str:
    return next(mark.value for mark in reversed(marks) if mark.start_seconds <= seconds)


def pitch_classes(label: str) -> set[int]:
    root, quality = label.split(":")
    return {(PITCH_CLASSES.index(root) + interval) % 12 for interval in INTERVALS[quality]}


def part(score: Score, name: str) -> Part | None:
    return next((part for part in score.parts if part.name == name), None)


@corpus
@given(SCORES)
def test_every_note_lies_within_the_piece_and_within_its_instruments_range(score: Score):
    for one in score.parts:
        low, high = (35, 82) if one.is_drum else RANGES.get(one.program, (36, 96))
        assert one.notes
        assert all(low <= note.pitch <= high and 1 <= note.velocity <= 127 for note in one.notes)
        assert all(note.start_seconds >= 0 and note.seconds >= 0.03 for note in one.notes)
        assert max(note.start_seconds + note.seconds for note in one.notes) <= score.seconds


@corpus
@given(SCORES)
def test_no_two_notes_of_one_pitch_overlap_in_a_part(score: Score):
    for one in score.parts:
        ordered = sorted(one.notes, key=lambda note: (note.pitch, note.start_seconds))
        overlaps = [
            (before, after)
            for before, after in pairwise(ordered)
            if before.pitch == after.pitch and before.start_seconds + before.seconds > after.start_seconds
        ]
        assert overlaps == []


@corpus
@given(SCORES)
def test_beats_cover_the_piece_and_chords_and_sections_tile_it(score: Score):
    beat_seconds = 60 / score.tempo_bpm
    assert score.beats == pytest.approx(np.arange(len(score.beats)) * beat_seconds)
    assert score.beats[-1] < score.seconds <= score.beats[-1] + beat_seconds + 1e-6
    assert score.downbeats == score.beats[:: score.beats_per_bar]
    for marks in (score.chords, score.sections):
        assert marks[0].start_seconds == 0 and marks[-1].end_seconds == score.seconds
        assert all(before.end_seconds == after.start_seconds for before, after in pairwise(marks))
        assert all(mark.start_seconds < mark.end_seconds for mark in marks)
        assert {mark.start_seconds for mark in marks} <= set(score.beats)
    assert {mark.start_seconds for mark in score.sections} <= set(score.downbeats)
    assert {mark.value for mark in score.sections} <= {"intro", "verse", "chorus", "bridge", "outro"}


@corpus
@given(SCORES)
def test_labels_are_in_the_published_syntax(score: Score):
    assert score.key in KEYS
    assert score.style in STYLES
    assert all(re.fullmatch(r"[A-G]#?:(\w+)", mark.value)[1] in INTERVALS for mark in score.chords)
    classes = [DRUMS if one.is_drum else instrument_class(one.program) for one in score.parts]
    assert [one.instrument_class for one in score.parts] == classes
    assert len({one.name for one in score.parts}) == len(score.parts) >= 2
    assert all(-1 <= one.pan <= 1 and -12 <= one.gain_db <= 4 for one in score.parts)


@corpus
@given(SCORES)
def test_the_bass_has_the_root_on_most_downbeats(score: Score):
    line = part(score, "bass")
    if line:
        onsets = np.array([note.start_seconds for note in line.notes])
        near = [int(np.abs(onsets - downbeat).argmin()) for downbeat in score.downbeats]
        pairs = [
            (line.notes[place], at(score.chords, downbeat))
            for place, downbeat in zip(near, score.downbeats, strict=True)
        ]
        struck = [
            PITCH_CLASSES[note.pitch % 12] == label.split(":")[0]
            for (note, label), downbeat in zip(pairs, score.downbeats, strict=True)
            if abs(note.start_seconds - downbeat) < 0.05
        ]
        assert np.mean(struck or [True]) >= 0.9


@corpus
@given(SCORES)
def test_nearly_all_notes_belong_to_the_key_or_to_the_sounding_chord(score: Score):
    tonic, mode = score.key.split()
    scale = {(PITCH_CLASSES.index(tonic) + step) % 12 for step in (MAJOR if mode == "major" else MINOR)}
    belongs = [
        note.pitch % 12 in scale | pitch_classes(at(score.chords, note.start_seconds + 0.04))
        for one in score.parts
        if not one.is_drum
        for note in one.notes[:400]
    ]
    assert np.mean(belongs) >= 0.9


@settings(max_examples=25, deadline=None)
@given(style=st.sampled_from(STYLES), seconds=st.floats(3, 60), seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_score_and_another_seed_another(style: str, seconds: float, seed: int):
    score = compose(style, seconds=seconds, seed=(seed, 1))
    assert compose(style, seconds=seconds, seed=(seed, 1)) == score
    assert compose(style, seconds=seconds, seed=(seed, 2)).parts != score.parts


@pytest.mark.parametrize("key", KEYS)
def test_a_piece_is_in_the_key_that_is_asked_for(key: str):
    assert compose("classical", seconds=60, seed=(3,), key=key).key == key


@pytest.mark.parametrize("style", STYLES)
def test_a_long_piece_has_a_form_and_ends_on_its_tonic(style: str):
    score = compose(style, seconds=200, seed=(4,))
    names = [mark.value for mark in score.sections]
    assert (names[0], names[-1]) == ("intro", "outro")
    assert {"verse", "chorus"} <= set(names)
    assert score.chords[-1].value.split(":")[0] == score.key.split()[0]


@pytest.mark.parametrize("style", STYLES)
def test_the_tune_returns_with_its_section_and_is_varied(style: str):
    score = compose(style, seconds=240, seed=(6,))
    lead = next(one for one in score.parts if one.name == "lead")
    first, second = (_pitches(lead, mark) for mark in [m for m in score.sections if m.value == "chorus"][:2])
    assert len(set(first)) >= 3
    shared = sum(pitch in second for pitch in first) / len(first)
    assert shared > 0.7


def _pitches(lead: Part, section: Mark) -> list[tuple[int, int]]:
    """Tenths of a second from the section's start, and pitch."""
    return [
        (round((note.start_seconds - section.start_seconds) * 10), note.pitch)
        for note in lead.notes
        if section.start_seconds - 0.03 <= note.start_seconds < section.end_seconds - 0.03
    ]


@pytest.mark.parametrize("style", ["rock", "disco", "metal", "electronic"])
def test_notes_deviate_from_the_grid_by_a_few_milliseconds_only(style: str):
    table = next(table for table in TABLES if table.name == style)
    score = next(s for s in (compose(style, seconds=60, seed=(n,)) for n in range(20)) if s.meter == "4/4")
    step_seconds = 15 / score.tempo_bpm
    starts = np.array([note.start_seconds for one in score.parts for note in one.notes if one.name != "guitar"])
    deviations = starts - np.round(starts / step_seconds) * step_seconds
    assert np.abs(deviations).max() <= 0.003 * table.jitter_ms + 1e-6
    assert deviations.std() > 0.0004 * table.jitter_ms


@pytest.mark.parametrize("key", ["H major", "Db major", "C", "c minor"])
def test_a_key_that_there_is_not_is_refused(key: str):
    with pytest.raises(UsageProblem, match=key):
        compose("rock", seconds=10, seed=(0,), key=key)


def test_a_style_or_length_that_there_is_not_is_refused():
    with pytest.raises(UsageProblem, match="polka"):
        compose("polka", seconds=10, seed=(0,))
    for seconds in (2.9, 601, float("nan")):
        with pytest.raises(UsageProblem, match="3 s to 600 s"):
            compose("rock", seconds=seconds, seed=(0,))


def features(score: Score) -> list[float]:
    """Of a piece, nothing that names its style: tempo, density, register, harmony, instrument classes."""
    melodic = [note.pitch for one in score.parts if not one.is_drum for note in one.notes]
    drums = sum(len(one.notes) for one in score.parts if one.is_drum)
    qualities = [mark.value.split(":")[1] for mark in score.chords]
    classes = sorted({instrument_class(program) for program in range(112)} | {DRUMS})
    return [
        score.tempo_bpm,
        score.beats_per_bar * 20,
        10 * len(melodic) / score.seconds,
        10 * drums / score.seconds,
        5 * float(np.mean(melodic)),
        60 * len(score.chords) / score.seconds,
        100 * sum(quality not in ("maj", "min") for quality in qualities) / len(qualities),
        *(40 * (name in {one.instrument_class for one in score.parts}) for name in classes),
    ]


def test_a_listener_tells_styles_apart_by_tempo_density_register_harmony_and_instruments():
    scores = [compose(style, seconds=60, seed=(number, 5)) for style in STYLES for number in range(12)]
    table = np.array([features(score) for score in scores])
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1) + np.diag([np.inf] * len(scores))
    nearest = distances.argmin(axis=1)
    agreed = [scores[place].style == scores[other].style for place, other in enumerate(nearest)]
    assert np.mean(agreed) > 0.6  # chance is 1 in 14


def test_a_corpus_has_every_instrument_class_and_many_timbres():
    scores = [compose(style, seconds=30, seed=(number,)) for style in STYLES for number in range(20)]
    parts = [one for score in scores for one in score.parts]
    wanted = {instrument_class(program) for program in range(96)} | {DRUMS}
    assert wanted <= {one.instrument_class for one in parts}
    assert len({(one.is_drum, one.program) for one in parts}) >= 90
    assert {score.key for score in scores} == set(KEYS)
    assert {score.meter for score in scores} == set(METERS)


@pytest.mark.parametrize("style", TABLES, ids=lambda style: style.name)
def test_a_styles_tables_are_well_formed(style: Style):
    signs = {
        "drums": "Xxo?",
        "bass": "R583wa",
        "chords": "Xxodubt012345",
        "power": "Xxo",
        "melody": "x",
        "answer": "x",
    }
    for groove in style.grooves:
        bar = METERS[groove.meter].steps
        played = {player.name: player.plays for player in style.players}
        assert set(groove.patterns) <= set(played)
        for name, patterns in groove.patterns.items():
            for pattern in patterns:
                lines = pattern.split()[1::2] if played[name] == "drums" else [pattern]
                assert all(len(line) % bar == 0 for line in lines), pattern
                assert set("".join(lines)) <= {*signs[played[name]], "-", "."}, pattern
                assert played[name] != "drums" or set(pattern.split()[::2]) <= set(DRUM_PITCHES)
    for loop in style.harmony.major + style.harmony.minor:
        assert all(chord_of(name, 0).quality in INTERVALS for name in re.split("[ ,]", loop))
        assert style.phrase_bars % len(loop.split()) == 0 or len(loop.split()) <= 8


@pytest.mark.parametrize("style", TABLES, ids=lambda style: style.name)
def test_every_program_of_a_player_leaves_room_for_what_it_plays(style: Style):
    wanted = {"drums": 0, "bass": 14, "chords": 19, "power": 19, "melody": 14, "double": 12, "answer": 12}
    rooms = {
        (player.name, program): register_of(player, program).high - register_of(player, program).low
        for player in style.players
        for program in player.programs
    }
    narrow = {
        (p.name, g): rooms[p.name, g] for p in style.players for g in p.programs if rooms[p.name, g] < wanted[p.plays]
    }
    assert narrow == {}


@given(
    length=st.integers(2, 9),
    mode=st.sampled_from(["major", "minor"]),
    cadence=st.sampled_from(["half", "authentic", "plagal", "deceptive"]),
    seed=st.integers(0, 2**32),
)
def test_a_phrase_goes_from_the_tonic_to_its_cadence(length: int, mode: str, cadence: str, seed: int):
    numerals = phrase(length, mode, cadence, np.random.default_rng(seed))
    roots = [chord_of(numeral, 0).root for numeral in numerals]
    ends = {"half": {7}, "authentic": {0}, "plagal": {0}, "deceptive": {8, 9}}[cadence]
    assert len(numerals) == length
    assert length == 2 or roots[0] == 0
    assert roots[-1] in ends
    assert cadence not in ("authentic", "deceptive") or roots[-2] == 7
    assert cadence != "authentic" or length < 4 or roots[-3] in (2, 5)  # a predominant leads to the dominant


@given(seed=st.integers(0, 2**32))
def test_a_secondary_dominant_is_a_fifth_above_the_chord_that_follows(seed: int):
    rng = np.random.default_rng(seed)
    numerals = with_secondary_dominants(phrase(8, "major", "authentic", rng), 0.9, rng)
    for before, after in pairwise(numerals):
        if "/" in before:
            dominant = chord_of(before, 0)
            assert dominant.quality == "7"
            assert dominant.root == (chord_of(after, 0).root + 7) % 12


@given(
    roots=st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from(["maj", "min", "7", "maj7", "min7"])), min_size=2, max_size=9
    ),
    voices=st.integers(3, 4),
)
def test_voices_move_little_from_chord_to_chord(roots: list[tuple[int, str]], voices: int):
    led = [voicing(Chord(*roots[0]), (), voices, 50, 76)]
    for root in roots[1:]:
        led.append(voicing(Chord(*root), led[-1], voices, 50, 76))
    for chord, pitches in zip(roots, led, strict=True):
        assert {pitch % 12 for pitch in pitches} <= set(Chord(*chord).pitch_classes)
        assert min(pitches) >= 50 and max(pitches) <= 76 and len(set(pitches)) == voices
    moves = [abs(a - b) for before, after in pairwise(led) for a, b in zip(before, after, strict=True)]
    assert np.mean(moves) <= 4.5
    assert max(moves) <= 9


def test_a_listener_hears_the_annotated_keys_and_beats(tmp_path: Path):
    scores = [compose(style, seconds=24, seed=(1, 1)) for style in ("disco", "pop", "country", "rock")]
    heard = [_rendered(score, tmp_path) for score in scores]
    assert sum(_heard_key(*sound) == score.key for score, sound in zip(scores, heard, strict=True)) >= 3
    assert np.mean([_beat_f(score, *sound) for score, sound in zip(scores, heard, strict=True)]) > 0.8


def _rendered(score: Score, folder: Path) -> tuple[np.ndarray, int]:
    midi, wav = folder / f"{score.style}.mid", folder / f"{score.style}.wav"
    midi.write_bytes(midi_bytes(score.parts, tempo_bpm=score.tempo_bpm, meter=score.meter, key=score.key))
    options = ["-niq", "-f", "/dev/null", "-R", "0", "-C", "0", "-g", "0.4", "-r", "22050"]
    subprocess.run(["fluidsynth", *options, "-F", str(wav), str(SOUNDFONT), str(midi)], check=True, capture_output=True)
    sound, rate = soundfile.read(wav, dtype="float32")
    return sound.mean(axis=1)[: round(score.seconds * rate)], rate


def _heard_key(sound: np.ndarray, rate: int) -> str:
    chroma = librosa.feature.chroma_cqt(y=sound, sr=rate, hop_length=2048, fmin=65.4, n_octaves=5).mean(axis=1)
    fits = {key: _fit(chroma, PITCH_CLASSES.index(key.split()[0]), key.split()[1]) for key in KEYS}
    return max(fits, key=lambda key: fits[key])


def _fit(chroma: np.ndarray, tonic: int, mode: str) -> float:
    return float(np.corrcoef(np.roll(PROFILES[mode], tonic), chroma)[0, 1])


def _beat_f(score: Score, sound: np.ndarray, rate: int) -> float:
    """Share of beats that a tracker finds within 70 ms, at the annotated tempo, its double or its half."""
    _, found = librosa.beat.beat_track(y=sound, sr=rate, hop_length=256, units="time")
    beats = np.array(score.beats)
    levels = [beats, beats[::2], beats[1::2], np.sort(np.r_[beats, (beats[1:] + beats[:-1]) / 2])]
    return max(_f_measure(found, level) for level in levels)


def _f_measure(found: np.ndarray, wanted: np.ndarray) -> float:
    hits = (np.abs(found[:, None] - wanted[None]) <= 0.07).any(axis=0).sum()
    return 2 * hits / (len(found) + len(wanted))


def test_scores_are_plain_values():
    score = compose("pop", seconds=5, seed=(0,))
    assert asdict(score)["parts"][0]["notes"][0]["pitch"] == score.parts[0].notes[0].pitch
