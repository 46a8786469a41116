"""Music with annotation files beside it: Isophonics' and Billboard's folders, and files that are missing or wrong."""

from pathlib import Path

import pytest

from pipelines.corpora.annotated import Corpus
from pipelines.recording import Recording
from shards.problem import DataProblem, UsageProblem

GENUINE = Path(__file__).parent / "data" / "annotations" / "billboard_0003_majmin.lab"


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def listed(root: Path, **patterns: str) -> dict[str, Recording]:
    return {Path(recording.path).stem: recording for recording in Corpus(root, **patterns).recordings()}


def test_the_folders_of_isophonics_give_chords_beats_and_keys(tmp_path: Path):
    put(tmp_path, "audio/Album/01_-_Song.wav")
    put(tmp_path, "chordlab/audio/Album/01_-_Song.lab", "0.0 2.0 E\n2.0 4.0 A:min/b3\n")
    put(tmp_path, "beat/01_-_Song.txt", "0.5  1\n1.0  2\n")
    put(tmp_path, "keylab/01_-_Song.lab", "0.0\t4.0\tKey\tE\n")
    corpus = Corpus(tmp_path, chords="chordlab/{path}.lab", beats="beat/{name}.txt", keys="keylab/{name}.lab")
    (recording,) = corpus.recordings()
    assert recording.events == {
        "chords": ((0.0, 2.0, "E:maj"), (2.0, 4.0, "A:min")),
        "beats": ((0.5, 0.5, 1), (1.0, 1.0, 2)),
        "keys": ((0.0, 4.0, "E major"),),
    }
    assert list(corpus.events()) == list(recording.events)
    assert corpus.labels() == recording.labels == {}


def test_the_folders_of_billboard_give_chords(tmp_path: Path):
    put(tmp_path, "0003.flac")
    put(tmp_path, "McGill-Billboard/0003/majmin.lab", GENUINE.read_text())
    (recording,) = Corpus(tmp_path, chords="McGill-Billboard/{name}/majmin.lab").recordings()
    assert recording.events["chords"][3][2] == "A:min"


def test_files_without_an_annotation_or_with_a_wrong_one_are_rejected_with_the_reason(tmp_path: Path):
    for name in ("good", "none", "wrong", "latin"):
        put(tmp_path, f"{name}.wav")
    put(tmp_path, "good.beats", "1.0 1\n")
    put(tmp_path, "wrong.beats", "1.0 1\n0.5 2\n")
    (tmp_path / "latin.beats").write_bytes(b"1.0 \xe9\n")
    problems = {name: recording.problem for name, recording in listed(tmp_path, beats="{path}.beats").items()}
    assert problems["good"] == ""
    assert problems["none"] == "it has no beats: there is no none.beats"
    assert "wrong.beats, line 2: the beat at 0.5 s" in problems["wrong"]
    assert "latin.beats, line 1: byte 0xe9 is not UTF-8" in problems["latin"]


def test_no_pattern_and_a_pattern_without_a_place_for_the_name_are_refused(tmp_path: Path):
    with pytest.raises(UsageProblem, match="Neither --chords nor --beats nor --keys is given"):
        listed(tmp_path)
    with pytest.raises(UsageProblem, match=r"--chords all\.lab is the same file for all audio"):
        listed(tmp_path, chords="all.lab")


def test_when_no_file_is_annotated_the_error_shows_the_pattern(tmp_path: Path):
    put(tmp_path, "a.wav")
    with pytest.raises(DataProblem, match=r"rejected 1: it has no chords.*Check --chords lab/\{path\}\.lab"):
        listed(tmp_path, chords="lab/{path}.lab")
