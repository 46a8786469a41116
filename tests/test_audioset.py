"""AudioSet: its lists and ontology, good and bad, and audio named as downloaders name it."""

import logging
import os
import re
import shutil
import string
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpora.audioset import MISSING, Corpus, finish, is_rendered, planned, render_piece
from pipelines.music.compose import STYLES, compose
from pipelines.music.layouts.audioset import NAME_OF, RENDERED_PROXIES, STYLE_NAMES, labels_of
from pipelines.music.synthesis import SOUNDFONT
from pipelines.published.ontology import MUSIC, PUBLISHED, below, read_children, read_class_names
from shards.problem import DataProblem, UsageProblem
from tests.segment_lists import (
    EXCERPTS,
    GUITAR,
    YTID,
    excerpts,
    listed,
    published_rows,
    put,
    row,
    write_list,
)

REAL = Path(__file__).parents[2] / "shared" / "data" / "audioset"
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
LISTS = ("balanced_train", "unbalanced_train", "eval")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return excerpts(tmp_path)


# What is kept, and how it is labelled


def test_the_music_subset_is_every_segment_with_a_label_at_or_under_music(root: Path):
    music = below(MUSIC, read_children(PUBLISHED / "ontology.json"))
    expected = {
        row[0]: row[3].split(",")
        for name in LISTS
        for row in published_rows(root / f"{name}_segments.csv")
        if music & {*row[3].split(",")}
    }
    recordings = listed(root)
    assert {recording.labels["ytid"]: list(recording.labels["mids"]) for recording in recordings} == expected
    assert 0 < len(recordings) < 100
    assert all(recording.problem == "" for recording in recordings)


def test_labels_are_mids_names_and_one_flag_for_each_published_class_of_music(root: Path):
    names = read_class_names(PUBLISHED / "class_labels_indices.csv")
    music = below(MUSIC, read_children(PUBLISHED / "ontology.json"))
    classes = Corpus(root).labels()["tags"]["classes"]
    assert classes == [name for mid, name in names.items() if mid in music]
    assert len(classes) == 150
    for recording in listed(root):
        assert list(recording.labels) == list(Corpus(root).labels())
        assert recording.labels["names"] == tuple(names[mid] for mid in recording.labels["mids"])
        flagged = {name for name, flag in zip(classes, recording.labels["tags"], strict=True) if flag}
        assert flagged == {names[mid] for mid in recording.labels["mids"] if mid in music}


def test_another_node_or_everything_can_be_kept(root: Path):
    guitars = {"/m/0342h", "/m/02sgy", "/m/018vs", "/m/042v_gx", "/m/06w87", "/m/01glhc", "/m/07s0s5r"}
    assert {*guitars} >= {mid for r in listed(root, below=GUITAR) for mid in r.labels["mids"] if mid in guitars}
    assert all(guitars & {*recording.labels["mids"]} for recording in listed(root, below=GUITAR))
    everything = Corpus(root, below="all")
    assert len(list(everything.recordings())) == 100
    assert len(everything.labels()["tags"]["classes"]) == 527


def test_train_and_eval_become_train_valid_and_test_by_video(root: Path):
    recordings = listed(root, below="all", valid_share=0.3)
    lists = {"train": {"balanced_train", "unbalanced_train"}, "valid": {*LISTS[:2]}, "test": {"eval"}}
    assert all(recording.labels["list"] in lists[recording.split] for recording in recordings)
    counts = Counter(recording.split for recording in recordings)
    assert counts["test"] == 30
    assert 10 <= counts["valid"] <= 32
    again = {recording.recording_id: recording.split for recording in listed(root, below="all", valid_share=0.6)}
    assert all(again[r.recording_id] != "train" for r in recordings if r.split == "valid"), "shares nest"


def test_lists_can_be_chosen(root: Path):
    assert {r.labels["list"] for r in listed(root, lists=("eval", "balanced_train"))} == {"eval", "balanced_train"}
    with pytest.raises(UsageProblem, match=r"no list 'evl'.*Did you mean eval"):
        listed(root, lists=("evl",))
    with pytest.raises(UsageProblem, match="--valid-share is 1.5"):
        listed(root, valid_share=1.5)


