"""GiantSteps keys: both datasets as they are cloned, which keys count, both splits, and rendered tracks read back."""

from collections import Counter
from pathlib import Path

import pytest

from pipelines.corpora import giantsteps
from pipelines.corpora.giantsteps import Corpus, is_rendered, planned, render_piece
from pipelines.music.layouts.giantsteps import RENDERED_SIZES, TEST_SET, TRAIN_SET, track_id
from pipelines.music.layouts.tracks import split_of
from pipelines.music.synthesis import SOUNDFONT
from pipelines.published.annotations import KEYS, key_name
from pipelines.published.tables import SHIPPED, read_rows
from pipelines.recording import Recording
from shards.decode import decode
from shards.problem import DataProblem
from tests.rendering import render_short, short_pieces

HEADER = "ID\tMANUAL KEY\tC\n"


def put_test(root: Path, folder: str = TEST_SET, audio: str = ".mp3", **keys: str) -> None:
    for name, key in keys.items():
        put_audio(root / folder, name[1:], audio)
        path = root / folder / "annotations" / "key" / f"{name[1:]}.LOFI.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)


def put_train(root: Path, *rows: str, folder: str = TRAIN_SET, audio: bool = True) -> None:
    (root / folder / "annotations").mkdir(parents=True, exist_ok=True)
    (root / folder / "annotations" / "annotations.txt").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    for row in rows if audio else ():
        put_audio(root / folder, row.split("\t")[0])


def put_audio(folder: Path, name: str, suffix: str = ".mp3") -> None:
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "audio" / f"{name}.LOFI{suffix}").write_bytes(b"")


def listed(root: Path, **options: str) -> dict[str, Recording]:
    return {recording.recording_id: recording for recording in Corpus(root, **options).recordings()}


def test_both_datasets_give_tracks_with_keys_in_any_spelling(tmp_path: Path):
    put_test(tmp_path, _10089="D major", _61415="F minor\n", _74982="Eb minor")
    put_train(tmp_path, "5061\tD# minor\t2", "14720\tD minor\t2")
    found = listed(tmp_path)
    assert {name: (KEYS[r.labels["key"]], r.split) for name, r in found.items()} == {
        "0010089": ("D major", "test"),
        "0061415": ("F minor", "test"),
        "0074982": ("D# minor", "test"),
        "0005061": ("D# minor", "train"),
        "0014720": ("D minor", "valid"),
    }
    assert found["0005061"].path == f"{TRAIN_SET}/audio/5061.LOFI.mp3"


def test_both_datasets_whole_give_the_published_split(tmp_path: Path):
    rows = [r.fields for r in read_rows(SHIPPED / "giantsteps_split.csv", what="", columns=())]
    put_test(tmp_path, **{f"_{int(r['audio_id'])}": r["key"] for r in rows if r["split"] == "test"})
    put_train(tmp_path, *(f"{int(r['audio_id'])}\t{r['key']}\t2" for r in rows if r["split"] != "test"))
    found = listed(tmp_path)
    assert Counter(r.split for r in found.values()) == {"train": 923, "valid": 236, "test": 604}
    assert all(KEYS[found[r["audio_id"]].labels["key"]] == key_name(r["key"]) for r in rows)
    assert Counter(r.split for r in listed(tmp_path, split="datasets").values()) == {"train": 1159, "test": 604}


def test_doubtful_keys_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    put_train(tmp_path, "5061\tD# minor\t2", "10981\t-\t0", "16484\tA minor\t1", "61578\tC minor / F# minor\t2")
    assert list(listed(tmp_path)) == ["0005061"]
    assert "left out 2: the annotator was not confident  left out 1: it has several keys" in caplog.text


@pytest.mark.parametrize(
    "row, problem",
    [
        ("7217\tH minor\t2", "its key is none of the 24: 'H minor'"),
        ("7217\tF minor", "it has 2 fields where the header has 3"),
        ("../7217\tF minor\t2", "the split list does not name it"),
        ("99\tF minor\t2", "the split list does not name it"),
        ("5061\tD# minor\t2", "its id is listed twice"),
    ],
)
def test_a_wrong_row_costs_its_track_alone(tmp_path: Path, row: str, problem: str):
    put_train(tmp_path, "5061\tD# minor\t2", row, audio=False)
    put_audio(tmp_path / TRAIN_SET, "5061")
    found = listed(tmp_path)
    assert found["0005061"].problem == ""
    assert [r.problem.startswith(problem) for r in found.values() if r.problem] == [True]
    assert all(".." not in r.path for r in found.values())


