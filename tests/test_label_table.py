"""A user's own table of labels: what types its columns get, and what makes it no table."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.published.label_table import LabelTable, read_label_table
from shards.problem import DataProblem, UsageProblem

WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8).map(lambda word: f"w{word}w")
VALUES = {
    "int": st.integers(-(2**63) + 1, 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.5).filter(lambda n: n % 1),
    "str": WORDS,
    "list[int]": st.lists(st.integers(0, 9), min_size=1, max_size=3),
    "list[float]": st.lists(st.sampled_from([0.5, -1.25]), min_size=1, max_size=3),
    "list[str]": st.lists(WORDS, min_size=1, max_size=3),
}


def text_table(tmp_path: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> LabelTable:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_label_table(tmp_path / name)


@pytest.mark.parametrize(
    "cells, kind, values",
    [
        (["1", "-2", "0"], "int", [1, -2, 0]),
        (["1", "2.5", "1e3"], "float", [1.0, 2.5, 1000.0]),
        (["001", "002"], "str", ["001", "002"]),
        (["1", "two"], "str", ["1", "two"]),
        (["nan", "inf"], "str", ["nan", "inf"]),
        (["9" * 19, "1"], "str", ["9" * 19, "1"]),
        (["9" * 18, "1"], "int", [int("9" * 18), 1]),
        (['["a", "b"]', '["c"]'], "list[str]", [("a", "b"), ("c",)]),
        (["[1, 2]", "[]"], "list[int]", [(1, 2), ()]),
        (["[1, 2.5]", "[3]"], "list[float]", [(1.0, 2.5), (3.0,)]),
        (['[1, "a"]', "[2]"], "list[str]", [("1", "a"), ("2",)]),
        (["[live]", "[studio]"], "str", ["[live]", "[studio]"]),
        ([" jazz ", "rock"], "str", ["jazz", "rock"]),
    ],
)
def test_the_type_of_a_column_of_texts_is_the_narrowest_that_fits_all(tmp_path: Path, cells, kind, values):
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "x"], *(["a.wav", cell] for cell in cells)])
    table = read_label_table(tmp_path / "labels.csv")
    assert table.types == {"path": "str", "x": kind}
    assert [row["x"] for row in table.rows] == values


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet"])
@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_every_kind_of_table_gives_back_the_values_and_types_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, kind: str, data: st.DataObject
):
    values = data.draw(st.lists(VALUES[kind], min_size=1, max_size=4))
    path = tmp_path_factory.mktemp("table") / name
    rows = [{"path": f"{number}.wav", "x": value} for number, value in enumerate(values)]
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",")
            cells = [[row["path"], json.dumps(row["x"]) if "list" in kind else row["x"]] for row in rows]
            writer.writerows([["path", "x"], *cells])
    table = read_label_table(path)
    assert table.types["x"] == kind
    assert [row["x"] for row in table.rows] == [tuple(value) if "list" in kind else value for value in values]


def test_cells_without_a_value_are_absent_and_do_not_change_the_type(tmp_path: Path):
    table = text_table(tmp_path, "path,bpm,mood\na.wav,,\nb.wav,90,calm\n")
    assert table.types == {"path": "str", "bpm": "int", "mood": "str"}
    assert table.rows == [{"path": "a.wav"}, {"path": "b.wav", "bpm": 90, "mood": "calm"}]
    lines = '{"path": "a.wav", "x": NaN}\n\n{"path": "b.wav", "x": 1.5, "y": null}\n{"path": "c.wav", "x": true}\n'
    table = text_table(tmp_path, lines, "labels.jsonl")
    assert [row.get("x") for row in table.rows] == [None, 1.5, 1.0]
    assert "y" not in table.rows[1]


@pytest.mark.parametrize(
    "name, text, cause",
    [
        ("labels.csv", "path,genre\na.wav\n", "row 1 has 1 fields where the header has 2"),
        ("labels.csv", "path,genre\na.wav,rock,loud\n", "row 1 has 3 fields"),
        ("labels.csv", 'path,genre\na.wav,"rock\n', "a quote may lack its partner"),
        ("labels.csv", "path,path\na.wav,b.wav\n", "every column needs a name of its own"),
        ("labels.csv", "path,\na.wav,b.wav\n", "every column needs a name of its own"),
        ("labels.csv", "", "has no row"),
        ("labels.csv", "path,genre\n", "has no row"),
        ("labels.jsonl", '{"path": "a.wav"}\n{"path": \n', "line 2: "),
        ("labels.jsonl", '["a.wav"]\n', "line 1: it is no table of fields"),
        ("labels.jsonl", "[" * 100_000 + "\n", "line 1: "),
        ("labels.parquet", "no parquet", "damaged"),
    ],
)
def test_a_table_that_cannot_be_read_says_where_and_why(tmp_path: Path, name: str, text: str, cause: str):
    with pytest.raises(DataProblem, match=f"{name}.*{cause}"):
        text_table(tmp_path, text, name)


def test_another_encoding_is_detected_or_told_with_its_line(tmp_path: Path):
    text = "path,genre\na.wav,chanson\nb.wav,bossa é\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert text_table(tmp_path, text, encoding=encoding).rows[1] == {"path": "b.wav", "genre": "bossa é"}
    with pytest.raises(DataProblem, match=r"labels.csv, line 3: byte 0xe9 is not UTF-8.*iconv"):
        text_table(tmp_path, text, encoding="latin-1")


def test_a_file_that_is_absent_or_of_another_kind_is_told(tmp_path: Path):
    with pytest.raises(DataProblem, match=r"no label table at .*absent.csv"):
        read_label_table(tmp_path / "absent.csv")
    with pytest.raises(UsageProblem, match=r"ends in .xlsx.*\.csv, \.tsv, \.jsonl, \.ndjson, \.parquet"):
        read_label_table(tmp_path / "labels.xlsx")
