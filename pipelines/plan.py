"""Recordings -> Spans -> ShardTasks: who gets which index and which shard, decided before anything is decoded. Pure.

A stream: of all that was listed only the shard that is being filled is in memory, one for each split; from the first
recording of a group on, all that follow are. Some 15 us a recording.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from pipelines.recording import Recording
from pipelines.span import Span, Speller
from shards.problem import UsageProblem

_MOST_SPANS = 10**9  # an index has nine digits
_ROUNDING_SECONDS = 1e-9  # lengths are quotients: without it a recording of 30 s might miss its third span of 10 s


@dataclass(frozen=True)
class SpanRule:
    """Which pieces of a recording become examples."""

    span_seconds: float | None = None
    """length of an example; without it a recording is one, whole"""
    hop_seconds: float | None = None
    """from one begin to the next; by default the length"""
    last: Literal["drop", "keep"] = "drop"
    """what to do with the rest, shorter than an example"""
    silence_db: float | None = None
    """reject examples with an RMS below so many dB, such as -60"""

    def __post_init__(self) -> None:
        for option, value in (("--span-seconds", self.span_seconds), ("--hop-seconds", self.hop_seconds)):
            if value is not None and not 0 < value < math.inf:
                raise UsageProblem(f"{option} is {value}, of which no example can be made. Pass more than 0 seconds.")
        if self.span_seconds is None and (self.hop_seconds is not None or self.last != "drop"):
            raise UsageProblem(
                "--hop-seconds and --last say how recordings are cut, but --span-seconds is missing, so they would be "
                "left whole. Pass the length of an example as well."
            )

    def starts(self, seconds: float) -> list[float]:
        """Where the examples of a recording of this length begin, in seconds."""
        if self.span_seconds is None:
            return [0.0]
        hop = self.hop_seconds or self.span_seconds
        whole = math.floor((seconds - self.span_seconds + _ROUNDING_SECONDS) / hop) + 1
        starts = [number * hop for number in range(max(whole, 0))]
        rest = len(starts) * hop
        # A rest that the example before it has already covered, because they overlap, is no new piece.
        is_new = not starts or starts[-1] + self.span_seconds + _ROUNDING_SECONDS < seconds
        if self.last == "keep" and is_new and rest + _ROUNDING_SECONDS < seconds:
            starts.append(rest)
        return starts


WHOLE = SpanRule()


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The spans of a split that become one shard, and the digest of all that decides its bytes."""

    split: str
    number: int
    spans: Sequence[Span]
    usable: int
    """How many of the spans have no problem yet."""
    digest: str


@dataclass(frozen=True)
class Work:
    """What of a ShardTask is still to be made in `folder`: the whole shard, or columns beside the index that it has."""

    folder: Path
    task: ShardTask
    columns: tuple[str, ...]
    has_index: bool = False


def spans(recordings: Iterable[Recording], rule: SpanRule = WHOLE) -> Iterator[Span]:
    """Every recording's pieces, numbered in the order of the listing; a group stands where its first recording does.

    Each split is numbered by itself. A recording that cannot be used, or is shorter than an example, keeps one index,
    with its problem.
    """
    numbers: dict[str, Iterator[int]] = defaultdict(lambda: iter(range(_MOST_SPANS)))
    for members in _together(recordings):
        of_split = numbers[members[0].split]
        if len(members) == 1:
            for piece in _pieces(members[0], rule):
                yield Span(_next(of_split), *piece)
            continue
        # Sorting keeps the order of the listing among the pieces of one start.
        pieces = sorted((piece for recording in members for piece in _pieces(recording, rule)), key=itemgetter(1))
        yield from (Span(_next(of_split), *piece) for piece in pieces)


def shard_tasks(
    planned: Iterable[Span], *, shard_examples: int, contracts: Mapping[str, object]
) -> Iterator[ShardTask]:
    """Consecutive runs of at most `shard_examples` spans; a group's spans of one start stay in one shard, whatever.

    Splits may alternate; the tasks of each are numbered by themselves. The digest covers the spans and the contracts:
    all else that decides the bytes.
    """
    runs: dict[str, list[Span]] = {}
    numbers: dict[str, int] = defaultdict(int)
    speller = Speller(contracts)

    def task(split: str) -> ShardTask:
        run, number = runs.pop(split), numbers[split]
        numbers[split] += 1
        packed, digest = speller.pack(run)
        return ShardTask(split, number, packed, sum(not span.recording.problem for span in run), digest)

    for (split, *_), inseparable in groupby(planned, _start_of_group):
        unit = list(inseparable)
        if split in runs and len(runs[split]) + len(unit) > shard_examples:
            yield task(split)
        runs.setdefault(split, []).extend(unit)
    yield from map(task, sorted(runs))


def usable_at(tasks: Iterable[ShardTask], places: Int[np.ndarray, " places"]) -> Iterator[Span]:
    """The spans at these places, which rise, among those without a problem; only their tasks are looked into."""
    begin = 0
    for task in tasks:
        first, last = np.searchsorted(places, [begin, begin + task.usable])
        if first < last:
            usable = [span for span in task.spans if not span.recording.problem]
            yield from (usable[place - begin] for place in places[first:last])
        begin += task.usable


def _together(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    """Recordings of one group as one list, in the place of the first of them; all others alone."""
    listed = iter(recordings)
    for recording in listed:
        if recording.group:
            yield from _gathered([recording, *listed])
        else:
            yield [recording]


def _gathered(listed: Sequence[Recording]) -> Iterator[list[Recording]]:
    groups: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for recording in listed:
        if recording.group:
            groups[recording.split, recording.group].append(recording)
    for recording in listed:
        if not recording.group:
            yield [recording]
        elif members := groups.pop((recording.split, recording.group), None):
            yield members


def _next(numbers: Iterator[int]) -> int:
    for number in numbers:
        return number
    raise UsageProblem(
        f"More than {_MOST_SPANS:,} examples were planned, for which an index has no room, so nothing was done. Pass a "
        "longer --span-seconds or --hop-seconds."
    )


def _pieces(recording: Recording, rule: SpanRule) -> Iterator[tuple[Recording, float, float | None, bool]]:
    """What a span is made of, but for its index: recording, start, length, and whether a rule has cut it."""
    length = rule.span_seconds
    if recording.problem:
        yield recording, 0.0, None, False
    elif length is None:
        yield recording, 0.0, recording.seconds, False
    elif recording.seconds is None:
        yield replace(recording, problem="its length is unknown, so that it cannot be cut"), 0.0, None, False
    elif starts := rule.starts(recording.seconds):
        for start in starts:
            yield recording, start, min(length, recording.seconds - start), True
    else:
        yield replace(recording, problem=f"it is shorter than {length:g} s"), 0.0, None, False


def _start_of_group(span: Span) -> tuple[str, str, float]:
    recording = span.recording
    return recording.split, recording.group, span.start_seconds if recording.group else -1.0 - span.index
