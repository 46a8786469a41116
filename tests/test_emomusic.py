"""EmoMusic: its tables and clips, both splits, every way a row can be wrong, and rendered songs read back."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.corpora import emomusic
from pipelines.corpora.emomusic import Corpus, is_rendered, min_sec, planned
from pipelines.music.compose import STYLES
from pipelines.music.layouts.emomusic import CLIPS, RATINGS, SONGS, ratings, song_id
from pipelines.music.layouts.tracks import split_of
from pipelines.published.tables import SHIPPED, read_rows
from pipelines.recording import Recording
from shards.decode import decode
from shards.problem import DataProblem
from tests.rendering import render_short, short_pieces

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "annotations" / "emomusic"
SONG_HEADER = (
    "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),Genre,"
    "Mediaeval 2013 set"
)
RATING_HEADER = "song_id,mean_arousal,std_arousal,mean_valence,std_valence"
SONG = "2,2.mp3,The Artist,\tA Title\t,0.15,1.0,Jazz,development"
RATING = "2,3.1,0.9,7.5,1.2"


def put(root: Path, *songs: str, rated: tuple[str, ...] = (RATING,), clips: tuple[str, ...] = ("2",)) -> Path:
    (root / CLIPS).mkdir(exist_ok=True)
    (root / SONGS).write_text("\n".join((SONG_HEADER, *songs)) + "\n")
    (root / RATINGS).write_text("\n".join((RATING_HEADER, *rated)) + "\n")
    for clip in clips:
        (root / CLIPS / f"{clip}.mp3").write_bytes(b"")
    return root


def listed(root: Path, **options: str) -> dict[str, Recording]:
    return {recording.recording_id: recording for recording in Corpus(root, **options).recordings()}


def test_a_song_has_its_ratings_their_scaled_form_its_segment_and_genre(tmp_path: Path):
    (recording,) = Corpus(put(tmp_path, SONG)).recordings()
    assert (recording.recording_id, recording.path, recording.split) == ("0002", "clips_45seconds/2.mp3", "valid")
    assert recording.labels == {
        **{"arousal": 3.1, "valence": 7.5, "arousal_scaled": pytest.approx(-0.475), "valence_scaled": 0.625},
        **{"segment_start_seconds": 15.0, "segment_end_seconds": 60.0, "genre": "Jazz"},
    }
    assert list(recording.labels) == list(Corpus(tmp_path).labels())


def test_all_annotated_songs_give_the_split_by_artist_or_the_published_sets(tmp_path: Path):
    ids = [
        (int(r.fields["song_id"]), r.fields["split"])
        for r in read_rows(SHIPPED / "emomusic_split.csv", what="", columns=())
    ]
    songs = [f"{n},{n}.mp3,A,T {n},0.0,0.45,Rock,{'evaluation' if s == 'test' else 'development'}" for n, s in ids]
    put(tmp_path, *songs, rated=tuple(f"{n},5,1,5,1" for n, _ in ids), clips=tuple(str(n) for n, _ in ids))
    assert Counter(r.split for r in listed(tmp_path).values()) == {"train": 504, "valid": 115, "test": 125}
    assert Counter(r.split for r in listed(tmp_path, split="published").values()) == {"train": 619, "test": 125}
    assert not any(r.problem for r in listed(tmp_path).values())


@pytest.mark.parametrize("text, seconds", [("0.15", 15), ("1.2", 80), ("1", 60), ("2.05", 125), ("0.0", 0)])
def test_min_sec_counts_minutes_and_seconds_also_without_its_last_zero(text: str, seconds: float):
    assert min_sec(text) == seconds


@pytest.mark.parametrize("text", ["", "1.60", "1.123", "-1.0", "1:20", "x", "1.2.3"])
def test_other_times_are_refused(text: str):
    with pytest.raises(ValueError, match="no time in minutes and seconds"):
        min_sec(text)


@pytest.mark.parametrize(
    "song, rating, problem",
    [
        ("2,2.mp3,A,T,0.15,1.0,Jazz", RATING, "it has 7 fields where the header has 8"),
        (SONG, "2,3.1,0.9,7.5", "it has 4 fields where the header has 5"),
        (SONG, "2,three,0.9,7.5,1.2", "a number of its row is none: could not convert string to float: 'three'"),
        (SONG, "2,nan,0.9,7.5,1.2", "its ratings are not from 1 to 9"),
        (SONG, "2,9.5,0.9,7.5,1.2", "its ratings are not from 1 to 9"),
        (SONG.replace("0.15", "0.75"), RATING, "'0.75' is no time in minutes and seconds"),
        (SONG.replace("0.15", "1.30"), RATING, "its segment ends before it begins"),
        (SONG.replace("development", "training"), RATING, "its set is neither development nor evaluation: 'training'"),
        (SONG.replace("2.mp3", "../2.mp3"), RATING, "its file_name is not that of its song_id: '../2.mp3'"),
        (SONG.replace("2.mp3", "/etc/passwd"), RATING, "its file_name is not that of its song_id: '/etc/passwd'"),
        (SONG.replace("2,2.mp3", "7,7.mp3"), RATING, "songs_info.csv does not list it"),
        (f"{SONG}\n{SONG}", RATING, "its song_id stands in two lines"),
        (SONG, "two,3.1,0.9,7.5,1.2", "its song_id is no number: 'two'"),
        (SONG, f"{RATING}\n{RATING}", "its id is listed twice"),
        (SONG, "2000,3.1,0.9,7.5,1.2", "songs_info.csv does not list it"),
    ],
)
def test_a_wrong_row_costs_its_song_alone(tmp_path: Path, song: str, rating: str, problem: str):
    good = "5,5.mp3,A,T,0.0,0.45,Folk,development"
    put(tmp_path, song, good, rated=(rating, "5,5,1,5,1"), clips=("2", "5"))
    found = listed(tmp_path)
    assert found["0005"].problem == ""
    assert any(problem in r.problem for r in found.values()), [r.problem for r in found.values()]
    assert all((r.path.startswith(CLIPS) or r.path == RATINGS) and ".." not in r.path for r in found.values())


def test_songs_without_a_clip_and_clips_without_ratings_are_rejected(tmp_path: Path):
    put(tmp_path, SONG, SONG.replace("2,2", "3,3"), rated=(RATING, "3,5,1,5,1"), clips=("2", "999"))
    assert {r.recording_id: r.problem for r in listed(tmp_path).values()} == {
        "0002": "",
        "0003": "its audio is not there",
        "0999": "static_annotations.csv does not list it",
    }


def test_tables_are_also_found_in_their_own_folder(tmp_path: Path):
    put(tmp_path, SONG)
    (tmp_path / "annotations").mkdir()
    for name in (SONGS, RATINGS):
        (tmp_path / name).rename(tmp_path / "annotations" / name)
    assert list(listed(tmp_path)) == ["0002"]


@pytest.mark.parametrize(
    "gone, cause",
    [
        (SONGS, "songs_info.csv cannot be read"),
        (RATINGS, "static_annotations.csv cannot be read"),
        (CLIPS, "is no folder"),
    ],
)
def test_a_half_downloaded_corpus_is_an_error_that_names_what_is_missing(tmp_path: Path, gone: str, cause: str):
    put(tmp_path, SONG, clips=())
    (tmp_path / gone).rmdir() if gone == CLIPS else (tmp_path / gone).unlink()
    with pytest.raises(DataProblem, match=cause):
        listed(tmp_path)


def test_tables_saved_in_another_encoding_are_an_error_with_the_remedy(tmp_path: Path):
    put(tmp_path, SONG)
    (tmp_path / SONGS).write_bytes((tmp_path / SONGS).read_text().replace("Artist", "Ärtist").encode("latin-1"))
    with pytest.raises(DataProblem, match=r"songs_info.csv, line 1: byte 0xc4 is not UTF-8.*iconv"):
        listed(tmp_path)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of the published form are not here")
def test_the_samples_of_the_published_form_are_read(tmp_path: Path):
    for name in (SONGS, RATINGS):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    (tmp_path / CLIPS).mkdir()
    for song in range(2, 14):
        (tmp_path / CLIPS / f"{song}.mp3").write_bytes(b"")
    found = listed(tmp_path, split="published")
    assert len(found) == 12 and not any(r.problem for r in found.values())
    assert found["0006"].labels["arousal"] == 1.6


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_short(emomusic, tmp_path_factory.mktemp("data") / "emomusic")


def test_rendered_songs_are_read_back_with_the_ratings_of_their_scores(rendered: Path):
    found = listed(rendered)
    assert {r.split for r in found.values()} == {"train", "valid", "test"}
    for piece in short_pieces(planned):
        recording = found[f"{song_id(piece):04}"]
        arousal, valence = ratings(piece.score())
        assert (recording.problem, recording.split) == ("", split_of(piece.number, len(STYLES)))
        assert recording.labels["arousal"] == round(arousal, 4) and recording.labels["valence"] == round(valence, 4)
        assert recording.labels["genre"] == piece.style
        clip = decode((rendered / recording.path).read_bytes())
        assert clip.sample_rate_hz == 44_100 and clip.seconds == pytest.approx(4.0, abs=0.1)
        assert is_rendered(rendered, piece)


def test_rendered_songs_are_in_the_published_sets_of_their_split_and_bear_other_ids(rendered: Path):
    published = {r.recording_id: r.split for r in listed(rendered, split="published").values()}
    by_artist = {name: r.split for name, r in listed(rendered).items()}
    assert published == {name: "train" if split == "valid" else split for name, split in by_artist.items()}
    assert min(int(name) for name in published) > 1000


def test_ratings_rise_with_tempo_and_with_major_and_stay_on_the_scale():
    (piece,) = planned(size={"tracks": 1}, seed=0)
    score = replace(piece, seconds=20.0).score()
    slow, fast = (ratings(replace(score, tempo_bpm=bpm, key="C major")) for bpm in (60.0, 160.0))
    sad = ratings(replace(score, tempo_bpm=60.0, key="C minor"))
    assert fast[0] > slow[0] and fast[1] > slow[1] > sad[1]
    assert all(1 <= rating <= 9 for rating in (*slow, *fast, *sad, *ratings(replace(score, tempo_bpm=900.0))))
