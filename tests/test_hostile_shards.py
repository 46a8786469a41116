"""Shards made to harm, their digests in order: no reader of ours runs, follows, unpacks or allocates what they say."""

import gzip
import io
import pickle
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from shards import inspect, merge, split
from shards.manifest import COLUMN_SCHEMA, MANIFEST, read_table, write_table
from shards.plain import allowed, pipeline
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.stores.remote import SCHEMES
from shards.verify import verify
from tests.copies import damage, run
from tests.forgery import (
    Part,
    approve,
    forge_bytes,
    forge_payloads,
    forge_tar,
    member,
    parts_of,
    write_sounding_dataset,
)

SAMPLES = 2048  # five frames: enough to be heard on a page
MOST_BYTES = 24 << 20
"""Of memory that reading a shard of a few kilobytes may take; what is claimed or packed in it would be far more."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounding_dataset(tmp_path_factory.mktemp("whole") / "train", samples=SAMPLES)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounding_dataset(tmp_path_factory.mktemp("another") / "train", samples=SAMPLES, seed=1)


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "train")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no shard has any business with."""
    path = tmp_path / "outside.txt"
    path.write_text("private")
    return path


@contextmanager
def nothing_happens(outside: Path) -> Iterator[None]:
    """No file appears or changes beside the dataset."""
    before = sorted(outside.parent.glob("*"))
    yield
    assert sorted(outside.parent.glob("*")) == before and outside.read_text() == "private"


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MOST_BYTES


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_the_pickle_used_here_would_have_run(tmp_path: Path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


MEMBERS: dict[str, Callable[[Path], Part]] = {
    "pickle": lambda outside: member("000000000.mel.pkl", pickle.dumps(Payload(outside.with_name("marker")))),
    "pyd": lambda outside: member("000000000.mel.pyd", pickle.dumps(Payload(outside.with_name("marker")))),
    "weights": lambda outside: member("000000000.mel.pth", pickle.dumps(Payload(outside.with_name("marker")))),
    "compressed": lambda outside: member("000000000.mel.npy.gz", gzip.compress(bytes(1 << 20))),
    "symbolic link": lambda outside: member("000000000.mel.npy", kind=tarfile.SYMTYPE, target=str(outside)),
    "hard link": lambda outside: member("000000000.mel.npy", kind=tarfile.LNKTYPE, target=str(outside)),
    "device": lambda outside: member("000000000.mel.npy", kind=tarfile.CHRTYPE),
    "pipe": lambda outside: member("000000000.mel.npy", kind=tarfile.FIFOTYPE),
    "folder": lambda outside: member("000000000.mel.npy", kind=tarfile.DIRTYPE),
    "sparse": lambda outside: member("000000000.mel.npy", kind=tarfile.GNUTYPE_SPARSE),
    "long name": lambda outside: member("000000000.mel.npy", b"x" * 600, kind=tarfile.GNUTYPE_LONGNAME),
    "extended header": lambda outside: member("000000000.mel.npy", b"19 path=/etc/passwd\n", kind=tarfile.XHDTYPE),
    "traversal": lambda outside: member("../outside.txt", b"mine"),
    "hidden traversal": lambda outside: member("000000000.mel/../../outside.npy", b"mine"),
    "absolute": lambda outside: member("/000000000.mel.npy", b"mine"),
    "dots in the key": lambda outside: member("0.00000000.mel.npy", b"mine"),
    "unicode": lambda outside: member("٠٠٠٠٠٠٠٠٠.mel.npy", b"mine"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_hostile_member_is_refused_by_name_wherever_it_stands(dataset: Path, outside: Path, kind: str):
    parts = parts_of(dataset / "mel" / "000000.tar")
    evil = MEMBERS[kind](outside)
    for wrong in ([evil, *parts[1:]], [*parts[:2], evil, *parts[2:]]):
        forge_tar(dataset, wrong)
        with nothing_happens(outside):
            assert any("mel/000000.tar: " in line for line in verify(dataset))
            with pytest.raises(DataProblem, match=r"000000.tar is not what its manifest lists"):
                list(pipeline(dataset))
            read_all(dataset)


def read_all(dataset: Path) -> None:
    """Our own reader goes by places and digests alone: it finds every example, or says that it is damaged."""
    reader = Reader(dataset)
    for row in range(len(reader)):
        with suppress(DataProblem):
            assert reader.read(row).shape == (128, 5)


def made_of(dataset: Path, another: Path, out: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What makes something of a dataset: others, by merging and dividing it, and a page."""
    yield "merge", lambda: run(merge, "merge", dataset, another, "--out", out / "merged")
    yield "split", lambda: run(split, "split", dataset, "--by", "name", "--out", out / "divided")
    yield "inspect", lambda: run(inspect, "inspect", dataset, "--html", out / "page.html")


@pytest.mark.parametrize("kind", MEMBERS)
def test_of_a_hostile_member_no_dataset_and_no_page_is_made(
    dataset: Path, another: Path, outside: Path, kind: str, tmp_path_factory: pytest.TempPathFactory
):
    forge_tar(dataset, [MEMBERS[kind](outside), *parts_of(dataset / "mel" / "000000.tar")[1:]])
    require_nothing_made(dataset, another, outside, tmp_path_factory.mktemp("out"))


def require_nothing_made(dataset: Path, another: Path, outside: Path, out: Path) -> None:
    with nothing_happens(outside):
        for verb, make in made_of(dataset, another, out):
            with pytest.raises(DataProblem, match=r"mel.000000\.tar"):
                make()
            assert not [*out.rglob(MANIFEST), *out.glob("*.html")], verb


def test_what_is_not_hostile_would_have_been_made(
    dataset: Path, another: Path, outside: Path, tmp_path_factory: pytest.TempPathFactory
):
    out = tmp_path_factory.mktemp("out")
    with nothing_happens(outside):
        for _, make in made_of(dataset, another, out):
            make()
    assert len(list(out.rglob(MANIFEST))) == 1 + 5 and (out / "page.html").is_file()
    assert damage(out) == []


def compressed_tar(dataset: Path) -> bytes:
    """What tarfile and webdataset would unpack as they read: 64 MiB, from as many kilobytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for header, payload in [member("000000000.mel.npy", bytes(64 << 20)), *parts_of(dataset / "mel/000000.tar")]:
            archive.addfile(header, io.BytesIO(payload))
    return packed.getvalue()


def claimed(size: bytes) -> Callable[[Path], bytes]:
    """The first member claims a length: in octal, or in the binary spelling of GNU tar."""

    def forged(dataset: Path) -> bytes:
        content = bytearray((dataset / "mel" / "000000.tar").read_bytes())
        content[124:136] = size
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        return bytes(content)

    return forged


@pytest.mark.parametrize(
    "content",
    [compressed_tar, claimed(b"77777777777\0"), claimed(b"00040000000\0"), claimed(b"\x80" + b"\xff" * 11)],
    ids=["compressed", "8 GiB", "8 MiB", "binary"],
)
def test_a_bomb_is_neither_unpacked_nor_given_the_memory_it_claims(
    dataset: Path, outside: Path, content: Callable[[Path], bytes]
):
    forge_bytes(dataset, content(dataset))
    with nothing_happens(outside), little_memory():
        assert any("mel/000000.tar: " in line for line in verify(dataset))
        with pytest.raises(DataProblem, match=r"000000.tar is not what its manifest lists"):
            list(pipeline(dataset))
        read_all(dataset)


def npy(header: str, data: bytes = b"") -> bytes:
    """A version 1.0 .npy file of any header."""
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def described(descr: str = "'<f2'", shape: str = "(128, 3)", order: str = "True") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{}, []], dtype=object), allow_pickle=True)
    return buffer.getvalue()


ARRAYS = {
    "373 GiB": npy(described("'<f8'", "(50000000000,)")),
    "more than 64 bits": npy(described(shape="(4294967296, 4294967296, 4294967296)")),
    "a product of nothing modulo 64 bits": npy(described(shape="(4294967296, 4294967296)")),
    "negative": npy(described(shape="(-1, 3)"), bytes(6)),
    "two negatives": npy(described(shape="(-1, -3)"), bytes(6)),
    "shorter than claimed": npy(described(), bytes(700)),
    "longer than claimed": npy(described(), bytes(800)),
    "objects": pickled_array(),
    "fields": npy(described("[('a', '<f2'), ('b', '|O')]"), bytes(768)),
    "text": npy(described("'<U4'", "(3,)"), bytes(48)),
    "a shape of words": npy(described(shape="('128', '3')"), bytes(768)),
    "a shape of none": npy(described(shape="None"), bytes(768)),
    "a list": npy("[1, 2]", bytes(768)),
    "a call": npy("__import__('pathlib').Path('marker').touch()", bytes(768)),
    "deep nesting": npy("(" * 60_000),
    "a long sum": npy("-" * 60_000 + "1"),
    "a header longer than the file": b"\x93NUMPY\x01\x00\xff\xff{",
    "another version": b"\x93NUMPY\x02\x00" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_claims_what_it_is_not_is_refused_before_anything_is_made_of_it(
    dataset: Path, outside: Path, kind: str
):
    forge_payloads(dataset, lambda payload: ARRAYS[kind])
    with nothing_happens(outside), little_memory():
        assert any("mel/000000.tar: 000000000.mel.npy is no array" in line for line in verify(dataset))
        with pytest.raises(DataProblem, match=r"000000000.mel.npy cannot be read"):
            list(pipeline(dataset))
        with pytest.raises(DataProblem, match=r"000000.tar is damaged at byte"):
            Reader(dataset).read(0)


@pytest.mark.parametrize("kind", ["373 GiB", "two negatives", "objects", "fields", "a call", "deep nesting", "nothing"])
def test_of_an_array_that_is_none_no_dataset_and_no_page_is_made(
    dataset: Path, another: Path, outside: Path, kind: str, tmp_path_factory: pytest.TempPathFactory
):
    forge_payloads(dataset, lambda payload: ARRAYS[kind])
    for verb, make in made_of(dataset, another, out := tmp_path_factory.mktemp("out")):
        with nothing_happens(outside), suppress(DataProblem):
            make()
            assert verb == "merge", "only a copy as it is may hold what it does not look into"
        assert not list(out.glob("*.html")) and not list(out.glob("divided/*/*/manifest.json"))


@pytest.mark.parametrize("place", ["offset", "bytes"])
def test_a_table_that_points_beyond_its_tar_gets_no_memory(dataset: Path, outside: Path, place: str):
    table = dataset / "mel" / "000000.parquet"
    rows = read_table(table).to_pylist()
    rows[0][place] = 400 << 30
    write_table(table, rows, COLUMN_SCHEMA)
    approve(dataset)
    with nothing_happens(outside), little_memory():
        assert any("000000000.mel.npy lies elsewhere than its table says" in line for line in verify(dataset))
        with pytest.raises(DataProblem):
            Reader(dataset).read(0)


@pytest.mark.parametrize(
    "url",
    [
        *("pipe:touch marker", "PIPE:touch marker", "-", "", "scp:host/file", "scp://host/file", "ftp://host/file"),
        *("ssh://host/file", "hf://x/y", "file:x", "http:x", "gopen+pipe://x", "memory://a::pipe://b", "ais://x"),
    ],
)
def test_a_url_that_could_run_a_program_is_refused_before_webdataset_sees_it(
    dataset: Path, outside: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(outside.parent)
    with nothing_happens(outside), pytest.raises(UsageProblem, match="was not opened"):
        pipeline(dataset, urls={"mel": [str(dataset / "mel" / "000000.tar"), url]})


def test_the_environment_cannot_turn_a_place_into_a_program(
    dataset: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(outside.parent)
    monkeypatch.setenv("GOPEN_REWRITE", f"{dataset}=pipe:touch marker ")
    with nothing_happens(outside):
        assert len(list(pipeline(dataset))) == 5


def test_plain_places_are_allowed():
    for url in ("mel/000000.tar", "/data/mel/000000.tar", "./pipe:/x.tar", *(f"{name}://x" for name in SCHEMES)):
        assert allowed(url) == url