def test_the_same_tree_gives_the_same_list_sorted_by_video(root: Path):
    assert listed(root) == listed(root)
    ids = [recording.recording_id for recording in listed(root)]
    assert ids == sorted(ids)
    assert len({*ids}) == len(ids)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published lists are not beside the repository")
def test_the_published_lists_give_the_counts_that_the_docs_state(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("balanced_train_segments.csv", "eval_segments.csv", "ontology.json", "class_labels_indices.csv"):
        shutil.copy(REAL / name, tmp_path)
    put(tmp_path / "--aE2O5G5WE.wav")
    with caplog.at_level(logging.INFO):
        recordings = listed(tmp_path)
    assert Counter(recording.split == "test" for recording in recordings) == {False: 8836, True: 7848}
    assert "22,160 segments  8,836 kept" in caplog.text and "20,371 segments  7,848 kept" in caplog.text
    assert "promises" not in caplog.text


# Where the audio lies


@pytest.mark.parametrize(
    "name, is_cut",
    [
        (f"{YTID}.wav", False),
        (f"Y{YTID}.mp3", False),
        (f"id_{YTID}.m4a", False),
        (f"{YTID}_30.flac", True),
        (f"{YTID}_30.000.wav", True),
        (f"{YTID}_000030.mp4", True),
        (f"{YTID}_30000.wav", True),
        (f"{YTID}_30_40.opus", True),
        (f"{YTID}_30.0-40.0.ogg", True),
        (f"{YTID}_30000_40000.flac", True),
        (f"Y{YTID}_30.WAV", True),
        (f"deep/er/{YTID[:2]}/{YTID}_30.Flac", True),
    ],
)
def test_audio_is_found_under_the_names_that_downloaders_give(tmp_path: Path, name: str, is_cut: bool):
    write_list(tmp_path, "eval", row())
    put(tmp_path / "audio" / name)
    (recording,) = listed(tmp_path)
    assert (recording.problem, recording.path) == ("", f"audio/{name}")
    assert recording.segment == (None if is_cut else (30.0, 40.0)), "only what may be a whole video is to be cut"
    assert recording.recording_id == f"{YTID}_30000"


@pytest.mark.parametrize(
    "name",
    [
        f"{YTID}_50.wav",
        f"{YTID}_30_50.wav",
        f"{YTID}_30_40_50.wav",
        f"{YTID}x.wav",
        f"{YTID[:-1]}.wav",
        f"{YTID.upper()}.wav",
        f"{YTID}.wav.part",
        f"{YTID}.part.wav",
        f"{YTID}.txt",
        f".{YTID}.wav",
        f".cache/{YTID}.wav",
        f"_{YTID}.wav",
    ],
)
def test_files_of_other_times_videos_and_kinds_are_not_taken(tmp_path: Path, name: str):
    write_list(tmp_path, "eval", row(), row("other-video", "0", "10"))
    put(tmp_path / "other-video.wav")
    put(tmp_path / name)
    missing = next(recording for recording in listed(tmp_path) if recording.recording_id == f"{YTID}_30000")
    assert (missing.problem, missing.labels) == (MISSING, {})


def test_a_name_that_says_the_times_comes_before_one_that_does_not_and_lossless_before_lossy(tmp_path: Path):
    write_list(tmp_path, "eval", row())
    order = [
        f"z/{YTID}_30_40.flac",
        f"{YTID}_30.mp3",
        f"{YTID}_30000.wav",
        f"{YTID}.wav",
        f"Y{YTID}.ogg",
        f"Y{YTID}.mp3",
    ]
    for name in order:
        put(tmp_path / name)
    while order:
        (recording,) = listed(tmp_path)
        assert recording.path == order[0]
        (tmp_path / order.pop(0)).unlink()
        put(tmp_path / "unrelated.wav")
        if not order:
            with pytest.raises(DataProblem):
                listed(tmp_path)


def test_times_are_seconds_where_a_segment_starts_there_and_milliseconds_otherwise(tmp_path: Path):
    write_list(tmp_path, "eval", row(start="1", end="11"), row(start="1000", end="1010"))
    put(tmp_path / f"{YTID}_1000.wav")
    by_start = {recording.recording_id: recording for recording in listed(tmp_path)}
    assert by_start[f"{YTID}_1000000"].path == f"{YTID}_1000.wav"
    assert by_start[f"{YTID}_1000"].problem == MISSING


def test_a_start_between_whole_seconds_is_found_under_its_whole_second(tmp_path: Path):
    write_list(tmp_path, "eval", row(start="239.800", end="249.800"))
    put(tmp_path / f"{YTID}_239.wav")
    (recording,) = listed(tmp_path)
    assert recording.path == f"{YTID}_239.wav"


def test_two_segments_of_one_video_share_the_file_of_the_whole_video(tmp_path: Path):
    write_list(tmp_path, "eval", row(), row(start="50", end="60"))
    put(tmp_path / f"{YTID}.webm")
    assert [recording.segment for recording in listed(tmp_path)] == [(30.0, 40.0), (50.0, 60.0)]


def test_an_id_that_could_be_read_in_two_ways_is_the_listed_one(tmp_path: Path):
    write_list(tmp_path, "eval", row("id_abcdefgh"), row("abcdefgh_30"))
    put(tmp_path / "id_abcdefgh_30.wav")
    first, second = listed(tmp_path)
    assert (first.path, first.segment) == ("id_abcdefgh_30.wav", (30.0, 40.0))
    assert (second.path, second.segment) == ("id_abcdefgh_30.wav", None)


@given(
    ytid=st.text("abzAYZ09-_", min_size=11, max_size=11),
    start_ms=st.integers(0, 2_000_000),
    form=st.sampled_from(
        ["{y}_{s}", "{y}_{s}_{e}", "{y}_{ms}_{me}", "{y}_{s}-{e}", "Y{y}_{ms}", "{y}", "Y{y}", "id_{y}"]
    ),
)
def test_whatever_the_id_and_the_start_its_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, ytid: str, start_ms: int, form: str
):
    root = tmp_path_factory.mktemp("habit")
    end_ms = start_ms + 10_000
    write_list(root, "eval", row(ytid, f"{start_ms / 1000:.3f}", f"{end_ms / 1000:.3f}"))
    put(root / (form.format(y=ytid, s=start_ms / 1000, e=end_ms / 1000, ms=start_ms, me=end_ms) + ".wav"))
    (recording,) = listed(root)
    assert (recording.problem, recording.recording_id) == ("", f"{ytid}_{start_ms}")


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path):
    write_list(tmp_path / "root", "eval", row())
    put(tmp_path / "disk" / f"{YTID}.wav")
    (tmp_path / "root" / "audio").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "root")
    (recording,) = listed(tmp_path / "root")
    assert recording.path == f"audio/{YTID}.wav"


