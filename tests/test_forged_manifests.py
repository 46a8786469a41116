"""Manifests and tables whose digests are right and whose contents are not: refused by every verb, in one message."""

import base64
import copy
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import describe, inspect, merge, split
from shards.loader import Loader
from shards.manifest import MANIFEST, Manifest, column_path, index_path, read_table
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.statistics import STATISTICS, Statistics, statistics_of
from shards.store import canonical_json
from shards.verify import verify
from shards.views import Views
from tests.copies import run, write_labelled
from tests.forgery import forge_manifest, forge_table

LABELS = {
    "pitch": {"type": "int", "classes": None},
    "family": {"type": "int", "classes": ["bass", "reed"]},
    "tags": {"type": "list[str]", "classes": None},
}
EVENTS = {"beats": {"type": "int", "classes": None}}
GONE = object()
VALUES = (GONE, None, True, 0, 1, -1, 10**30, 2.5, "", "text", "../x", [], [1], ["text"], [[]], {}, {"text": 1})
MOST_BYTES = 24 << 20


def written(folder: Path) -> Path:
    """A small dataset with every field that a built one has, and a hole."""
    rows = [{"pitch": row, "family": row % 2, "tags": ["loud"]} for row in range(5)]
    write_labelled(folder, [*rows[:4], None, rows[4]], labels=LABELS, events=EVENTS, happens={"beats": [(0.0, 0.1, 1)]})
    said = statistics_of(folder, ["mel"], [0, 1])
    replace(Manifest.read(folder), statistics=said, made_with={"numpy": "2"}).write(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("whole") / "train")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("another") / "valid")


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "train")


def content_of(dataset: Path) -> dict[str, Any]:
    content = json.loads((dataset / MANIFEST).read_bytes())
    del content["sha256"]
    return content


def places(value: object, above: tuple = ()) -> Iterator[tuple]:
    """Every entry of a JSON value, at any depth; of a list of numbers the first alone."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in entries:
        if not (isinstance(below, float) and name not in (0, "seconds")):
            yield (*above, name)
            yield from places(below, (*above, name))


def forged(content: dict[str, Any], place: tuple, value: object) -> dict[str, Any]:
    whole = found = copy.deepcopy(content)
    for name in place[:-1]:
        found = found[name]
    if value is GONE:
        del found[place[-1]]
    else:
        found[place[-1]] = value
    return whole


def readings(dataset: Path, another: Path, out: Path) -> Iterator[Callable[[], object]]:
    """Everything that reads a dataset, but for what a training does around its Loader."""
    yield lambda: list(verify(dataset))
    yield lambda: run(inspect, "inspect", dataset)
    yield lambda: run(inspect, "inspect", dataset, "--html", out / "page.html", "--examples", 1)
    yield lambda: run(describe, "describe", dataset)
    yield lambda: run(merge, "merge", dataset, another, "--out", out / "merged", "--workers", 1)
    yield lambda: run(split, "split", dataset, "--by", "family", "--out", out / "divided", "--workers", 1)
    yield lambda: list(Loader(Reader(dataset), views=Views(frames=2), batch_examples=2, seed=0).from_step(0, 2))
    yield lambda: (Reader(dataset).labels("pitch"), Reader(dataset).events("beats"), Reader(dataset).feature)


def refusals(dataset: Path, another: Path) -> list[str]:
    """Every reading works, or ends in one message: that the data are not sound, or do not have what is asked for."""
    said, out = [], dataset.parent / "out"
    out.mkdir()
    for read in readings(dataset, another, out):
        try:
            read()
        except (DataProblem, UsageProblem) as problem:
            said.append(str(problem))
    shutil.rmtree(out)
    return said


def test_what_nobody_forged_is_read_in_every_way(dataset: Path, another: Path):
    forge_manifest(dataset, content_of(dataset))
    assert list(verify(dataset)) == [] and refusals(dataset, another) == []


@settings(max_examples=150)
@given(st.data())
def test_a_manifest_of_which_a_field_is_gone_or_another_is_refused_or_says_what_may_be(
    whole: Path, dataset: Path, data: st.DataObject
):
    content = content_of(whole)
    place = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(st.sampled_from(VALUES))
    forge_manifest(dataset, forged(content, place, value))
    if value is GONE or kind_of(value) == kind_of(at(content, place)) or place[0] == "features":
        with suppress(DataProblem):
            Manifest.read(dataset)
        return
    with pytest.raises(DataProblem, match=r"manifest.json is .*(Delete the file|Build it again)"):
        Manifest.read(dataset)


def at(content: Any, place: tuple) -> object:
    for name in place:
        content = content[name]
    return content


def kind_of(value: object) -> str:
    """Whole numbers may stand where numbers may, and nothing where a list of classes may."""
    if value is None or isinstance(value, list):
        return "list or none"
    return "number" if type(value) in (int, float) else type(value).__name__


@settings(max_examples=25)
@given(st.data())
def test_what_a_forged_manifest_may_still_say_harms_nothing_that_reads_it(
    whole: Path, another: Path, dataset: Path, data: st.DataObject
):
    content = content_of(whole)
    place = data.draw(st.sampled_from([place for place in places(content) if place[0] != "statistics"]))
    value = data.draw(st.sampled_from(VALUES))
    forge_manifest(dataset, forged(content, place, value))
    refusals(dataset, another)


@pytest.mark.parametrize("place", ["shards", "format", "version", "fingerprint", "features"])
def test_without_one_of_its_fields_a_manifest_is_refused_by_whatever_reads_it(dataset: Path, another: Path, place: str):
    forge_manifest(dataset, forged(content_of(dataset), (place,), GONE))
    assert len(refusals(dataset, another)) == 7 and f"{MANIFEST}: " in next(verify(dataset))


@pytest.mark.parametrize(("build", "words"), [(["build", "x"], "build x"), (7, "build"), (None, "build")])
def test_a_manifest_of_another_version_is_refused_with_the_command_that_builds_it(
    dataset: Path, build: object, words: str
):
    forge_manifest(dataset, {**content_of(dataset), "version": 1, "build": build})
    with pytest.raises(DataProblem, match=rf"sonograph-dataset version 1, not .*Build it again: sonograph {words}$"):
        Manifest.read(dataset)


def with_column(name: str, change: Callable[[list], list], kind: pa.DataType | None = None) -> Callable[[Any], Any]:
    def changed(table: Any) -> Any:
        values = pa.array(change(table[name].to_pylist()), kind or table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), pa.field(name, values.type), values)

    return changed


PLACES: dict[str, Callable[[Any], Any]] = {
    "beyond the tar": with_column("offset", lambda values: [400 << 30, *values[1:]]),
    "beyond 64 bits with its length": with_column("offset", lambda values: [*values[:-1], 2**63 - 1]),
    "before the tar": with_column("offset", lambda values: [-512, *values[1:]]),
    "the least of all": with_column("offset", lambda values: [*values[:-1], -(2**63)]),
    "a length beyond memory": with_column("bytes", lambda values: [400 << 30, *values[1:]]),
    "a length of 64 bits": with_column("bytes", lambda values: [*values[:-1], 2**63 - 1]),
    "a negative length": with_column("bytes", lambda values: [-1, *values[1:]]),
    "another order": with_column("offset", lambda values: values[::-1]),
    "the same place twice": with_column("offset", lambda values: [values[0], values[0], *values[2:]]),
    "a gap": with_column("offset", lambda values: [None, *values[1:]]),
    "no lengths": lambda table: table.drop_columns(["bytes"]),
    "lengths as text": with_column("bytes", lambda values: list(map(str, values)), pa.string()),
    "fewer rows": lambda table: table.slice(1),
    "no rows": lambda table: table.slice(0, 0),
}
INDEX: dict[str, Callable[[Any], Any]] = {
    "no keys": lambda table: table.drop_columns(["key"]),
    "a gap in the keys": with_column("key", lambda values: [None, *values[1:]]),
    "keys as numbers": with_column("key", lambda values: list(range(len(values))), pa.int64()),
    "no label": lambda table: table.drop_columns(["label.family"]),
    "a label of another type": with_column("label.family", lambda values: list(map(str, values)), pa.string()),
    "no events": lambda table: table.drop_columns(["events.beats"]),
    "an index twice": with_column("index", lambda values: [values[0], values[0], *values[2:]]),
    "fewer rows": lambda table: table.slice(1),
    "no rows": lambda table: table.slice(0, 0),
    "seconds as text": with_column("seconds", lambda values: list(map(str, values)), pa.string()),
}


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than a few megabytes are taken, whatever is claimed."""
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MOST_BYTES


