"""A flip in every seventh byte of a small dataset, and cuts of all its files: nobody is given what was not written."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from shards import merge, split
from shards.decode import DecodeError, decode
from shards.manifest import MANIFEST
from shards.plain import pipeline
from shards.problem import DataProblem
from shards.reader import Reader
from shards.verify import damage_of
from tests.copies import contents, run
from tests.forgery import flip, write_sounding_dataset
from tests.media import FORMATS, NEEDS_FFMPEG, encoded
from tests.test_faults import HEADERLESS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
STRIDE = 7  # bytes, of which no block of 512 is a multiple: all places in headers and payloads, and all bits, are met


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounding_dataset(tmp_path_factory.mktemp("whole") / "train", 4, shard_examples=2)


def names(dataset: Path) -> list[str]:
    return sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file())


def is_found(dataset: Path, name: str) -> bool:
    return any(damage.path == dataset / name for damage in damage_of(dataset, workers=1))


def test_verify_finds_a_flip_anywhere_in_every_file(dataset: Path):
    for name in names(dataset):
        path = dataset / name
        for byte in range(0, path.stat().st_size, STRIDE):
            flip(path, byte, byte % 8)
            assert is_found(dataset, name), (name, byte)
            flip(path, byte, byte % 8)
    assert list(damage_of(dataset)) == []


def test_verify_finds_cuts_of_every_file(dataset: Path):
    for name in names(dataset):
        content = (dataset / name).read_bytes()
        for end in range(0, len(content), 64):
            (dataset / name).write_bytes(content[:end])
            assert is_found(dataset, name), (name, end)
        (dataset / name).write_bytes(content)
    assert list(damage_of(dataset)) == []


def spoiled(tar: Path) -> Iterator[int]:
    """The tar with one of its bytes flipped, one after the other, then cut; whole again afterwards."""
    content = tar.read_bytes()
    for byte in range(0, len(content), STRIDE):
        flip(tar, byte, byte % 8)
        yield byte
        tar.write_bytes(content)
    for end in range(0, len(content), 256):
        tar.write_bytes(content[:end])
        yield -end
    tar.write_bytes(content)


@pytest.mark.parametrize("column", ["mel", "audio"])
def test_the_reader_gives_what_was_written_or_nothing(dataset: Path, column: str):
    whole, refused = [Reader(dataset, column).payload(row) for row in range(4)], 0
    for place in spoiled(dataset / column / "000000.tar"):
        reader = Reader(dataset, column)
        for row in range(4):
            try:
                assert reader.payload(row) == whole[row], place
            except DataProblem:
                assert row < 2, place
                refused += 1
    assert refused > sum(map(len, whole[:2])) // STRIDE  # each flip in a payload, and some cuts


@pytest.mark.parametrize("column", ["mel", "audio"])
def test_the_plain_pipeline_ends_in_an_error_at_every_change(dataset: Path, column: str):
    whole = [json.dumps(example["json"]) for example in pipeline(dataset, [column])]
    for place in spoiled(dataset / column / "000000.tar"):
        given = []
        with pytest.raises(DataProblem):
            given.extend(json.dumps(example["json"]) for example in pipeline(dataset, [column]))
        assert len(given) <= 2, place
    assert [json.dumps(example["json"]) for example in pipeline(dataset, [column])] == whole


def test_what_merge_and_split_make_of_a_changed_dataset_is_what_was_written_or_nothing(dataset: Path, tmp_path: Path):
    another, out = write_sounding_dataset(tmp_path / "another" / "train", 2, seed=1), tmp_path / "out"

    def made(verb: ModuleType, name: str, *words: object) -> dict[str, tuple]:
        shutil.rmtree(out, ignore_errors=True)
        with suppress(DataProblem):
            run(verb, name, *words, "--out", out)
        manifests = list(out.rglob(MANIFEST))
        assert all(list(damage_of(path.parent)) == [] for path in manifests)
        return contents(manifests[0].parent) if manifests else {}

    merging = (merge, "merge", dataset, another, "--columns", "mel")
    dividing = (split, "split", dataset, "--fractions", "all=1")
    merged, divided = made(*merging), made(*dividing)
    assert len(merged) == 6 and len(divided) == 4
    for place in spoiled(dataset / "mel" / "000000.tar"):
        if place % 5 == 0:
            assert made(*merging) in ({}, merged), place
            assert made(*dividing) in ({}, divided), place


@NEEDS_FFMPEG
@pytest.mark.parametrize("name", [name for name in FORMATS if name not in HEADERLESS])
def test_a_recording_that_is_cut_anywhere_is_refused(name: str):
    whole = encoded(name)
    for share in range(0, 1000, 3):
        with pytest.raises(DecodeError):
            decode(whole[: len(whole) * share // 1000])
