"""What a dataset holds, written last: shards, digests, labels, feature contracts. The one place that knows Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from shards.manifest_fields import COLUMN_RECORD, SHARD_RECORD, problem_of
from shards.problem import DataProblem
from shards.store import canonical_json, digest_of, sha256_of, whole_file, write_json
from shards.stores.remote import Url, place_of

FORMAT = "sonograph-dataset"
VERSION = 2  # 1 had no columns that prove themselves
MANIFEST = "manifest.json"
PLAN = "plan.json"
REJECTED = "rejected.parquet"
COLUMN, WEIGHTS = "column.json", "weights.npz"
_FEATURES = "--features"
_RECORD, _COLUMN_RECORD = "sonograph.shard", "sonograph.column"
_BATCH_ROWS = 1 << 14
_ARROW_TYPES = {
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "list[int]": pa.list_(pa.int64()),
    "list[float]": pa.list_(pa.float64()),
    "list[str]": pa.list_(pa.string()),
}


@dataclass(frozen=True)
class StoredFile:
    """What a file must be: its length in bytes and its SHA-256."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "StoredFile":
        return cls(path.stat().st_size, sha256_of(path))


@dataclass(frozen=True)
class Rejected:
    """A planned example that was not written, and why; its index stays a hole."""

    index: int
    path: str
    stage: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """The proof that a shard's index is whole, kept in that file: which task it answers, its examples, its rejected."""

    number: int
    task: str
    examples: int
    rejected: tuple[Rejected, ...]

    def said(self) -> dict[str, bytes]:
        return {_RECORD: canonical_json(asdict(self))}


@dataclass(frozen=True)
class ColumnRecord:
    """The proof that a column of a shard is whole, kept in its table: task, fingerprint of the contract, and the tar.

    So columns are added and dropped without a touch on anything else.
    """

    task: str
    contract: str
    tar: StoredFile

    def said(self) -> dict[str, bytes]:
        return {_COLUMN_RECORD: canonical_json(asdict(self))}


@dataclass(frozen=True)
class Shard:
    """The manifest's entry of a shard: its counts and all its files, the index included."""

    number: int
    task: str
    examples: int
    rejected: int
    files: Mapping[str, StoredFile]

    @classmethod
    def of(cls, folder: Path, record: ShardRecord, columns: Iterable[str]) -> "Shard":
        """Raises DataProblem when a column is not whole."""
        tables = {column_path(column, record.number, "parquet"): column for column in columns}
        files = {name: StoredFile.of(folder / name) for name in (index_path(record.number), *tables)}
        for column in tables.values():
            if (whole := read_column_record(folder, column, record.number)) is None:
                raise DataProblem(_damaged(folder / column, f"shard {record.number} of it is not whole"))
            files[column_path(column, record.number, "tar")] = whole.tar
        return cls(record.number, record.task, record.examples, len(record.rejected), files)


@dataclass(frozen=True)
class Manifest:
    """The contents of one dataset (one split). `fingerprint` changes exactly when the contents may."""

    corpus: str
    split: str
    rendered: bool
    labels: Mapping[str, Mapping[str, object]]
    events: Mapping[str, Mapping[str, object]]
    features: Mapping[str, Mapping[str, object]]
    planned: int
    examples: int
    rejected: int
    seconds: int | float  # JSON has one kind of number
    shards: Sequence[Shard]
    files: Mapping[str, StoredFile]
    statistics: Mapping[str, Mapping[str, object]]
    build: Sequence[str]
    made_with: Mapping[str, str]
    format: str = FORMAT
    version: int = VERSION

    @cached_property
    def fingerprint(self) -> str:
        """Digest over corpus, split, contracts and all files' digests, whatever command and machine wrote them."""
        return digest_of(_contents(asdict(self)))

    def write(self, folder: Path) -> None:
        content = {**asdict(self), "fingerprint": self.fingerprint}
        write_json(folder / MANIFEST, {**content, "sha256": digest_of(content)})

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises DataProblem when there is no whole, untouched manifest of this format version."""
        path = place_of(folder) / MANIFEST
        try:
            content = json.loads(path.read_bytes())
            claimed, found = content.pop("sha256"), digest_of(content)
        except (FileNotFoundError, NotADirectoryError):
            raise DataProblem(_no_manifest(path.parent)) from None
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DataProblem(_damaged(path, f"it is no manifest ({error})")) from error
        if found != claimed:
            raise DataProblem(_damaged(path, "its contents do not match its own SHA-256"))
        if (content.get("format"), content.get("version")) != (FORMAT, VERSION):
            there = f"{content.get('format')!s:.60} version {content.get('version')!s:.60}"
            words = build if isinstance(build := content.get("build"), list) else ["build"]
            raise DataProblem(
                f"{path} is {there}, not {FORMAT} version {VERSION}, and would be misread. Build it again: sonograph "
                f"{' '.join(map(str, words))}"
            )
        if problem := problem_of(content, _ARROW_TYPES, _files_of_shard):
            raise DataProblem(_damaged(path, f"it is no manifest ({problem})"))
        if content.pop("fingerprint") != digest_of(_contents(content)):
            raise DataProblem(_damaged(path, "its fingerprint is not that of its contents"))
        shards = [Shard(**{**shard, "files": _stored_files(shard["files"])}) for shard in content.pop("shards")]
        return cls(shards=shards, files=_stored_files(content.pop("files")), **content)


def rebuild_command(manifest: Manifest) -> str:
    """The command that made a dataset, but for its --out."""
    return " ".join(["sonograph", *manifest.build])


def feature_words(build: Sequence[str]) -> list[str]:
    """The features of a build's command, as they were named on it."""
    after = list(build)[build.index(_FEATURES) + 1 :] if _FEATURES in build else []
    return list(takewhile(lambda word: not word.startswith("--"), after))