@pytest.mark.parametrize("kind", PLACES)
def test_of_places_that_are_none_nothing_is_made(dataset: Path, another: Path, kind: str):
    name = column_path("mel", 0, "parquet")
    forge_table(dataset, name, PLACES[kind](read_table(dataset / name)))
    out = dataset.parent / "out"
    for verb in (merge, split):
        words = (dataset, another) if verb is merge else (dataset, "--by", "family")
        with pytest.raises(DataProblem, match=r"mel/000000.parquet cannot be copied: .*Mend it"):
            run(verb, verb.__name__.rpartition(".")[2], *words, "--out", out / "made", "--workers", 1)
        assert not list(out.rglob(MANIFEST))
    with suppress(DataProblem):
        list(Loader(Reader(dataset), views=Views(frames=2), batch_examples=2, seed=0).from_step(0, 2))
    assert any("mel/000000" in line for line in verify(dataset))


@pytest.mark.parametrize("kind", INDEX)
def test_an_index_that_is_none_ends_whatever_reads_it_in_one_message(dataset: Path, another: Path, kind: str):
    name = index_path(0)
    forge_table(dataset, name, INDEX[kind](read_table(dataset / name)))
    said = refusals(dataset, another)
    assert any("index/000000.parquet" in line for line in said), said
    assert any("index/000000.parquet" in line for line in verify(dataset))


BOMB = base64.b64encode(zlib.compress(bytes(2 * MOST_BYTES)))
STATISTICS_OF_NONE = {
    "no JSON": b"{",
    "of nothing": b"[]",
    "a bomb": canonical_json({"count": 1, "mean": [0.0], "squares": [0.0], "histogram": BOMB.decode()}),
    "no frames": Statistics(0, np.zeros(2), np.zeros(2), np.zeros((2, 1024), np.int64)).to_json(),
    "other bands": Statistics(1, np.zeros(2), np.zeros(2), np.zeros((2, 1024), np.int64)).to_json(),
}


@pytest.mark.parametrize("kind", STATISTICS_OF_NONE)
def test_statistics_that_are_none_are_refused_before_a_manifest_is_written(dataset: Path, another: Path, kind: str):
    path = dataset / column_path("mel", 0, "parquet")
    table = read_table(path)
    said = {**table.schema.metadata, STATISTICS.encode(): STATISTICS_OF_NONE[kind]}
    forge_table(dataset, path.relative_to(dataset).as_posix(), table, said)
    with little_memory(), pytest.raises(DataProblem, match=r"statistics"):
        run(merge, "merge", dataset, another, "--split", "all", "--out", dataset.parent / "out", "--workers", 1)
    assert not list((dataset.parent / "out").rglob(MANIFEST))
