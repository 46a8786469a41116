"""GTZAN: the published layout and its habits, the fault-filtered split, beats, and rendered tracks read back."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.corpora.gtzan import RENDERED_SIZES, Corpus, finish, is_rendered, planned, render_piece
from pipelines.music.layouts.gtzan import BEATS, GENRES, SPLIT_LIST, name_of, split_of
from pipelines.music.synthesis import SOUNDFONT
from pipelines.recording import Recording
from shards.decode import decode
from shards.problem import DataProblem, UsageProblem

TRACKS = 3
SECONDS = 5.0


def put(root: Path, *names: str, folder: str = "genres", suffix: str = ".wav") -> None:
    for name in names:
        path = root / folder / name.partition(".")[0] / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def listed(root: Path) -> dict[str, Recording]:
    return {recording.recording_id: recording for recording in Corpus(root).recordings()}


def test_the_whole_dataset_gives_the_fault_filtered_split(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    put(tmp_path, *(f"{genre}.{number:05}" for genre in GENRES for number in range(100)))
    found = list(Corpus(tmp_path).recordings())
    assert Counter(recording.split for recording in found) == {"train": 443, "valid": 197, "test": 290}
    assert not any(recording.problem for recording in found)
    assert "left out 70: the split leaves them out" in caplog.text
    classes = Corpus(tmp_path).labels()["genre"]["classes"]
    assert all(r.recording_id.startswith(classes[r.labels["genre"]] + "_") for r in found)


@pytest.mark.parametrize(
    "folder, suffix",
    [
        ("genres", ".wav"),
        ("genres", ".au"),
        ("genres_original", ".wav"),
        ("Data/genres_original", ".wav"),
        ("", ".wav"),
    ],
)
def test_the_usual_places_of_the_audio_are_found(tmp_path: Path, folder: str, suffix: str):
    put(tmp_path, "jazz.00054", folder=folder, suffix=suffix)
    recording = listed(tmp_path)["jazz_00054"]
    assert (tmp_path / recording.path).is_file() and recording.path.endswith(f"jazz/jazz.00054{suffix}")
    assert (recording.problem, recording.split, recording.labels) == ("", "train", {"genre": GENRES.index("jazz")})


def test_missing_audio_is_rejected_and_other_files_are_named(tmp_path: Path):
    put(tmp_path, "blues.00000", "blues.copy of 1", "blues.00000")
    problems = Counter(recording.problem for recording in listed(tmp_path).values())
    assert problems == {"": 1, "its audio is not there": 929, "its name is not GENRE.NNNNN": 1}


def test_of_a_wav_and_an_au_of_one_track_the_wav_is_read(tmp_path: Path):
    put(tmp_path, "blues.00000", suffix=".au")
    put(tmp_path, "blues.00000", suffix=".wav")
    assert listed(tmp_path)["blues_00000"].path == "genres/blues/blues.00000.wav"


def test_a_wrong_folder_is_an_error_that_says_where_the_audio_belongs(tmp_path: Path):
    with pytest.raises(DataProblem, match=r"holds no folder of a genre.*ROOT/genres/blues/blues\.00000\.wav"):
        listed(tmp_path)


def test_a_dataset_without_any_track_of_the_split_is_an_error_with_the_counts(tmp_path: Path):
    put(tmp_path, "blues.00900")
    with pytest.raises(DataProblem, match=r"rejected 930: its audio is not there  left out 1: the split leaves them"):
        listed(tmp_path)


def test_a_line_of_the_users_own_split_that_contradicts_itself_costs_one_track(tmp_path: Path):
    put(tmp_path, "blues.00000", "rock.00001")
    (tmp_path / SPLIT_LIST).write_text(
        "id,genre,split\nblues.00000,blues,valid\nrock.00001,pop,test\n../../x,pop,test\n"
    )
    found = list(Corpus(tmp_path).recordings())
    assert [(r.split, r.path, bool(r.problem)) for r in found if not r.problem] == [
        ("valid", "genres/blues/blues.00000.wav", False)
    ]
    assert {r.path for r in found if r.problem} == {SPLIT_LIST}


def test_beats_of_gtzan_rhythm_become_events_and_a_broken_file_costs_its_track(tmp_path: Path):
    put(tmp_path, "blues.00000", "blues.00001", "blues.00002")
    assert Corpus(tmp_path).events() == {}
    (tmp_path / BEATS).mkdir(parents=True)
    (tmp_path / BEATS / "gtzan_blues_00000.beats").write_text("0.5\t4\n1.0\t1\n")
    (tmp_path / BEATS / "gtzan_blues_00001.beats").write_text("1.0\t1\n0.5\t2\n")
    found = listed(tmp_path)
    assert Corpus(tmp_path).events() == {"beats": {"type": "int", "classes": None}}
    assert found["blues_00000"].events == {"beats": ((0.5, 0.5, 4), (1.0, 1.0, 1))}
    assert "gtzan_blues_00001.beats, line 2" in found["blues_00001"].problem
    assert (found["blues_00002"].problem, found["blues_00002"].events) == ("", {})


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "gtzan"
    pieces = short_pieces()
    for piece in pieces:
        render_piece(root, piece, SOUNDFONT)
    finish(root, pieces)
    return root


def short_pieces() -> list:
    return [replace(piece, seconds=SECONDS) for piece in planned(size={"tracks": TRACKS}, seed=3)]


def test_a_plan_has_genres_even_in_every_split_and_all_keys():
    pieces = planned(size=RENDERED_SIZES, seed=0)
    assert Counter(piece.style for piece in pieces) == dict.fromkeys(GENRES, 10)
    splits = Counter((piece.style, split_of(piece.number, len(GENRES))) for piece in pieces)
    assert all(splits[genre, "train"] == 5 and splits[genre, "valid"] == 2 for genre in GENRES)
    assert len({piece.key for piece in pieces}) == 24
    assert pieces == planned(size=RENDERED_SIZES, seed=0) != planned(size=RENDERED_SIZES, seed=1)


@pytest.mark.parametrize("tracks", [0, 50_001])
def test_absurd_sizes_are_refused(tracks: int):
    with pytest.raises(UsageProblem, match="cannot be rendered.*Pass --tracks between 1 and 50,000"):
        planned(size={"tracks": tracks}, seed=0)


def test_rendered_tracks_are_read_back_with_their_genre_split_and_beats(rendered: Path):
    found = listed(rendered)
    assert len(found) == TRACKS
    for piece in short_pieces():
        recording, score = found[name_of(piece).replace(".", "_")], piece.score()
        assert (recording.problem, recording.split) == ("", split_of(piece.number, 10))
        assert recording.labels == {"genre": GENRES.index(piece.style)}
        beats = recording.events["beats"]
        assert [start for start, _, _ in beats] == pytest.approx(score.beats, abs=1e-6)
        assert [start for start, _, place in beats if place == 1] == pytest.approx(score.downbeats, abs=1e-6)
        clip = decode((rendered / recording.path).read_bytes())
        assert (clip.sample_rate_hz, clip.seconds) == (22_050, SECONDS)
    assert {r.split for r in found.values()} == {"train", "valid", "test"}


def test_rendered_tracks_can_not_be_taken_for_published_ones(rendered: Path):
    assert all(int(recording_id[-5:]) >= 500 for recording_id in listed(rendered))


def test_a_track_is_rendered_again_to_the_same_bytes_when_it_is_gone(rendered: Path, tmp_path: Path):
    piece = short_pieces()[0]
    assert is_rendered(rendered, piece) and not is_rendered(tmp_path, piece)
    render_piece(tmp_path, piece, SOUNDFONT)
    (written,) = tmp_path.glob("genres/*/*.wav")
    assert written.read_bytes() == (rendered / written.relative_to(tmp_path)).read_bytes()


def test_a_corpus_whose_rendering_was_interrupted_is_not_read(tmp_path: Path):
    put(tmp_path, "blues.00500")
    (tmp_path / "rendered.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(DataProblem, match=f"was interrupted: there is no {SPLIT_LIST} yet"):
        listed(tmp_path)
