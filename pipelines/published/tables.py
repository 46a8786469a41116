"""Tables that people wrote about recordings: text in a known encoding, rows with their line, split lists.

A table that cannot be read at all is a DataProblem; a single bad row is a Row with a problem, and costs one recording.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.recording import SPLITS
from shards.problem import DataProblem

SHIPPED = Path(__file__).parent / "data" / "labelled_sets"
_FIELD_CHARACTERS = 100_000  # of the longest field; a quote that is never closed makes a longer one


@dataclass(frozen=True)
class Row:
    """A line of a table; `fields` holds every column of the header, stripped of spaces around."""

    line: int
    fields: Mapping[str, str]
    problem: str = ""


def read_text(path: Path, *, what: str) -> str:
    """The text of a file that should hold `what`: UTF-8, or UTF-16 with its mark. Raises DataProblem otherwise."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise DataProblem(
            f"{path} cannot be read ({error.strerror}), so {what} is not known. Put the published file there."
        ) from error
    encoding = "utf-16" if source[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return source.decode(encoding)
    except UnicodeDecodeError as error:
        line = source[: error.start].count(b"\n") + 1
        raise DataProblem(
            f"{path}, line {line}: byte {source[error.start]:#04x} is not {encoding.removesuffix('-sig').upper()}, so "
            f"{what} cannot be trusted. If it was saved as Latin-1: iconv -f LATIN1 -t UTF-8 {path.name} > converted"
        ) from error


def read_rows(path: Path, *, what: str, columns: Sequence[str], delimiter: str = ",") -> Iterator[Row]:
    """The rows of a table with a header, in which `columns` must be. Rows of another width have a problem.

    Raises DataProblem when the file cannot be read, lacks a column, names one twice, or holds no row.
    """
    reader = csv.reader(io.StringIO(read_text(path, what=what), newline=""), delimiter=delimiter)
    csv.field_size_limit(_FIELD_CHARACTERS)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header, columns, what)
        yield from _rows(reader, header)
    except csv.Error as error:
        raise DataProblem(
            f"{path}, line {reader.line_num}: {error}, so {what} cannot be read from there on. Put the published file "
            "there, or correct that line (a quote may lack its partner)."
        ) from error
    if reader.line_num < 2:
        raise DataProblem(f"{path} holds a header and no row, so {what} is not known. Put the published file there.")


def by_key(rows: Iterable[Row], column: str) -> dict[str, Row]:
    """The rows by their value of `column`; one that stands twice has a problem, since nothing says which one holds."""
    found: dict[str, Row] = {}
    for row in rows:
        name = row.fields[column]
        found[name] = replace(row, problem=f"its {column} stands in two lines") if name in found else row
    return found


def split_list(root: Path, name: str, *, key: str) -> dict[str, Row]:
    """Which split each recording is in, by `key`: from ROOT/NAME where the user put one, else from the shipped lists.

    Raises DataProblem, which says where the list belongs, when there is neither, and when an entry contradicts another.
    """
    path = next((folder / name for folder in (root, SHIPPED) if (folder / name).is_file()), root / name)
    found: dict[str, Row] = {}
    for row in read_rows(path, what="the split of every recording", columns=(key, "split")):
        name_of_row = row.fields[key]
        if row.problem or row.fields["split"] not in {*SPLITS, "excluded"} or name_of_row in found:
            cause = row.problem or f"{key} {name_of_row!r} with split {row.fields['split']!r}"
            raise DataProblem(
                f"{path}, line {row.line}: {cause}. A list in which one line is wrong or repeated cannot be trusted, "
                f"so nothing was read. Each line names its {key} once, with one of {', '.join(SPLITS)}, excluded."
            )
        found[name_of_row] = row
    return found


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in header]
    if missing or len({*header}) < len(header):
        cause = f"has no column {', '.join(map(repr, missing[:5]))}" if missing else "names a column twice"
        raise DataProblem(
            f"{path} {cause} (its header begins {', '.join(header)[:80]!r}), so {what} cannot be read. Put the "
            "published file there, unchanged."
        )


def _rows(reader: Iterator[list[str]], header: Sequence[str]) -> Iterator[Row]:
    for values in reader:
        if any(value.strip() for value in values):
            line: int = reader.line_num  # type: ignore[attr-defined]
            fields = dict.fromkeys(header, "") | dict(zip(header, map(str.strip, values), strict=False))
            width = f"it has {len(values)} fields where the header has {len(header)}"
            yield Row(line, fields, "" if len(values) == len(header) else width)
