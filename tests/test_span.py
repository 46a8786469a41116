"""Spans packed as the text that their digest is taken over, and kept in a file: the same spans come out again."""

import errno
import os
import pickle
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan import WHOLE, ShardTask, SpanRule, shard_tasks, spans, usable_at
from pipelines.plan_file import PlanFile
from pipelines.recording import SPLITS, Recording
from pipelines.span import Span
from shards.problem import EnvironmentProblem
from shards.store import digest_of

CONTRACTS = {"labels": {"é": {"type": "int", "classes": None}}, "examples": {"span_seconds": 3.0}}
WORDS = st.text(max_size=6).filter(lambda text: text.isprintable() or text < "\ud800")
VALUES = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
TIMES = st.floats(0, 1e6) | st.integers(0, 10**6)
EVENTS = st.lists(st.tuples(TIMES, TIMES, VALUES), max_size=3).map(tuple)
RECORDINGS = st.lists(
    st.builds(
        Recording,
        recording_id=st.just(""),
        path=WORDS,
        split=st.sampled_from(SPLITS),
        labels=st.dictionaries(WORDS, VALUES | st.lists(VALUES, max_size=3).map(tuple), max_size=3),
        seconds=st.none() | st.floats(0.1, 20),
        problem=st.sampled_from(["", "", "broken: \u2028\n"]),
        events=st.dictionaries(WORDS, EVENTS, max_size=2),
        parts=st.lists(WORDS, max_size=2).map(tuple),
        segment=st.none() | st.tuples(TIMES, TIMES),
        group=st.sampled_from(["", "", "g"]),
    ),
    max_size=12,
)


def named(listing: list[Recording]) -> list[Recording]:
    fields = [{name: getattr(one, name) for name in Recording.__slots__} for one in listing]
    return [Recording(**{**one, "recording_id": f"r{number}"}) for number, one in enumerate(fields)]


def planned(listing: list[Recording], rule: SpanRule) -> list[ShardTask]:
    return list(shard_tasks(spans(listing, rule), shard_examples=5, contracts=CONTRACTS))


@given(listing=RECORDINGS.map(named), rule=st.sampled_from([WHOLE, SpanRule(3.0), SpanRule(2, 1.5, "keep")]))
def test_what_is_packed_comes_out_again_from_memory_from_the_file_and_in_another_process(
    listing: list[Recording], rule: SpanRule
):
    by_split: dict[str, list[Span]] = defaultdict(list)
    for span in spans(listing, rule):
        by_split[span.recording.split].append(span)
    file = PlanFile()
    for task in planned(listing, rule):
        expected, by_split[task.split] = (
            by_split[task.split][: len(task.spans)],
            by_split[task.split][len(task.spans) :],
        )
        kept = file.keep(task)
        assert list(task.spans) == list(kept.spans) == list(pickle.loads(pickle.dumps(kept)).spans) == expected
        assert [repr(span) for span in kept.spans] == [repr(span) for span in pickle.loads(pickle.dumps(kept)).spans]
        assert (len(kept.spans), kept.spans[-1]) == (len(expected), expected[-1])
        assert task.usable == sum(not span.recording.problem for span in expected)
    assert not any(by_split.values())


@given(listing=RECORDINGS.map(named))
def test_the_digest_is_that_of_the_canonical_json_of_all_that_decides_the_bytes(listing: list[Recording]):
    for task in planned(listing, SpanRule(3.0)):
        recordings = {span.recording.recording_id: span.recording for span in task.spans}
        pieces = [[s.index, s.recording.recording_id, s.start_seconds, s.seconds, s.is_piece] for s in task.spans]
        content = {
            name: [one.path, one.labels, one.events, one.parts, one.segment, one.problem]
            for name, one in recordings.items()
        }
        assert task.digest == digest_of({"spans": pieces, "recordings": content, "contracts": CONTRACTS})


@given(listing=RECORDINGS.map(named))
def test_splits_that_alternate_are_planned_as_each_would_be_alone(listing: list[Recording]):
    together = {(task.split, task.number): task.digest for task in planned(listing, SpanRule(3.0))}
    alone = {
        (task.split, task.number): task.digest
        for split in SPLITS
        for task in planned([one for one in listing if one.split == split], SpanRule(3.0))
    }
    assert together == alone


@given(listing=RECORDINGS.map(named), share=st.floats(0, 1))
def test_usable_spans_are_found_by_their_places(listing: list[Recording], share: float):
    tasks = planned([one for one in listing if one.split == "train"], WHOLE)
    usable = [span for task in tasks for span in task.spans if not span.recording.problem]
    places = [place for place in range(len(usable)) if place % 3 < 3 * share]
    assert list(usable_at(tasks, places)) == [usable[place] for place in places]  # type: ignore[arg-type]


def test_a_full_disk_names_the_folder_and_the_remedy(monkeypatch: pytest.MonkeyPatch):
    (task,) = planned([Recording("a", "a.wav", "train")], WHOLE)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = PlanFile()
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(EnvironmentProblem, match=r"No space left.*TMPDIR"):
        file.keep(task)