def with_features(build: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """A build's command with other features."""
    rest, before = list(build), feature_words(build)
    if before:
        start = rest.index(_FEATURES)
        del rest[start : start + 1 + len(before)]
    return (*rest, _FEATURES, *words)


def _files_of_shard(number: int, columns: Iterable[str]) -> set[str]:
    tables = {column_path(column, number, suffix) for column in columns for suffix in ("tar", "parquet")}
    return {index_path(number), *tables}


def index_path(number: int) -> str:
    return f"index/{number:06d}.parquet"


def column_path(column: str, number: int, suffix: str) -> str:
    return f"{column}/{number:06d}.{suffix}"


def index_schema(labels: Mapping[str, Mapping[str, object]], events: Mapping[str, Mapping[str, object]]) -> pa.Schema:
    """Arrow schema of index/N.parquet: identity first, then a column for each `label.<name>` and `events.<name>`."""
    identity = [
        ("index", pa.int64()),
        ("key", pa.string()),
        ("source_path", pa.string()),
        ("source_digest", pa.string()),
        ("start_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("clipped_share", pa.float64()),
    ]
    labelled = [(f"label.{name}", _ARROW_TYPES[str(kind["type"])]) for name, kind in labels.items()]
    happening = [(f"events.{name}", _event_list(str(kind["type"]))) for name, kind in events.items()]
    return pa.schema(identity + labelled + happening)


def _event_list(value_type: str) -> pa.DataType:
    return pa.list_(
        pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("value", _ARROW_TYPES[value_type])])
    )


def table_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Arrow schema of columns by name and type (`int`, `float`, `str` or a list of one)."""
    return pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in columns.items()])


def vector_schema(columns: Mapping[str, str], vector: str, width: int) -> pa.Schema:
    """Arrow schema of `table_schema`, and of one more column of float32 vectors of that width."""
    return table_schema(columns).append(pa.field(vector, pa.list_(pa.float32(), width)))


COLUMN_SCHEMA = pa.schema(
    [("index", pa.int64()), ("offset", pa.int64()), ("bytes", pa.int64()), ("xxh3_64", pa.uint64())]
)
REJECTED_SCHEMA = pa.schema(
    [("index", pa.int64()), ("path", pa.string()), ("stage", pa.string()), ("reason", pa.string())]
)


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, object]],
    schema: pa.Schema,
    said: Mapping[str, bytes] | None = None,
) -> None:
    """Write rows as Parquet with page checksums, whole or not at all; the same rows give the same bytes.

    `said` of the table as a whole, by name, is kept in its metadata.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    if said:
        table = table.replace_schema_metadata({name: bytes(content) for name, content in said.items()})
    with whole_file(path) as file:
        parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


class Rows:
    """Rows of a table to be, gathered a few at a time as columns: a fifth of what they would take as objects."""

    def __init__(self, schema: pa.Schema) -> None:
        self._parts = [schema.empty_table()]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def extend(self, rows: Sequence[Mapping[str, object]]) -> None:
        if rows:
            self._parts.append(pa.Table.from_pylist([dict(row) for row in rows], schema=self._parts[0].schema))

    def table(self) -> pa.Table:
        """All of them, in one piece: such a table gives the same bytes however its rows came."""
        self._parts = [pa.concat_tables(self._parts).combine_chunks()]
        return self._parts[0]