def test_an_unknown_or_unreadable_key_of_the_test_set_costs_its_track_alone(tmp_path: Path):
    put_test(tmp_path, _1="D major", _2="", _3="D dorian")
    put_test(tmp_path, _4="D major")
    (tmp_path / TEST_SET / "annotations" / "key" / "4.LOFI.key").write_bytes(b"D\xe9 major")
    problems = {name: r.problem for name, r in listed(tmp_path).items()}
    assert problems.pop("0000001") == ""
    assert problems["0000003"].startswith("its key is none of the 24: 'D dorian'")
    assert problems["0000002"].startswith("its key is none of the 24: ''")
    assert "is not UTF-8" in problems["0000004"]


def test_keys_without_audio_and_audio_without_a_key_are_rejected(tmp_path: Path):
    put_test(tmp_path, _1="D major", _2="D major")
    (tmp_path / TEST_SET / "audio" / "2.LOFI.mp3").unlink()
    put_audio(tmp_path / TEST_SET, "3")
    put_train(tmp_path, "5061\tD# minor\t2")
    put_audio(tmp_path / TRAIN_SET, "6")
    assert {name: r.problem for name, r in listed(tmp_path).items() if r.problem} == {
        "0000002": "its audio is not there",
        "0000003": "no key is annotated for it",
        "0000006": "no key is annotated for it",
    }


def test_a_folder_as_github_unpacks_it_and_converted_audio_are_found(tmp_path: Path):
    put_test(tmp_path, folder=f"{TEST_SET}-master", audio=".wav", _1="D major")
    assert listed(tmp_path)["0000001"].path == f"{TEST_SET}-master/audio/1.LOFI.wav"


def test_two_copies_of_a_dataset_are_an_error(tmp_path: Path):
    put_test(tmp_path, _1="D major")
    put_test(tmp_path, folder=f"{TEST_SET}-master", _1="D major")
    with pytest.raises(DataProblem, match="holds 2 copies of giantsteps-key-dataset"):
        listed(tmp_path)


def test_a_wrong_folder_is_an_error_that_names_both_datasets(tmp_path: Path):
    with pytest.raises(DataProblem, match=f"holds neither {TEST_SET} nor {TRAIN_SET}.*Clone https"):
        listed(tmp_path)


def test_a_corpus_of_doubtful_keys_alone_is_an_error_with_the_counts(tmp_path: Path):
    put_train(tmp_path, "10981\t-\t0", "61578\tC minor / F# minor\t2")
    with pytest.raises(DataProblem, match="None of the 2 .*left out 1: the annotator.*left out 1: it has several keys"):
        listed(tmp_path)


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_short(giantsteps, tmp_path_factory.mktemp("data") / "giantsteps")


def test_rendered_tracks_are_read_back_with_the_key_they_were_composed_in(rendered: Path):
    found = listed(rendered)
    assert {r.split for r in found.values()} == {"train", "valid", "test"}
    for piece in short_pieces(planned):
        recording = found[f"{track_id(piece):07}"]
        assert (recording.problem, recording.split) == ("", split_of(piece.number, 24))
        assert KEYS[recording.labels["key"]] == piece.key == piece.score().key
        clip = decode((rendered / recording.path).read_bytes())
        assert clip.sample_rate_hz == 44_100 and clip.seconds == pytest.approx(4.0, abs=0.1)
        assert is_rendered(rendered, piece)


def test_key_files_of_both_sets_say_the_composed_key_and_ids_are_above_the_published(rendered: Path):
    for piece in short_pieces(planned):
        (path,) = rendered.glob(f"*/annotations/key/{track_id(piece)}.LOFI.key")
        assert key_name(path.read_text().split("\t")[0]) == piece.key
        assert len(list(rendered.glob(f"*/md5/{track_id(piece)}.LOFI.md5"))) == 1
        assert track_id(piece) > 10_000_000


def test_a_track_is_rendered_again_to_the_same_bytes(rendered: Path, tmp_path: Path):
    piece = short_pieces(planned)[0]
    render_piece(tmp_path, piece, SOUNDFONT)
    (written,) = tmp_path.glob("*/audio/*.mp3")
    assert written.read_bytes() == (rendered / written.relative_to(tmp_path)).read_bytes()


def test_a_plan_has_every_key_twice_and_all_splits_for_each_mode():
    pieces = planned(size=RENDERED_SIZES, seed=0)
    assert Counter(piece.key for piece in pieces) == dict.fromkeys(KEYS, 2)
    assert {(split_of(p.number, 24), p.key.split()[1]) for p in pieces} == {
        (split, mode) for split in ("train", "valid", "test") for mode in ("major", "minor")
    }
