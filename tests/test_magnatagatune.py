"""MagnaTagATune: its tables and folders, 50 ordered tags, the usual splits, bad rows and paths, rendered clips."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpora import magnatagatune
from pipelines.corpora.magnatagatune import CORRUPT, SPLIT_LIST, Corpus, is_rendered, planned
from pipelines.music.compose import STYLES
from pipelines.music.layouts.magnatagatune import (
    ALL_TAGS,
    ANNOTATIONS,
    CLIPS,
    TAGS,
    clip_id,
    mp3_path,
    split_of,
    tags_of,
)
from pipelines.music.layouts.tracks import write_table
from pipelines.music.score import Note, Part
from pipelines.recording import Recording
from shards.decode import decode
from shards.problem import DataProblem
from tests.rendering import render_short, short_pieces

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "annotations"
CLIP_COLUMNS = ("clip_id", "title", "segmentStart", "segmentEnd", "mp3_path")


def put(root: Path, *clips: tuple[str, str, str], audio: bool = True, columns: tuple[str, ...] = ALL_TAGS) -> Path:
    """Clips of (clip_id, mp3_path, tags between commas)."""
    rows = [(clip, *(int(tag in tags.split(",")) for tag in columns), path) for clip, path, tags in clips]
    write_table(root / ANNOTATIONS, [("clip_id", *columns, "mp3_path"), *rows], delimiter="\t", is_quoted=True)
    listing = [(clip, "title", "0", "29", path) for clip, path, _ in clips]
    write_table(root / CLIPS, [CLIP_COLUMNS, *listing], delimiter="\t", is_quoted=True)
    (root / "0").mkdir(exist_ok=True)
    for _, path, _ in clips if audio else ():
        put_audio(root, path)
    return root


def put_audio(root: Path, path: str) -> None:
    if ".." not in path and not path.startswith("/"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def listed(root: Path, **options: str) -> dict[str, Recording]:
    return {recording.recording_id: recording for recording in Corpus(root, **options).recordings()}


def test_a_clip_has_a_flag_for_each_of_the_50_tags_in_the_usual_order(tmp_path: Path):
    (recording,) = Corpus(put(tmp_path, ("2", "f/a-30-59.mp3", "classical,opera,violin,duet"))).recordings()
    assert (recording.recording_id, recording.path, recording.split) == ("00002", "f/a-30-59.mp3", "test")
    classes = Corpus(tmp_path).labels()["tags"]["classes"]
    assert [tag for tag, flag in zip(classes, recording.labels["tags"], strict=True) if flag] == [
        "classical",
        "violin",
        "opera",
    ]
    assert classes[:3] == ["guitar", "classical", "slow"] and classes[-1] == "choral"


def test_there_are_188_tags_and_50_of_them_count():
    assert (len({*ALL_TAGS}), len({*TAGS})) == (188, 50)
    assert {*TAGS} < {*ALL_TAGS}


def test_folders_decide_the_split_as_usual(tmp_path: Path):
    put(tmp_path, *((str(n), f"{n:x}/a.mp3", "rock") for n in range(16)))
    splits = Counter(r.split for r in listed(tmp_path).values())
    assert splits == {"train": 12, "valid": 1, "test": 3}


def test_the_three_corrupt_clips_are_rejected_with_that_reason(tmp_path: Path):
    put(tmp_path, *((clip, "6/a.mp3", "rock") for clip in CORRUPT), ("1", "1/a.mp3", "rock"))
    problems = {name: r.problem for name, r in listed(tmp_path).items()}
    assert problems == {"00001": "", **dict.fromkeys(CORRUPT, "it is published as an empty file")}


def test_clips_without_a_common_tag_are_kept_or_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    put(tmp_path, ("1", "1/a.mp3", "duet"), ("2", "2/a.mp3", "rock"))
    assert sum(listed(tmp_path)["00001"].labels["tags"]) == 0
    assert list(listed(tmp_path, untagged="drop")) == ["00002"]
    assert "left out 1: they have none of the 50 tags" in caplog.text


def test_when_a_filter_removes_everything_the_error_says_so(tmp_path: Path):
    put(tmp_path, ("1", "1/a.mp3", "duet"), ("2", "2/a.mp3", ""))
    with pytest.raises(DataProblem, match="None of the 2 .*left out 2: they have none of the 50 tags"):
        listed(tmp_path, untagged="drop")


def test_a_users_split_list_decides_and_leaves_the_others_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    put(tmp_path, ("1", "1/a.mp3", "rock"), ("2", "2/a.mp3", "rock"), ("3", "3/a.mp3", "rock"))
    (tmp_path / SPLIT_LIST).write_text("clip_id,split\n00001,test\n00002,excluded\n")
    assert {name: r.split for name, r in listed(tmp_path, split="list").items()} == {"00001": "test"}
    assert "left out 2: the split list leaves them out" in caplog.text


def test_a_missing_split_list_is_named_with_where_it_belongs(tmp_path: Path):
    put(tmp_path, ("1", "1/a.mp3", "rock"))
    with pytest.raises(DataProblem, match=f"{tmp_path / SPLIT_LIST} cannot be read .*Put the published file there"):
        listed(tmp_path, split="list")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.mp3", "0/../../a.mp3", "0/..", "g/a.mp3", "", "0\\a.mp3", "0/a/b.mp3"]
)
def test_paths_that_lead_elsewhere_are_refused_and_name_no_file(tmp_path: Path, path: str):
    put(tmp_path, ("1", "1/a.mp3", "rock"), ("2", path, "rock"), audio=False)
    put_audio(tmp_path, "1/a.mp3")
    bad = listed(tmp_path)["00002"]
    assert bad.problem == f"its mp3_path is not FOLDER/NAME with a folder of 0 to f: {path!r}"
    assert bad.path == ANNOTATIONS


@given(path=st.text(max_size=20), clip=st.text(max_size=6))
def test_whatever_a_row_holds_ids_are_unique_and_no_path_leaves_the_corpus(tmp_path: Path, path: str, clip: str):
    put(tmp_path, ("1", "1/a.mp3", "rock"), (clip, path, "rock"), audio=False)
    put_audio(tmp_path, "1/a.mp3")
    found = list(Corpus(tmp_path).recordings())
    assert len({r.recording_id for r in found}) == len(found)
    assert all((tmp_path / r.path).resolve().is_relative_to(tmp_path.resolve()) for r in found)
    assert all(r.recording_id.replace("-", "").replace("_", "").isalnum() and r.recording_id.isascii() for r in found)


def test_wrong_rows_cost_their_clip_alone(tmp_path: Path):
    put(tmp_path, *((str(n), f"{n}/a.mp3", "rock") for n in range(1, 6)))
    lines = (tmp_path / ANNOTATIONS).read_text().splitlines()
    lines[2] = lines[2].replace('"1"', '"x"')
    lines[3] = lines[3].rpartition("\t")[0]
    lines[4] = lines[4].replace('"4"', '"four"', 1)
    (tmp_path / ANNOTATIONS).write_text("\n".join((*lines, lines[1])) + "\n")
    problems = sorted(r.problem.partition(":")[0] for r in listed(tmp_path).values())
    assert problems == [
        "",
        "",
        "a tag is neither 0 nor 1",
        "it has 189 fields where the header has 190",
        "its clip_id is no number",
        "its id is listed twice",
    ]


def test_missing_audio_other_paths_and_unlisted_files_are_rejected_and_untagged_clips_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    put(tmp_path, *((str(n), f"{n}/a.mp3", "rock") for n in range(1, 4)))
    (tmp_path / "1/a.mp3").unlink()
    clips = (tmp_path / CLIPS).read_text().replace("2/a.mp3", "2/b.mp3")
    (tmp_path / CLIPS).write_text(clips + '"9"\t"t"\t"0"\t"29"\t"9/a.mp3"\n')
    for path in ("9/a.mp3", "8/stray.mp3", "8/Thumbs.db"):
        put_audio(tmp_path, path)
    problems = {r.path: r.problem for r in listed(tmp_path).values()}
    assert problems == {
        "1/a.mp3": "its audio is not there",
        "2/a.mp3": "clip_info_final.csv does not give it the same mp3_path: '2/a.mp3'",
        "3/a.mp3": "",
        "8/stray.mp3": "neither annotations_final.csv nor clip_info_final.csv lists it",
    }
    assert "left out 1: nobody tagged them" in caplog.text


def test_a_copy_whose_commonest_tags_are_others_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, ("1", "1/a.mp3", "rock,duet"), ("2", "2/a.mp3", ",".join(TAGS)))
    list(Corpus(tmp_path).recordings())
    assert "duet are more frequent" not in caplog.text
    put(tmp_path, ("1", "1/a.mp3", "rock,duet"), ("2", "2/a.mp3", "rock,duet"))
    list(Corpus(tmp_path).recordings())
    assert "duet are more frequent in it than the rarest of the usual 50 tags" in caplog.text


@pytest.mark.parametrize(
    "name, cause",
    [(ANNOTATIONS, "so the tags of every clip is not known"), (CLIPS, "so which clip is which is not known")],
)
def test_a_half_downloaded_corpus_is_an_error_that_names_the_table(tmp_path: Path, name: str, cause: str):
    put(tmp_path, ("1", "1/a.mp3", "rock"))
    (tmp_path / name).unlink()
    with pytest.raises(DataProblem, match=f"{name} cannot be read.*{cause}"):
        listed(tmp_path)


def test_tables_without_audio_are_an_error_with_the_remedy(tmp_path: Path):
    put(tmp_path, ("1", "1/a.mp3", "rock"), audio=False)
    with pytest.raises(DataProblem, match=r"rejected 1: its audio is not there.*Join mp3\.zip\.001"):
        listed(tmp_path)
    (tmp_path / "0").rmdir()
    with pytest.raises(DataProblem, match="holds none of the folders 0 to f"):
        listed(tmp_path)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of the published form are not here")
def test_the_samples_of_the_published_form_are_read(tmp_path: Path):
    for name in (ANNOTATIONS, CLIPS):
        (tmp_path / name).write_bytes((SAMPLES / "magnatagatune" / name).read_bytes())
    for line in (tmp_path / CLIPS).read_text().splitlines()[1:]:
        put_audio(tmp_path, line.split("\t")[-1].strip('"'))
    found = listed(tmp_path)
    assert not any(r.problem for r in found.values())
    assert found["00100"].path == "4/mp3_cbr128.mp3" and found["00100"].split == "train"


# Rendering


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_short(magnatagatune, tmp_path_factory.mktemp("data") / "magnatagatune")


def test_rendered_clips_are_read_back_with_the_tags_of_their_scores(rendered: Path):
    found = listed(rendered)
    assert {r.split for r in found.values()} == {"train", "valid", "test"}
    for piece in short_pieces(planned):
        recording = found[f"{clip_id(piece):05}"]
        assert (recording.problem, recording.split, recording.path) == ("", split_of(mp3_path(piece)), mp3_path(piece))
        tags = tags_of(piece.score())
        assert recording.labels["tags"] == tuple(int(tag in tags) for tag in TAGS)
        clip = decode((rendered / recording.path).read_bytes())
        assert clip.sample_rate_hz == 16_000 and clip.seconds == pytest.approx(4.0, abs=0.2)
        assert is_rendered(rendered, piece)
        assert clip_id(piece) > 58_920


def test_a_table_that_is_rendered_has_all_columns_of_the_published_one(rendered: Path):
    header = (rendered / ANNOTATIONS).read_text().splitlines()[0]
    assert header == "\t".join(f'"{column}"' for column in ("clip_id", *ALL_TAGS, "mp3_path"))


@pytest.mark.parametrize("number", range(14))
def test_tags_of_any_score_are_among_the_published_ones(number: int):
    piece = planned(size={"tracks": 14}, seed=1)[number]
    tags = tags_of(piece.score())
    assert tags <= {*ALL_TAGS}
    assert tags & {*TAGS}


def test_tags_say_tempo_instruments_and_what_is_not_there():
    piece = planned(size={"tracks": 1}, seed=0)[0]
    violin = Part("lead", 40, False, "Strings", (Note(0.0, 1.0, 69, 80),), 0.0, 0.0)
    silent = Part("keys", 0, False, "Piano", (), 0.0, 0.0)
    score = replace(piece.score(), style="classical", tempo_bpm=60.0, parts=(violin, silent))
    assert {"violin", "strings", "slow", "solo", "classical", "no piano", "no drums", "no vocals"} <= tags_of(score)
    assert not {"piano", "fast", "no violin"} & tags_of(score)
    choir = replace(violin, program=52)
    drums = replace(violin, is_drum=True, program=0)
    sung = tags_of(replace(score, tempo_bpm=150.0, parts=(choir, drums)))
    assert {"choir", "drums", "fast"} <= sung and not {"no vocals", "no drums", "slow", "solo", "piano"} & sung


def test_a_plan_puts_every_style_into_the_folders_of_all_splits():
    pieces = planned(size={"tracks": 16 * len(STYLES)}, seed=0)
    splits = Counter((piece.style, split_of(mp3_path(piece))) for piece in pieces)
    assert all((splits[s, "train"], splits[s, "valid"], splits[s, "test"]) == (12, 1, 3) for s in STYLES)
