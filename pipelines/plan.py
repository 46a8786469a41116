"""Recordings -> Spans -> ShardTasks: who gets which index and which shard, decided before anything runs. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from pipelines.recording import Recording
from shards.store import digest_of


@dataclass(frozen=True)
class Span:
    """A piece of a recording, planned to become the example `index`; a rejected one leaves a hole there."""

    index: int
    recording: Recording
    start_seconds: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class ShardTask:
    """The spans that become one shard, and the digest of all that decides its bytes."""

    number: int
    spans: tuple[Span, ...]
    digest: str


def spans(recordings: Iterable[Recording]) -> Iterator[Span]:
    """One span a recording, whole, numbered in the order of the listing. Broken recordings get their index, too."""
    for index, recording in enumerate(recordings):
        yield Span(index, recording, 0.0, recording.seconds)


def shard_tasks(
    planned: Iterable[Span], *, shard_examples: int, contracts: Mapping[str, object]
) -> Iterator[ShardTask]:
    """Consecutive runs of `shard_examples` spans. The digest covers the spans and the feature contracts."""
    remaining = iter(planned)
    number = 0
    while group := tuple(islice(remaining, shard_examples)):
        yield ShardTask(number, group, task_digest(group, contracts))
        number += 1


def task_digest(group: Sequence[Span], contracts: Mapping[str, object]) -> str:
    return digest_of({"spans": [_span_content(span) for span in group], "contracts": contracts})


def _span_content(span: Span) -> dict[str, object]:
    content = asdict(span)
    content["recording"]["labels"] = dict(span.recording.labels)
    return content
