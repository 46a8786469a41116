"""A user's own table of labels: CSV, TSV, JSON lines or Parquet; the type of every column is found from its values."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.published.tables import read_text
from pipelines.recording import Label, Value
from shards.manifest import read_table
from shards.problem import DataProblem, UsageProblem

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,99})", re.ASCII)  # 007 is a name
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d+|(?<=\d)\.)?([eE][+-]?\d{1,3})?", re.ASCII)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class LabelTable:
    """Rows of values by column, in the file's order; a cell without a value is absent from its row.

    `types` has every column: int, float, str, list[int], list[float] or list[str].
    """

    path: Path
    types: Mapping[str, str]
    rows: Sequence[Mapping[str, Label]]


def read_label_table(path: Path) -> LabelTable:
    """Raises DataProblem when the file cannot be read or is no table, UsageProblem for any other kind of file."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageProblem(
            f"{path} ends in {path.suffix or 'nothing'}, so it is not known how to read it. Pass --labels a table that "
            f"ends in {', '.join(_READERS)}."
        )
    if not path.is_file():
        raise DataProblem(f"There is no label table at {path}, so nothing has labels. Check --labels.")
    rows = reader(path)
    if not rows:
        raise DataProblem(f"{path} has no row, so nothing has labels. Check --labels, or go on without it.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    typed = {column: _typed([row.get(column) for row in rows]) for column in columns}
    return LabelTable(
        path,
        {column: kind for column, (kind, _) in typed.items()},
        [
            {column: value for column, (_, values) in typed.items() if (value := values[number]) is not None}
            for number in range(len(rows))
        ],
    )


def _delimited(path: Path) -> list[dict[str, object]]:
    text = read_text(path, what="what the recordings are labelled with")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise DataProblem(_broken(path, f"line {reader.line_num}: {error}; a quote may lack its partner")) from error
    header = [name.strip() for name in lines[0]] if lines else []
    if "" in header or len({*header}) < len(header):
        names = ", ".join(map(repr, header))[:200]
        raise DataProblem(_broken(path, f"its header is {names}, where every column needs a name of its own"))
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise DataProblem(_broken(path, f"row {number} has {len(line)} fields where the header has {len(header)}"))
    columns = [_parsed([line[position].strip() for line in lines[1:]]) for position in range(len(header))]
    return [dict(zip(header, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _json_lines(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(read_text(path, what="what the recordings are labelled with").split("\n"), 1):
        if line.strip():
            try:
                rows.append(dict(_table_of(json.loads(line))))
            except (ValueError, RecursionError) as error:
                raise DataProblem(_broken(path, f"line {number}: {error}")) from error
    return rows


def _table_of(content: object) -> Mapping[str, object]:
    if isinstance(content, dict):
        return content
    raise ValueError('it is no table of fields like {"path": "a.wav", "genre": "jazz"}')


def _parquet(path: Path) -> list[dict[str, object]]:
    return read_table(path).to_pylist()


_READERS: Mapping[str, Callable[[Path], list[dict[str, object]]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def _parsed(cells: Sequence[str]) -> list[object]:
    """Texts of a column as numbers or as lists (["a", "b"]), where all that are not empty can be read so."""
    filled = [cell for cell in cells if cell]
    if all(_INTEGER.fullmatch(cell) for cell in filled):
        return [int(cell) if cell else None for cell in cells]
    if all(_NUMBER.fullmatch(cell) for cell in filled):
        return [float(cell) if cell else None for cell in cells]
    if all(cell.startswith("[") for cell in filled):
        try:
            return [json.loads(cell) if cell else None for cell in cells]
        except ValueError:
            pass  # they begin like lists and are texts
    return [cell or None for cell in cells]


def _typed(values: Sequence[object]) -> tuple[str, list[Label | None]]:
    """The type that all values of a column have, and the values so; None where there is none."""
    lists = [value for value in values if isinstance(value, list)]
    if any(lists) and all(isinstance(value, list) or value is None for value in values):
        kind, convert = _scalar([element for value in lists for element in value])
        return f"list[{kind}]", [_converted(value, convert) if isinstance(value, list) else None for value in values]
    kind, convert = _scalar(values)
    return kind, [None if _is_nothing(value) else convert(value) for value in values]


def _converted(elements: Sequence[object], convert: Callable[[object], Value]) -> Label:
    return tuple(convert(element) for element in elements if not _is_nothing(element))


def _scalar(values: Sequence[object]) -> tuple[str, Callable[[object], Value]]:
    found = {type(value) for value in values if not _is_nothing(value)}
    # Numbers that no 64 bits hold are names: as floats, several would become one.
    if found <= {int, bool} and all(not isinstance(value, int) or -(2**63) <= value < 2**63 for value in values):
        return "int", int  # type: ignore[return-value]
    if found <= {int, bool, float} and float in found:
        return "float", float  # type: ignore[return-value]
    return "str", str


def _is_nothing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _broken(path: Path, cause: str) -> str:
    return f"{path} cannot be read as a table: {cause}. Its labels cannot be trusted, so none was used. Correct it."
