"""Plans partition the listing, whatever happens later; spans cover their recordings, and groups stay whole."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.plan import WHOLE, SpanRule, shard_tasks, spans
from pipelines.recording import Recording
from shards.problem import UsageProblem

_CONTRACTS = {"mel": {"fingerprint": "a"}}
SECONDS = st.one_of(st.floats(0.05, 100), st.integers(1, 1_000_000).map(lambda samples: samples / 16_000))
RULES = st.builds(
    SpanRule,
    span_seconds=st.floats(0.5, 30),
    hop_seconds=st.none() | st.floats(0.5, 40),
    last=st.sampled_from(["drop", "keep"]),
)
GROUPS = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.floats(0.5, 60)), max_size=25)


def recordings(count: int) -> list[Recording]:
    return [Recording(f"note-{number}", f"{number}.wav", "train", {"pitch": number}, 4.0) for number in range(count)]


def grouped(listing: list[tuple[str, float]]) -> list[Recording]:
    return [
        Recording(f"{number}", f"{number}.wav", "train", {}, seconds, group=group)
        for number, (group, seconds) in enumerate(listing)
    ]


def pieces_of(seconds: float, rule: SpanRule) -> list[tuple[float, float]]:
    planned = spans([Recording("r", "r.wav", "train", {}, seconds)], rule)
    return [(span.start_seconds, span.start_seconds + (span.seconds or 0)) for span in planned if span.is_piece]


@given(count=st.integers(0, 200), shard_examples=st.integers(1, 64))
def test_tasks_partition_the_spans_in_order(count: int, shard_examples: int):
    tasks = list(shard_tasks(spans(recordings(count)), shard_examples=shard_examples, contracts=_CONTRACTS))
    assert [span.index for task in tasks for span in task.spans] == list(range(count))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert all(len(task.spans) == shard_examples for task in tasks[:-1])


@given(broken=st.integers(0, 9))
def test_a_recording_with_a_problem_keeps_its_index_and_moves_no_other(broken: int):
    listing = recordings(10)
    listing[broken] = Recording("x", "x.wav", "train", {}, 4.0, problem="no pitch")
    assert [span.index for span in spans(listing)] == list(range(10))


def test_a_tasks_digest_changes_with_its_spans_and_contracts_and_with_nothing_else():
    def digests(listing: list[Recording], contracts: dict, rule: SpanRule = WHOLE) -> list[str]:
        return [task.digest for task in shard_tasks(spans(listing, rule), shard_examples=5, contracts=contracts)]

    before = digests(recordings(10), _CONTRACTS)
    assert digests(recordings(10), _CONTRACTS) == before
    assert digests(recordings(10), {"mel": {"fingerprint": "b"}})[0] != before[0]
    assert digests(recordings(10), _CONTRACTS, SpanRule(4.0))[0] != before[0]
    for change in (
        {"labels": {"pitch": 99}},
        {"path": "other.wav"},
        {"events": {"beats": ((0.0, 0.0, 1),)}},
        {"parts": ("a.wav", "b.wav")},
        {"segment": (0.0, 4.0)},
        {"problem": "broken"},
        {"seconds": 3.0},
    ):
        changed = [*recordings(9), replace(recordings(10)[9], **change)]
        assert digests(changed, _CONTRACTS)[0] == before[0] and digests(changed, _CONTRACTS)[1] != before[1], change


@given(seconds=SECONDS, length=st.floats(0.5, 30))
def test_without_a_hop_spans_partition_a_recording(seconds: float, length: float):
    pieces = pieces_of(seconds, SpanRule(length, last="keep"))
    assert pieces[0][0] == 0 and pieces[-1][1] == pytest.approx(seconds, abs=1e-8)
    assert all(end == pytest.approx(start) for (_, end), (start, _) in pairwise(pieces))
    assert all(end - start == pytest.approx(length) for start, end in pieces[:-1])


@given(seconds=SECONDS, rule=RULES)
def test_spans_lie_in_their_recording_a_hop_apart_and_only_the_last_is_shorter(seconds: float, rule: SpanRule):
    pieces = pieces_of(seconds, rule)
    hop = rule.hop_seconds or rule.span_seconds
    assert [start for start, _ in pieces] == [pytest.approx(number * hop) for number in range(len(pieces))]
    assert all(0 < end - start <= rule.span_seconds + 1e-8 and end <= seconds + 1e-8 for start, end in pieces)
    assert all(end - start == pytest.approx(rule.span_seconds) for start, end in pieces[:-1])
    if rule.last == "drop":
        assert all(end - start == pytest.approx(rule.span_seconds, abs=1e-8) for start, end in pieces)
        assert (len(pieces) * hop + rule.span_seconds) > seconds - 1e-8, "another whole one would have fitted"


@given(seconds=SECONDS, rule=RULES)
def test_keeping_the_last_piece_only_adds_one_which_holds_what_dropping_lost(seconds: float, rule: SpanRule):
    dropped, kept = pieces_of(seconds, replace(rule, last="drop")), pieces_of(seconds, replace(rule, last="keep"))
    assert kept[: len(dropped)] == dropped and len(kept) - len(dropped) <= 1
    covered = dropped[-1][1] if dropped else 0.0
    if len(kept) > len(dropped):
        assert kept[-1][1] == pytest.approx(seconds) and seconds > covered


@pytest.mark.parametrize("length", [3.0, 4.0, 7.0, 10.0, 30.0])
def test_a_recording_of_whole_seconds_is_cut_without_loss(length: float):
    assert len(pieces_of(length * 7, SpanRule(length))) == 7
    assert len(pieces_of((length * 7 * 44_100 - 1) / 44_100, SpanRule(length))) == 6


def test_a_recording_shorter_than_a_span_keeps_an_index_with_its_reason():
    listing = [Recording("a", "a.wav", "train", {}, 9.0), Recording("b", "b.wav", "train", {}, 20.0)]
    first, *others = spans(listing, SpanRule(10.0))
    assert (first.index, first.recording.problem) == (0, "it is shorter than 10 s")
    assert [(span.index, span.start_seconds) for span in others] == [(1, 0.0), (2, 10.0)]


def test_a_recording_of_unknown_length_cannot_be_cut_and_says_so():
    (span,) = spans([Recording("a", "a.wav", "train")], SpanRule(10.0))
    assert "length is unknown" in span.recording.problem


@given(listing=GROUPS, shard_examples=st.integers(1, 12), rule=RULES | st.just(WHOLE))
def test_groups_are_whole_for_any_shard_size(listing: list[tuple[str, float]], shard_examples: int, rule: SpanRule):
    tasks = list(shard_tasks(spans(grouped(listing), rule), shard_examples=shard_examples, contracts=_CONTRACTS))
    homes: dict[tuple[str, float], list[tuple[int, int]]] = {}
    for task in tasks:
        for span in task.spans:
            if span.recording.group:
                place = homes.setdefault((span.recording.group, span.start_seconds), [])
                place.append((task.number, span.index))
    for places in homes.values():
        assert len({number for number, _ in places}) == 1, "a group straddles two shards"
        indices = [index for _, index in places]
        assert indices == list(range(indices[0], indices[0] + len(indices))), "a group is torn apart"
    assert [span.index for task in tasks for span in task.spans] == list(range(sum(len(task.spans) for task in tasks)))


@given(listing=GROUPS, rule=RULES)
def test_grouping_changes_which_index_a_span_has_but_loses_and_adds_none(
    listing: list[tuple[str, float]], rule: SpanRule
):
    def planned(groups: list[Recording]) -> set[tuple[str, float]]:
        return {(span.recording.recording_id, span.start_seconds) for span in spans(groups, rule)}

    assert planned(grouped(listing)) == planned([replace(one, group="") for one in grouped(listing)])


@given(listing=GROUPS, shard_examples=st.integers(1, 12), other=st.integers(1, 12), rule=RULES)
def test_indices_do_not_depend_on_the_size_of_shards(
    listing: list[tuple[str, float]], shard_examples: int, other: int, rule: SpanRule
):
    assume(shard_examples != other)

    def indices(examples: int) -> dict[tuple[str, float], int]:
        tasks = shard_tasks(spans(grouped(listing), rule), shard_examples=examples, contracts={})
        return {(s.recording.recording_id, s.start_seconds): s.index for task in tasks for s in task.spans}

    assert indices(shard_examples) == indices(other)


@pytest.mark.parametrize(
    "rule, cause",
    [
        ({"span_seconds": 0.0}, "--span-seconds is 0.0"),
        ({"span_seconds": float("nan")}, "--span-seconds is nan"),
        ({"span_seconds": 3.0, "hop_seconds": -1.0}, "--hop-seconds is -1.0"),
        ({"hop_seconds": 3.0}, "--span-seconds is missing"),
        ({"last": "keep"}, "--span-seconds is missing"),
    ],
)
def test_a_rule_without_a_meaning_is_a_usage_problem(rule: dict, cause: str):
    with pytest.raises(UsageProblem, match=cause):
        SpanRule(**rule)
