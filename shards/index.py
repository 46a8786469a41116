"""The index of a shard, of which every reader may rely on its columns, their types and its length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.manifest import Manifest, Shard, index_path, index_schema, read_table, table_problem
from shards.problem import DataProblem


def read_index(folder: Path, manifest: Manifest, shard: Shard, columns: Sequence[str] = ()) -> Any:
    """Its table, or these columns of it. Raises DataProblem for one that is absent, damaged, or not of this dataset."""
    path = folder / index_path(shard.number)
    table = read_table(path, columns or None)
    if problem := table_problem(table, index_schema(manifest.labels, manifest.events), shard.examples, columns):
        raise DataProblem(
            f"{path} is no index of that shard: {problem}. What it says of the examples cannot be trusted. Find all "
            f"damage and mend it: sonograph verify {folder} --repair"
        )
    return table
