"""One ShardTask -> one shard, or the columns that it lacks."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.example_maker import ExampleMaker, Recipe
from pipelines.isolation import each, mark_of
from pipelines.plan import Work
from pipelines.source import Tree
from pipelines.span import Span
from shards.example import Example
from shards.feature import described
from shards.manifest import Rejected, ShardRecord, index_path, read_record, read_table
from shards.problem import DataProblem
from shards.writer import write_column, write_shard


def build_shard(work: Work, *, recipe: Recipe) -> ShardRecord:
    """Decode, compute and write one shard, or columns that it lacks.

    Every example is made on one thread, so that the bytes do not depend on who does it. A recording whose decoder kills
    or hangs its process is rejected for it when Ray runs the task again. Raises DataProblem when columns are to be
    added and a recording is not what it was.
    """
    recipe = recipe.for_columns(work.columns)
    tree = Tree(recipe.root, recipe.indexes)
    outcomes = each(
        ExampleMaker(recipe, has_rows=work.has_index),
        sorted(spans_of(work), key=lambda span: tree.order(span.recording.path)),
        mark=mark_of(work.folder, f"{work.task.number:06d}"),
        given_up=given_up,
        piece_seconds=recipe.piece_seconds,
    )
    return write_outcomes(work, outcomes, recipe)


def spans_of(work: Work) -> list[Span]:
    """What has to be decoded: all that was planned, or what the index lists."""
    if not work.has_index:
        return list(work.task.spans)
    rows = _digests(work)
    return [span for span in work.task.spans if span.index in rows]


def given_up(span: Span, why: str) -> Rejected:
    """A span whose decoder kills or hangs its process."""
    return Rejected(span.index, span.recording.path, "decode", why)


def write_outcomes(work: Work, outcomes: Sequence[Example | Rejected], recipe: Recipe) -> ShardRecord:
    """The whole shard, or columns for exactly the examples that its index lists. Raises as `build_shard`."""
    task, columns = work.task, {one.column: described(one) for one in recipe.for_columns(work.columns).features}
    made = sorted(outcomes, key=lambda outcome: outcome.index)
    examples = [outcome for outcome in made if isinstance(outcome, Example)]
    rejected = [outcome for outcome in made if isinstance(outcome, Rejected)]
    if not work.has_index:
        place = {"task": task.digest, "columns": columns, "labels": recipe.labels, "events": recipe.events}
        return write_shard(work.folder, task.number, **place, examples=examples, rejected=rejected)  # type: ignore[arg-type]
    _require_same_sound(work, examples, rejected)
    for column, entry in columns.items():
        write_column(work.folder, task.number, column, task=task.digest, entry=entry, examples=examples)
    record = read_record(work.folder, task.number)
    assert record is not None
    return record


def _require_same_sound(work: Work, examples: Sequence[Example], rejected: Sequence[Rejected]) -> None:
    digests = _digests(work)
    for lost in rejected:
        raise DataProblem(_changed(lost.path, lost.reason, work.folder))
    for example in examples:
        if example.source_digest != digests[example.index]:
            raise DataProblem(_changed(example.source_path, "its bytes are others", work.folder))


def _digests(work: Work) -> dict[int, str]:
    """Digest of its source for each example that the index lists."""
    table = read_table(work.folder / index_path(work.task.number), ["index", "source_digest"])
    return {row["index"]: row["source_digest"] for row in table.to_pylist()}


def _changed(path: str, how: str, folder: Path) -> str:
    return (
        f"{path} is not what it was when {folder} was built: {how}. A column of it would belong to another sound than "
        "the columns beside it, so this shard got none. Restore the recording, or build the dataset again in another "
        "folder."
    )
