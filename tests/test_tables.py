"""Tables that people wrote: encodings, headers, rows of another width, split lists of the package and of the user."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.music.layouts.tracks import write_table
from pipelines.published.tables import SHIPPED, by_key, read_rows, read_text, split_list
from shards.problem import DataProblem

CELL = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), max_size=12)


def rows_of(path: Path, **options: str) -> list[dict[str, str]]:
    return [dict(row.fields) for row in read_rows(path, what="a thing", columns=(), **options)]


@given(cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), is_quoted=st.booleans(), tab=st.booleans())
def test_a_table_that_is_written_is_read_back(tmp_path: Path, cells: list, is_quoted: bool, tab: bool):
    delimiter = "\t" if tab else ","
    write_table(tmp_path / "t.csv", [("a", "b"), *cells], delimiter=delimiter, is_quoted=is_quoted)
    kept = [{"a": a, "b": b} for a, b in cells if a or b]
    if kept:
        assert rows_of(tmp_path / "t.csv", delimiter=delimiter) == kept


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_as_utf_8_with_and_without_mark_and_as_utf_16(tmp_path: Path, encoding: str):
    (tmp_path / "t.csv").write_bytes("name\nBjörk\n".encode(encoding))
    assert rows_of(tmp_path / "t.csv") == [{"name": "Björk"}]


def test_text_in_another_encoding_is_refused_with_its_line_and_the_way_to_convert_it(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("name\nBach\nBjörk\n".encode("latin-1"))
    with pytest.raises(DataProblem, match=r"t\.csv, line 3: byte 0xf6 is not UTF-8.*iconv -f LATIN1 -t UTF-8 t\.csv"):
        rows_of(tmp_path / "t.csv")


def test_a_file_that_is_not_there_is_named_with_what_it_would_say(tmp_path: Path):
    with pytest.raises(DataProblem, match=r"t\.csv cannot be read \(No such file.*so a thing is not known"):
        read_text(tmp_path / "t.csv", what="a thing")


@pytest.mark.parametrize(
    "content, cause",
    [
        ("b,c\n1,2\n", "has no column 'a'"),
        ("", "has no column 'a'"),
        ("a,a\n1,2\n", "names a column twice"),
        ("a,b\n", "holds a header and no row"),
        ('a,b\n1,"2\n' + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_read_at_all_is_an_error(tmp_path: Path, content: str, cause: str):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataProblem, match=cause):
        list(read_rows(tmp_path / "t.csv", what="a thing", columns=("a",)))


def test_a_row_of_another_width_keeps_its_place_with_a_problem(tmp_path: Path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    rows = list(read_rows(tmp_path / "t.csv", what="a thing", columns=("a",)))
    assert [(row.line, row.fields["a"], row.problem) for row in rows] == [
        (2, "1", ""),
        (3, "3", "it has 1 fields where the header has 2"),
        (4, "4", "it has 3 fields where the header has 2"),
        (6, "7", ""),
    ]


def test_of_two_rows_with_one_key_neither_is_trusted(tmp_path: Path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,3\n2,4\n")
    found = by_key(read_rows(tmp_path / "t.csv", what="a thing", columns=("a",)), "a")
    assert {name: bool(row.problem) for name, row in found.items()} == {"1": True, "2": False}


@pytest.mark.parametrize(
    "name, key, train, valid, test",
    [
        ("gtzan_split.csv", "id", 443, 197, 290),
        ("giantsteps_split.csv", "audio_id", 923, 236, 604),
        ("emomusic_split.csv", "song_id", 504, 115, 125),
    ],
)
def test_shipped_splits_have_the_published_sizes(
    tmp_path: Path, name: str, key: str, train: int, valid: int, test: int
):
    listed = split_list(tmp_path, name, key=key)
    counts = Counter(row.fields["split"] for row in listed.values())
    assert counts == {"train": train, "valid": valid, "test": test}
    assert (SHIPPED / name).stat().st_size < 100_000


def test_a_list_in_the_corpus_stands_in_for_the_shipped_one(tmp_path: Path):
    (tmp_path / "gtzan_split.csv").write_text("id,genre,split\nblues.00500,blues,test\n")
    assert list(split_list(tmp_path, "gtzan_split.csv", key="id")) == ["blues.00500"]


def test_a_list_that_is_not_shipped_is_named_with_where_it_belongs(tmp_path: Path):
    with pytest.raises(DataProblem, match=f"{tmp_path}/magnatagatune_split.csv cannot be read.*Put .* there"):
        split_list(tmp_path, "magnatagatune_split.csv", key="clip_id")


@pytest.mark.parametrize("line", ["a,dev", "a,", "b,train", "a"])
def test_a_list_with_one_wrong_or_repeated_line_is_refused(tmp_path: Path, line: str):
    (tmp_path / "s.csv").write_text(f"id,split\nb,train\n{line}\n")
    with pytest.raises(DataProblem, match=r"s\.csv, line 3: .*cannot be trusted.*one of train, valid, test, excluded"):
        split_list(tmp_path, "s.csv", key="id")