def write_columns(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet as `write_table` writes its rows."""
    with whole_file(path) as file:
        parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


@contextmanager
def growing_table(
    path: Path, schema: pa.Schema, said: Mapping[str, bytes]
) -> Iterator[Callable[[Sequence[Mapping[str, object]]], None]]:
    """A table whose rows come in parts, each written at once, whole or not at all; `said` as in `write_table`."""
    told = schema.with_metadata(dict(said))
    options = {"compression": "zstd", "write_page_checksum": True}
    with whole_file(path) as file, parquet.ParquetWriter(file, told, **options) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=told))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table with its checksums verified. Raises DataProblem when it is absent or damaged."""
    try:
        # Arrow's own file, read at once on this thread: whatever its thread pool still held at exit would abort Python.
        with _opened(path) as file:
            options = {"page_checksum_verification": True, "use_threads": False, "pre_buffer": False}
            table = parquet.read_table(file, columns=columns, **options)
    except (OSError, pa.ArrowException) as error:
        raise DataProblem(_damaged(path, str(error).splitlines()[0])) from error
    if missing := set(columns or ()) - set(table.column_names):
        raise DataProblem(_damaged(path, f"it has no column '{min(missing)}'"))
    return table


def table_problem(table: pa.Table, schema: pa.Schema, rows: int, columns: Sequence[str] = ()) -> str | None:
    """What a table of a right digest may still not say: other columns (of all, or of these), other rows, gaps."""
    types = {field.name: field.type for field in schema if not columns or field.name in columns}
    if len(table.schema) != len(types) or any(types.get(field.name) != field.type for field in table.schema):
        return f"its columns are {', '.join(f'{field.name} {field.type}' for field in table.schema):.200}"
    if table.num_rows != rows:
        return f"it lists {table.num_rows:,} examples where its shard has {rows:,}"
    gaps = [name for name in types if "." not in name and table[name].null_count]  # only labels and events have any
    return f"'{gaps[0]}' is missing in some of its rows" if gaps else None


def read_columns(path: Path) -> Iterator[dict[str, list[Any]]]:
    """The columns of some thousand rows after the other, read as they are asked for. Raises as `read_table` does."""
    try:
        with _opened(path) as file:
            table = parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
                yield batch.to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise DataProblem(_damaged(path, str(error).splitlines()[0])) from error


def read_record(folder: Path, number: int) -> ShardRecord | None:
    """The shard's proof from its index file, or None when it was never finished."""
    try:
        fields = json.loads(read_said(folder / index_path(number), _RECORD))
        SHARD_RECORD(fields, "")
        return ShardRecord(rejected=tuple(Rejected(**row) for row in fields.pop("rejected")), **fields)
    except (DataProblem, ValueError, RecursionError):
        return None  # a damaged proof proves nothing: the shard is made again


def read_column_record(folder: Path, column: str, number: int) -> ColumnRecord | None:
    """The proof of a column of a shard from its table, or None when it was never finished."""
    try:
        fields = json.loads(read_said(folder / column_path(column, number, "parquet"), _COLUMN_RECORD))
        COLUMN_RECORD(fields, "")
        return ColumnRecord(tar=StoredFile(**fields.pop("tar")), **fields)
    except (DataProblem, ValueError, RecursionError):
        return None


def read_said(path: Path, name: str) -> bytes:
    """What a table says of itself by that name. Raises DataProblem when it is absent, damaged or says no such thing."""
    try:
        with _opened(path) as file:
            return parquet.read_schema(file).metadata[name.encode()]
    except (OSError, pa.ArrowException) as error:
        raise DataProblem(_damaged(path, str(error).splitlines()[0])) from error
    except (KeyError, TypeError):
        raise DataProblem(_damaged(path, f"it holds no {name}")) from None


def _opened(path: Path) -> Any:
    return pa.BufferReader(path.read_bytes()) if isinstance(path, Url) else pa.OSFile(str(path))


def _contents(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("build", "made_with")}


def _stored_files(fields: Mapping[str, Mapping]) -> dict[str, StoredFile]:
    return {name: StoredFile(**stored) for name, stored in fields.items()}


def _no_manifest(folder: Path) -> str:
    splits = [name for name in ("train", "valid", "test") if (folder / name / MANIFEST).is_file()]
    if splits:
        return f"{folder} holds {len(splits)} datasets, one a split, and is none itself. Name one: {folder / splits[0]}"
    if (folder / PLAN).is_file():
        return (
            f"{folder} is a dataset whose build has not finished: it has a plan and no {MANIFEST}, so nothing may read "
            "it yet. Repeat its build command; finished shards are kept."
        )
    return f"{folder} is no dataset: it has no {MANIFEST}. Build one: sonograph build CORPUS --root DIR --out {folder}"


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path} is damaged: {what}. Nothing in it can be trusted. Delete the file and repeat the dataset's build "
        "command: only what is missing is made again."
    )
