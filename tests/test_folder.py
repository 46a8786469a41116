"""Any tree of music: which files are recordings, how their table's rows find them, how they are split."""

import logging
import os
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpora.folder import Corpus, finish, is_rendered, planned, render_piece
from pipelines.music.compose import STYLES, compose
from pipelines.music.score import KEYS
from pipelines.music.synthesis import SOUNDFONT
from pipelines.published.audio_files import EXTENSIONS
from pipelines.recording import SPLITS, Recording
from shards.problem import DataProblem, UsageProblem

PIECES = [replace(piece, seconds=20.0) for piece in planned(size={"tracks": 2}, seed=5)]


def put(root: Path, *paths: str) -> None:
    """Empty files: listing never looks inside."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def listed(root: Path, **options: object) -> list[Recording]:
    return list(Corpus(root, **options).recordings())


def with_table(root: Path, text: str, **options: object) -> dict[str, Recording]:
    """The recordings by path, or by id where they are rows without a file."""
    (root / "labels.csv").write_text(text)
    recordings = listed(root, label_table=root / "labels.csv", **options)
    assert len({recording.recording_id for recording in recordings}) == len(recordings)
    return {r.recording_id if r.recording_id.startswith("row-") else r.path: r for r in recordings}


# Files


def test_recordings_are_the_audio_files_of_the_tree_in_the_order_of_their_paths(tmp_path: Path):
    audio = [f"b/track.{extension}" for extension in EXTENSIONS] + ["A/x.WAV", "a b/ü.Mp3", "z.flac", "two.dots.ogg"]
    put(tmp_path, *audio, "cover.jpg", "notes.txt", "wav", "b/.hidden.wav", ".git/x.wav", "b/._track.wav")
    put(tmp_path, "x.mp3.part", "x.part.mp3", "x.temp.m4a", "x.wav.crdownload", ".wav")
    recordings = listed(tmp_path)
    assert [recording.path for recording in recordings] == sorted(audio)
    assert all(recording.problem == "" and recording.labels == {} for recording in recordings)
    assert len({recording.recording_id for recording in recordings}) == len(audio)
    assert recordings == listed(tmp_path)
    assert Corpus(tmp_path).labels() == {}


def test_a_folder_without_audio_is_an_error_that_names_what_counts_as_audio(tmp_path: Path):
    put(tmp_path, "a.txt")
    with pytest.raises(DataProblem, match=r"holds no audio.*wav, flac.*Check --root"):
        listed(tmp_path)
    with pytest.raises(DataProblem, match=r"absent.* cannot be listed \(No such file"):
        listed(tmp_path / "absent")


def test_a_name_that_is_no_text_costs_one_recording(tmp_path: Path):
    put(tmp_path, "good.wav")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9.wav")).touch()
    bad, good = listed(tmp_path)
    assert (bad.path, bad.problem) == ("b\\udce9.wav", "its path is not valid UTF-8")
    assert good.problem == ""


# Splits


@given(names=st.sets(st.text("abcäßω0_- ", min_size=1, max_size=10), min_size=1, max_size=8))
def test_the_split_of_a_file_depends_on_its_path_alone(tmp_path_factory: pytest.TempPathFactory, names: set[str]):
    first, second = (tmp_path_factory.mktemp("tree") for _ in range(2))
    put(first, *(f"{name}.wav" for name in names))
    put(second, *(f"{name}.wav" for name in names), "one/more.wav")
    splits = {recording.path: recording.split for recording in listed(second)}
    assert all(splits[recording.path] == recording.split for recording in listed(first))


def test_shares_are_those_that_were_asked_for(tmp_path: Path):
    put(tmp_path, *(f"{number}.wav" for number in range(2_000)))
    counts = Counter(recording.split for recording in listed(tmp_path, valid_share=0.2, test_share=0.3))
    assert abs(counts["valid"] - 400) < 80  # four standard deviations
    assert abs(counts["test"] - 600) < 82
    assert {recording.split for recording in listed(tmp_path, valid_share=0, test_share=0)} == {"train"}
    with pytest.raises(UsageProblem, match="--valid-share 0.7 and --test-share 0.6 are no parts of a whole"):
        listed(tmp_path, valid_share=0.7, test_share=0.6)


def test_a_column_gives_the_splits_and_is_no_label(tmp_path: Path):
    put(tmp_path, *(f"{name}.wav" for name in "abcde"))
    table = "path,split,bpm\na.wav,train,90\nb.wav,Validation,91\nc.wav,TEST,92\nd.wav,holdout,93\ne.wav,,94\n"
    found = with_table(tmp_path, table)
    assert [found[f"{name}.wav"].split for name in "abc"] == list(SPLITS)
    assert found["a.wav"].labels == {"bpm": 90}
    assert found["d.wav"].problem == "its split is 'holdout', not train, valid or test"
    assert "its split is ''" in found["e.wav"].problem
    other = with_table(tmp_path, table.replace("split", "fold"), split_column="fold")
    assert [other[f"{name}.wav"].split for name in "abc"] == list(SPLITS)


# Tables


def test_rows_find_their_files_by_path_by_name_and_by_stem(tmp_path: Path):
    put(tmp_path, "a/one.wav", "a/two.wav", "b/three.wav", "b/four.x.flac", "b/five.mp3", "c/one.wav", "six.wav")
    rows = ["a/one.wav", "./a/two.wav", "three.wav", "four.x", "b\\five.mp3", "c/one", "six"]
    found = with_table(tmp_path, "path,n\n" + "".join(f"{row},{number}\n" for number, row in enumerate(rows)))
    assert {path: recording.labels["n"] for path, recording in found.items()} == {
        **{"a/one.wav": 0, "a/two.wav": 1, "b/three.wav": 2, "b/four.x.flac": 3},
        **{"b/five.mp3": 4, "c/one.wav": 5, "six.wav": 6},
    }


def test_letters_with_accents_match_however_they_are_spelt(tmp_path: Path):
    put(tmp_path, unicodedata.normalize("NFD", "Café.wav"))
    (recording,) = with_table(tmp_path, f"path,n\n{unicodedata.normalize('NFC', 'Café')},1\n").values()
    assert recording.labels == {"n": 1}


@pytest.mark.parametrize(
    "row, problem",
    [
        ("../secret.wav", "its path leads out of the folder: '../secret.wav' (row 2)"),
        ("/etc/passwd", "its path leads out of the folder: '/etc/passwd' (row 2)"),
        ("C:\\music\\a.wav", "its path leads out of the folder: 'C:\\\\music\\\\a.wav' (row 2)"),
        ("a/../../secret.wav", "its path leads out of the folder: 'a/../../secret.wav' (row 2)"),
        ("absent.wav", "there is no such file: 'absent.wav' (row 2)"),
        ("same", "more than one file is called so: 'same' may be a/same.wav or b/same.wav (row 2)"),
        ('""', "there is no such file: '' (row 2)"),
    ],
)
def test_a_row_that_names_no_file_of_the_folder_is_rejected_with_its_number(tmp_path: Path, row: str, problem: str):
    root = tmp_path / "root"
    put(tmp_path, "secret.wav", "root/good.wav", "root/a/same.wav", "root/b/same.wav")
    found = with_table(root, f"path,n\ngood.wav,1\n{row},2\n")
    assert (found["row-2"].problem, found["row-2"].path, found["row-2"].labels) == (problem, "labels.csv", {})
    assert found["good.wav"].labels == {"n": 1}
    assert {path for path in found if "secret" in path} == set()


def test_files_without_a_row_with_two_rows_or_with_an_empty_cell_are_rejected(tmp_path: Path):
    put(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    table = "path,genre,bpm\na.wav,jazz,120\nb.wav,rock,\nc.wav,pop,99\nc,pop,99\n"
    found = with_table(tmp_path, table)
    assert found["a.wav"].labels == {"genre": "jazz", "bpm": 120}
    assert found["b.wav"].problem == "its row has no value for bpm: it is row 2"
    assert found["c.wav"].problem == "two rows name it: 3 and 4"
    assert found["d.wav"].problem == "the label table has no row for it"
    assert with_table(tmp_path, table, columns=("genre",))["b.wav"].labels == {"genre": "rock"}


def test_labels_say_the_type_of_every_column_but_path_and_split(tmp_path: Path):
    put(tmp_path, "a.wav")
    (tmp_path / "labels.jsonl").write_text(
        '{"file": "a", "split": "test", "key": "C major", "bpm": 90.5, "tags": ["x"]}\n'
    )
    corpus = Corpus(tmp_path, label_table=tmp_path / "labels.jsonl", path_column="file")
    assert {name: kind["type"] for name, kind in corpus.labels().items()} == {
        **{"key": "str", "bpm": "float", "tags": "list[str]"}
    }
    (recording,) = corpus.recordings()
    assert (recording.split, recording.labels) == ("test", {"key": "C major", "bpm": 90.5, "tags": ("x",)})


@pytest.mark.parametrize(
    "options",
    [{"path_column": "pathh"}, {"columns": ("genr",)}, {"split_column": "fold"}],
)
def test_a_column_that_is_not_there_is_an_error_that_names_the_nearest(tmp_path: Path, options: dict):
    put(tmp_path, "a.wav")
    with pytest.raises(UsageProblem, match=r"labels.csv has no column '.*(Did you mean|Choose from)"):
        with_table(tmp_path, "path,genre\na.wav,jazz\n", **options)


def test_when_nothing_is_left_the_error_says_what_removed_how_many(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "a.wav", "b.wav")
    expected = r"rejected 2: the label table has no row for it  rejected 1: there is no such file.*--path-column path"
    with caplog.at_level(logging.INFO), pytest.raises(DataProblem, match=expected):
        with_table(tmp_path, "path,genre\nx.wav,jazz\n")
    assert "2 audio files  0 usable" in caplog.text


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of different styles."""
    root = tmp_path_factory.mktemp("rendered") / "folder"
    for piece in PIECES:
        assert not is_rendered(root, piece)
        render_piece(root, piece, SOUNDFONT)
        assert is_rendered(root, piece)
    finish(root, PIECES)
    return root