def test_a_folder_whose_name_is_no_text_costs_its_own_files(tmp_path: Path):
    write_list(tmp_path, "eval", row(), row("other-video"))
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")) / f"{YTID}.wav")
    put(tmp_path / "other-video.wav")
    bad, good = listed(tmp_path)
    assert (bad.path, bad.problem) == (f"\\udce9/{YTID}.wav", "its path is not valid UTF-8")
    assert good.problem == ""


def test_missing_audio_keeps_its_place_and_is_counted_by_list(root: Path, caplog: pytest.LogCaptureFixture):
    whole = listed(root)
    for recording in whole[::2]:
        (root / recording.path).unlink()
    with caplog.at_level(logging.INFO):
        halved = listed(root)
    assert [recording.recording_id for recording in halved] == [recording.recording_id for recording in whole]
    assert [recording.problem for recording in halved] == [MISSING if n % 2 == 0 else "" for n in range(len(whole))]
    missing = Counter(recording.labels["list"] for recording in whole[::2])
    for name, count in missing.items():
        assert any(f"audioset  {name} " in line and f" {count} missing" in line for line in caplog.text.splitlines())


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips, one of them in eval: the quick part of 14 styles."""
    root = tmp_path_factory.mktemp("rendered") / "audioset"
    pieces = planned(size={"hours": 0.014}, seed=3)
    for piece in pieces:
        assert not is_rendered(root, piece)
        render_piece(root, piece, SOUNDFONT)
        assert is_rendered(root, piece)
    finish(root, pieces)
    return root


def test_a_rendered_corpus_is_read_back_with_exactly_its_labels(rendered: Path):
    pieces = {piece.ytid: piece for piece in planned(size={"hours": 0.014}, seed=3)}
    names = read_class_names(PUBLISHED / "class_labels_indices.csv")
    recordings = listed(rendered)
    assert {recording.labels["ytid"] for recording in recordings} == {*pieces}
    for recording in recordings:
        piece = pieces[recording.labels["ytid"]]
        wanted = labels_of(compose(piece.style, seconds=10.0, seed=(3, piece.number)))
        assert (recording.problem, recording.labels["list"], recording.segment) == ("", piece.listed, None)
        assert recording.labels["mids"] == tuple(wanted)
        assert recording.labels["names"] == tuple(names[mid] for mid in wanted)
        assert sum(recording.labels["tags"]) == len(wanted)
        assert recording.labels["start_seconds"] == piece.start_seconds
    assert {recording.split for recording in recordings if recording.labels["list"] == "eval"} == {"test"}


def test_rendered_clips_are_ten_seconds_of_stereo_that_sound(rendered: Path):
    for recording in listed(rendered):
        sound, sample_rate_hz = soundfile.read(rendered / recording.path)
        assert (sample_rate_hz, sound.shape) == (44_100, (441_000, 2))
        assert 0.1 < abs(sound).max() < 1.0


def test_a_clip_is_the_same_bytes_whatever_was_rendered_before(rendered: Path, tmp_path: Path):
    piece = planned(size={"hours": 0.014}, seed=3)[2]
    render_piece(tmp_path, piece, SOUNDFONT)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} == {".flac", ".json"}
    assert all(path.read_bytes() == (rendered / path.relative_to(tmp_path)).read_bytes() for path in written)


def test_a_rendering_without_its_lists_is_told_to_be_unfinished(tmp_path: Path):
    (tmp_path / "rendered.json").write_text("{}")
    with pytest.raises(DataProblem, match=r"was interrupted.*Repeat the command"):
        listed(tmp_path)


@given(seed=st.integers(0, 2**32), hours=st.floats(0.01, 0.2))
def test_no_rendered_id_can_be_that_of_a_video(seed: int, hours: float):
    ytids = [piece.ytid for piece in planned(size={"hours": hours}, seed=seed)]
    assert len({*ytids}) == len(ytids)
    for ytid in ytids:
        assert re.fullmatch(r"[\w-]{11}", ytid, re.ASCII)
        bits = "".join(f"{LETTERS.index(letter):06b}" for letter in ytid)
        assert bits[64:] != "00", "a YTID is 64 bits in 11 letters, so that the last two bits are zero"


def test_published_ids_are_of_64_bits():
    for path in EXCERPTS.glob("*.csv"):
        assert all(LETTERS.index(ytid[-1]) % 4 == 0 for ytid, *_ in published_rows(path))


@pytest.mark.parametrize("hours", [0.001, 1e9])
def test_sizes_that_make_no_corpus_are_refused(hours: float):
    with pytest.raises(UsageProblem, match="--hours"):
        planned(size={"hours": hours}, seed=0)


@pytest.mark.parametrize("style", STYLES)
def test_labels_name_style_and_every_instrument_and_all_that_lies_above_them(style: str):
    score = compose(style, seconds=10.0, seed=(1, 2))
    names = read_class_names(PUBLISHED / "class_labels_indices.csv")
    children = read_children(PUBLISHED / "ontology.json")
    labels = labels_of(score)
    assert {*STYLE_NAMES[style]} <= {names[mid] for mid in labels}
    assert MUSIC in labels
    assert labels == sorted({*labels})
    for parent, inside in children.items():
        if parent in names and any(mid in labels for mid in inside):
            assert parent in labels, f"{names[parent]} is missing"
    drums = any(part.is_drum and part.notes for part in score.parts)
    assert ("Drum kit" in {names[mid] for mid in labels}) == drums


def test_every_style_and_every_program_that_plays_has_a_published_name():
    names = {*read_class_names(PUBLISHED / "class_labels_indices.csv").values()}
    assert STYLE_NAMES.keys() == {*STYLES}
    assert {name for style in STYLE_NAMES.values() for name in style} | {*RENDERED_PROXIES} <= names
    for style in STYLES:
        for seed in range(20):
            score = compose(style, seconds=10.0, seed=(seed,))
            programs = {part.program for part in score.parts if part.notes and not part.is_drum}
            assert {NAME_OF[program] for program in programs} <= names
