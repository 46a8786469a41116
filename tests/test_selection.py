"""What a corpus keeps of what it lists: order, single ids, counts, and an error that says what removed everything."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.published.selection import is_inside, selected
from pipelines.recording import SPLITS, Recording
from shards.problem import DataProblem


def account(recordings: list[Recording], **left_out: int) -> list[Recording]:
    return selected(recordings, corpus="gtzan", root=Path("data"), left_out=left_out, remedy="Unpack it.")


@given(names=st.lists(st.sampled_from(["a", "b", "c", "a--2"]), min_size=1), data=st.data())
def test_every_id_is_once_and_the_order_is_by_split_and_id(names: list[str], data: st.DataObject):
    listed = [Recording(name, f"{name}.wav", data.draw(st.sampled_from(SPLITS)), {"x": 1}) for name in names]
    kept = account(listed)
    assert len({recording.recording_id for recording in kept}) == len(kept) == len(listed)
    assert [(r.split, r.recording_id) for r in kept] == sorted((r.split, r.recording_id) for r in kept)
    assert {r.recording_id for r in kept if not r.problem} <= {*names}
    assert all(bool(r.problem) != bool(r.labels) for r in kept)


def test_counts_are_said_once_by_split_by_cause_and_by_rule(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    listed = [Recording("a", "a", "train"), Recording("b", "b", "test", problem="its tag is wrong: 'x'")]
    listed.append(Recording("c", "c", "test", problem="its tag is wrong: 'y'"))
    account(listed, untagged=7, doubtful=0)
    assert caplog.messages == ["gtzan  train 1  valid 0  test 0  rejected 2: its tag is wrong  left out 7: untagged"]


def test_when_nothing_is_left_the_error_says_which_filter_removed_how_many():
    with pytest.raises(DataProblem) as caught:
        account([Recording("a", "a", "train", problem="its audio is not there")], untagged=7)
    assert "None of the 8 recordings that data lists for gtzan can be used" in str(caught.value)
    assert "rejected 1: its audio is not there  left out 7: untagged" in str(caught.value)
    assert str(caught.value).endswith("Unpack it.")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../b", "a/..", "a//b", "./a", "a\\b", "C:/a", "a\0b"])
def test_paths_that_could_leave_their_folder_are_known(path: str):
    assert not is_inside(path)


def test_plain_paths_stay_inside():
    assert is_inside("f/american_bach-04-..-30-59.mp3")