def test_a_rendered_folder_is_read_back_with_exactly_its_labels(rendered: Path):
    corpus = Corpus(rendered, label_table=rendered / "labels.csv")
    assert {name: kind["type"] for name, kind in corpus.labels().items()} == {
        **{"style": "str", "key": "str", "tempo_bpm": "float", "tempo": "str"},
        **{"meter": "str", "instruments": "list[str]"},
    }
    found = {recording.path: recording for recording in corpus.recordings()}
    assert found.keys() == {piece.path for piece in PIECES}
    for piece in PIECES:
        score = compose(piece.style, seconds=piece.seconds, seed=(5, piece.number), key=piece.key)
        assert found[piece.path].problem == ""
        assert found[piece.path].labels == {
            "style": piece.style,
            "key": score.key,
            "tempo_bpm": score.tempo_bpm,
            "tempo": "slow" if score.tempo_bpm < 95 else "fast" if score.tempo_bpm > 125 else "medium",
            "meter": score.meter,
            "instruments": tuple(sorted({part.instrument_class for part in score.parts if part.notes})),
        }
        sound, sample_rate_hz = soundfile.read(rendered / piece.path)
        assert (sample_rate_hz, sound.shape) == (44_100, (44_100 * piece.seconds, 2))
        assert 0.1 < abs(sound).max() < 1.0


def test_a_plan_of_tracks_takes_every_style_in_turn_and_depends_on_its_seed():
    plan = planned(size={"tracks": 40}, seed=5)
    assert plan == planned(size={"tracks": 40}, seed=5)
    assert plan != planned(size={"tracks": 40}, seed=6)
    assert {piece.style for piece in plan} == {*STYLES}
    assert len({piece.path for piece in plan}) == 40
    assert {piece.key for piece in plan} == {*KEYS}
    assert all(20 <= piece.seconds <= 60 for piece in plan)
    with pytest.raises(UsageProblem, match="--tracks"):
        planned(size={"tracks": 0}, seed=5)
