"""Tracks that are rendered in the layout of Slakh2100, and what reading them gives back."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpora.slakh import Corpus, counts, finish, is_rendered, planned, render_piece
from pipelines.music.compose import STYLES, compose
from pipelines.music.score import Score
from pipelines.music.synthesis import SOUNDFONT
from pipelines.published.midi import MidiNote, derived_chords
from shards.problem import DataProblem, UsageProblem


@given(tracks=st.integers(3, 400), seed=st.integers(0, 2**32))
def test_a_plan_is_split_as_slakh_is_and_never_bears_its_numbers(tracks: int, seed: int):
    pieces = planned(size={"tracks": tracks}, seed=seed)
    assert sum(counts(pieces).values()) == len({piece.track for piece in pieces}) == tracks
    assert {piece.folder for piece in pieces} == {"train", "validation", "test"}
    assert counts(pieces)["validation tracks"] == max(1, round(tracks * 375 / 2100))
    assert all(int(piece.track.removeprefix("Track")) > 50_000 and 60 <= piece.seconds <= 120 for piece in pieces)
    assert {piece.style for piece in pieces} == set(STYLES[:tracks])


@pytest.mark.parametrize("tracks", [0, 2, 40_001])
def test_a_number_of_tracks_that_cannot_be_had_is_a_usage_problem(tracks: int):
    with pytest.raises(UsageProblem, match="Pass --tracks between 3 and 40,000"):
        planned(size={"tracks": tracks}, seed=0)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Score]:
    """Nine seconds of one track, and the score that was played."""
    root = tmp_path_factory.mktemp("rendered")
    piece = replace(planned(size={"tracks": 3}, seed=5)[1], style="pop" if "pop" in STYLES else STYLES[0], seconds=9.0)
    assert not is_rendered(root, piece)
    render_piece(root, piece, SOUNDFONT)
    assert is_rendered(root, piece)
    finish(root, [piece])
    return root, compose(piece.style, seconds=piece.seconds, seed=piece.seed)


def test_the_mix_is_the_sum_of_the_stems_to_the_last_bit(rendered: tuple[Path, Score]):
    (track,) = rendered[0].glob("validation/*")
    stems = [soundfile.read(path, dtype="int16") for path in sorted((track / "stems").iterdir())]
    mix, rate_hz = soundfile.read(track / "mix.flac", dtype="int16")
    assert {rate for _, rate in stems} == {rate_hz} == {44_100}
    assert np.array_equal(np.sum([samples for samples, _ in stems], axis=0, dtype=np.int32), mix)
    assert np.abs(mix).max() > 3_000


def test_what_is_rendered_reads_back_as_the_score(rendered: tuple[Path, Score]):
    root, score = rendered
    corpus = Corpus(root)
    mix, *classes = map(corpus.annotated, corpus.recordings())
    assert {(r.split, r.seconds, r.problem) for r in (mix, *classes)} == {("valid", score.seconds, "")}
    assert Counter(len(r.parts) or 1 for r in classes) == Counter(
        Counter(part.instrument_class for part in score.parts).values()
    )
    assert mix.labels["programs"] == tuple(128 if part.is_drum else part.program for part in score.parts)
    for name, is_drum in (("notes", False), ("drums", True)):
        played = sorted((n.pitch, n.start_seconds) for p in score.parts if p.is_drum == is_drum for n in p.notes)
        found = sorted((pitch, start) for start, _, pitch in mix.events[name])
        assert [pitch for pitch, _ in found] == [pitch for pitch, _ in played]
        assert [start for _, start in found] == pytest.approx([start for _, start in played], abs=2e-3)
        assert sum(len(r.events[name]) for r in classes) == len(played)
    beats = [start for start, *_ in mix.events["beats"]]
    assert beats == pytest.approx(score.beats[: len(beats)], abs=2e-3)
    assert len(score.beats) - len(beats) <= score.beats_per_bar
    downbeats = [start for start, *_ in mix.events["downbeats"]]
    assert downbeats == pytest.approx(score.downbeats[: len(downbeats)], abs=2e-3)


def test_a_rendered_track_says_what_it_is(rendered: tuple[Path, Score]):
    root, score = rendered
    (path,) = root.glob("validation/*/metadata.yaml")
    said = yaml.safe_load(path.read_bytes())["rendered"]
    assert "not a track of it" in said["what"]
    assert (said["style"], said["key"], said["tempo_bpm"]) == (score.style, score.key, score.tempo_bpm)
    lines = [line.split("\t") for line in (path.parent / "chords.lab").read_text().splitlines()]
    assert [label for *_, label in lines] == [chord.value for chord in score.chords]


def test_the_same_piece_gives_the_same_bytes(rendered: tuple[Path, Score], tmp_path: Path):
    piece = replace(planned(size={"tracks": 3}, seed=5)[1], style=rendered[1].style, seconds=9.0)
    render_piece(tmp_path, piece, SOUNDFONT)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path: (rendered[0] / path).read_bytes() for path in files}
    assert len(files) == 2 * len(rendered[1].parts) + 4


def test_a_rendering_that_was_interrupted_is_not_read_as_a_corpus(rendered: tuple[Path, Score], tmp_path: Path):
    shutil.copytree(rendered[0], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tracks.csv"))
    (tmp_path / "rendered.json").write_text("{}")
    with pytest.raises(DataProblem, match="was interrupted"):
        list(Corpus(tmp_path).recordings())


def test_derived_chords_agree_with_those_that_were_composed_in_nine_beats_of_ten():
    agreed = [same for style in STYLES for same in _agreements(compose(style, seconds=60.0, seed=(7,)))]
    assert len(agreed) > 500
    assert np.mean(agreed) > 0.88  # by chance: 0.04


def _agreements(score: Score) -> Iterator[bool]:
    """For each beat with a derived chord, whether root and third are those of the composed one."""
    notes = [
        MidiNote(note.start_seconds, note.start_seconds + note.seconds, note.pitch, note.velocity, 0, part.is_drum)
        for part in score.parts
        for note in part.notes
    ]
    for start, end, label in derived_chords(notes, score.beats):
        for beat in (beat for beat in score.beats if start <= beat < end):
            composed = next(chord.value for chord in reversed(score.chords) if chord.start_seconds <= beat + 1e-6)
            yield _root_and_third(label) == _root_and_third(composed)


def _root_and_third(label: str) -> tuple[str, bool]:
    root, _, quality = label.partition(":")
    return root, quality.startswith(("min", "dim", "hdim"))
