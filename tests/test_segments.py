"""AudioSet's segment lists as users have them: in other folders, cut short, spoilt, saved again, listed twice."""

import codecs
import json
from pathlib import Path

import pytest

from pipelines.published.ontology import MUSIC
from shards.problem import DataProblem
from tests.segment_lists import (
    GUITAR,
    HEADER,
    SPEECH,
    YTID,
    excerpts,
    listed,
    put,
    row,
    write_list,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return excerpts(tmp_path)


@pytest.mark.parametrize("folder", ["", "metadata", "csv"])
def test_lists_and_ontology_may_lie_in_the_folders_where_downloaders_put_them(tmp_path: Path, folder: str):
    write_list(tmp_path / folder, "balanced_train", row(labels="/m/jazz"))
    nodes = [{"id": MUSIC, "child_ids": ["/m/jazz"]}, {"id": "/m/jazz", "child_ids": []}]
    (tmp_path / folder / "ontology.json").write_text(json.dumps(nodes))
    (tmp_path / folder / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/jazz,"Jazz, all of it"\n')
    put(tmp_path / "wavs" / f"{YTID}.wav")
    (recording,) = listed(tmp_path)
    assert (recording.labels["tags"], recording.labels["names"]) == ((1,), ("Jazz, all of it",))


def test_a_folder_without_a_list_says_which_files_belong_there(tmp_path: Path):
    with pytest.raises(DataProblem, match=r"none of balanced_train_segments.csv.*Check --root"):
        listed(tmp_path)
    with pytest.raises(DataProblem, match=r"holds none of balanced_train_segments.csv"):
        listed(tmp_path / "absent")


def test_one_missing_list_is_fine(root: Path):
    (root / "unbalanced_train_segments.csv").unlink()
    assert {recording.labels["list"] for recording in listed(root)} == {"balanced_train", "eval"}


def test_a_half_downloaded_list_is_told_by_its_header(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_list(tmp_path, "eval", row(), f'{YTID}, 50.0, 60.0, "/m/04', header=HEADER.format(n=20_371))
    put(tmp_path / f"{YTID}.wav")
    _, cut = listed(tmp_path)
    assert "has 2 of the 20371 segments that its header promises" in caplog.text
    assert (cut.recording_id, cut.path, cut.split) == ("eval--line-5", "eval_segments.csv", "test")
    assert cut.problem == "line 5: its positive_labels is '\"/m/04'"


@pytest.mark.parametrize(
    "line, reason",
    [
        ('#NAME?, 30.000, 40.000, "/m/04rlf"', "its YTID is '#NAME?'"),
        ("-Name?, 30.000, 40.000", "it has 3 columns, not 4"),
        ('short, 30.000, 40.000, "/m/04rlf"', "its YTID is 'short'"),
        ('../../../etc, 30.000, 40.000, "/m/04rlf"', "its YTID is '../../../etc'"),
        ('abcdefghij/, 30.000, 40.000, "/m/04rlf"', "its YTID is 'abcdefghij/'"),
        ('abcdefghijé, 30.000, 40.000, "/m/04rlf"', "its YTID is 'abcdefghijé'"),
        ('abcdefghijk, nan, 40.000, "/m/04rlf"', "its start_seconds is 'nan'"),
        ('abcdefghijk, -1.0, 40.000, "/m/04rlf"', "its start_seconds is '-1.0'"),
        ('abcdefghijk, 30.000, 1e99, "/m/04rlf"', "its end_seconds is '1e99'"),
        ('abcdefghijk, 30.000, 40.000, ""', "its positive_labels is '\"\"'"),
        ('abcdefghijk, 30.000, 40.000, "/m/04rlf, guitar"', "its positive_labels is"),
        ('abcdefghijk, 40.000, 30.000, "/m/04rlf"', "line 2 ends it at 30.0 s, not after its start"),
        ("", ""),
        ("YTID, start_seconds, end_seconds, positive_labels", ""),
    ],
)
def test_a_malformed_row_is_rejected_with_its_line_and_costs_no_other(tmp_path: Path, line: str, reason: str):
    write_list(tmp_path, "eval", row(), line, row(start="50", end="60"))
    put(tmp_path / f"{YTID}.wav")
    recordings = listed(tmp_path)
    usable = [recording.recording_id for recording in recordings if not recording.problem]
    assert usable == [f"{YTID}_30000", f"{YTID}_50000"]
    problems = [recording.problem for recording in recordings if recording.problem]
    assert len(problems) == bool(reason)
    assert all(reason in problem and "line 2" in problem for problem in problems)


@pytest.mark.parametrize("content", ["", "<html>not found</html>\n", HEADER.format(n=2), f"{YTID};30;40;{MUSIC}\n"])
def test_a_list_of_which_nothing_can_be_read_is_an_error(tmp_path: Path, content: str):
    (tmp_path / "eval_segments.csv").write_text(content)
    put(tmp_path / f"{YTID}.wav")
    with pytest.raises(DataProblem, match=r"eval_segments.csv has no row that can be read .*Download it again"):
        listed(tmp_path)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: ("# décembre\n" + text).encode("latin-1"),
    ],
)
def test_lists_saved_again_by_a_spreadsheet_are_read_all_the_same(tmp_path: Path, encode):
    (tmp_path / "eval_segments.csv").write_bytes(encode(f"{row()}\n{row(start='50', end='60')}\n"))
    put(tmp_path / f"{YTID}.wav")
    assert [recording.problem for recording in listed(tmp_path)] == ["", ""]


@pytest.mark.parametrize("form", ['"{y}",30.0,40.0,"{m}"', "{y},30,40,{m}", '{y}, 30.000, 40.000, "{m}"  '])
def test_lists_saved_again_with_other_quotes_and_spaces_are_read_all_the_same(tmp_path: Path, form: str):
    write_list(tmp_path, "eval", form.format(y=YTID, m=f"{MUSIC},{GUITAR}"))
    put(tmp_path / f"{YTID}.wav")
    (recording,) = listed(tmp_path)
    assert recording.labels["mids"] == (MUSIC, GUITAR)


def test_a_segment_listed_twice_is_used_once(tmp_path: Path):
    write_list(tmp_path, "balanced_train", row())
    write_list(tmp_path, "unbalanced_train", row(), row(labels=MUSIC))
    put(tmp_path / f"{YTID}.wav")
    recordings = listed(tmp_path)
    assert [recording.problem for recording in recordings] == [
        "",
        "line 1 of balanced_train already lists a segment that starts there",
        "line 1 of unbalanced_train already lists a segment that starts there",
    ]
    assert len({recording.recording_id for recording in recordings}) == 3


def test_a_video_of_eval_is_never_trained_on(tmp_path: Path):
    write_list(tmp_path, "balanced_train", row())
    write_list(tmp_path, "eval", row(start="50", end="60"))
    put(tmp_path / f"{YTID}.wav")
    train, test = listed(tmp_path)
    assert train.problem == "its video is in eval too: training on it would make the test known"
    assert (test.split, test.problem) == ("test", "")


def test_labels_that_nobody_knows_keep_their_id_as_name(tmp_path: Path):
    write_list(tmp_path, "eval", row(labels=f"{MUSIC},/m/unknown"))
    put(tmp_path / f"{YTID}.wav")
    (recording,) = listed(tmp_path)
    assert recording.labels["names"] == ("Music", "/m/unknown")


def test_when_nothing_is_left_the_error_says_what_removed_how_many(tmp_path: Path):
    write_list(tmp_path, "eval", row(), row("other-video", labels=SPEECH), row("third-video", labels=SPEECH))
    put(tmp_path / "other-video.wav")
    with pytest.raises(DataProblem, match=r"lists have 3 segments, --below /m/04rlf removed 2, .*other 1 none has an"):
        listed(tmp_path)
    with pytest.raises(DataProblem, match=r"lists have 3 segments, --below /m/03qjg removed 3"):
        listed(tmp_path, below="/m/03qjg")
