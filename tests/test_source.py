"""Sources are read where they lie, in folders and archives, and nothing in an archive or a path is obeyed."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import archive
from pipelines.archive import open_archive
from pipelines.source import LEADS_OUT, NO_SUCH_FILE, Tree, in_archive, names_in, read_source
from shards.problem import DataProblem

FILES = {f"set/audio/{number:02d}.wav": bytes([number]) * (1000 * number) for number in range(12)}
SUFFIXES = ("tar", "tar.gz", "tgz")


@pytest.fixture(autouse=True)
def _forgotten():
    """Every test opens its archives anew."""
    archive._opened.cache_clear()
    yield
    archive._opened.cache_clear()


def write_tar(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                found = tarfile.TarInfo(member[0])
                found.size = len(member[1])
                tar.addfile(found, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_every_member_reads_as_the_file_it_was_in_any_order(tmp_path: Path, suffix: str, prefix: str):
    write_tar(tmp_path / f"a.{suffix}", [(prefix + name, payload) for name, payload in FILES.items()])
    for name in [*reversed(FILES), *FILES]:
        assert read_source(tmp_path, f"a.{suffix}/{name}") == FILES[name]
    assert dict(names_in(tmp_path, f"a.{suffix}/set/audio")) == {Path(name).name: "" for name in FILES}


def test_what_a_pass_found_is_kept_in_the_given_folder_and_nowhere_else(tmp_path: Path):
    write_tar(tmp_path / "a.tar.gz", list(FILES.items()))
    kept = tmp_path / "kept"
    read_source(tmp_path, "a.tar.gz/set/audio/03.wav", kept)
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    archive._opened.cache_clear()
    assert read_source(tmp_path, "a.tar.gz/set/audio/03.wav", kept) == FILES["set/audio/03.wav"]
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before
    assert len(before) == 3 and set(tmp_path.iterdir()) == {kept, tmp_path / "a.tar.gz"}


def test_another_archive_of_the_same_name_is_looked_through_again(tmp_path: Path):
    kept = tmp_path / "kept"
    write_tar(tmp_path / "a.tar.gz", [("one", b"1")])
    assert read_source(tmp_path, "a.tar.gz/one", kept) == b"1"
    write_tar(tmp_path / "a.tar.gz", [("other", b"22"), ("one", b"333")])
    assert read_source(tmp_path, "a.tar.gz/one", kept) == b"333"
    archive._opened.cache_clear()
    assert read_source(tmp_path, "a.tar.gz/one", kept) == b"333"


@pytest.mark.parametrize("damage", ["seek-points", "parquet", "json"])
def test_findings_that_are_damaged_or_gone_are_made_again_or_named(tmp_path: Path, damage: str):
    kept = tmp_path / "kept"
    write_tar(tmp_path / "a.tar.gz", list(FILES.items()))
    open_archive(tmp_path, "a.tar.gz", kept)
    archive._opened.cache_clear()
    (path,) = kept.glob(f"*.{damage}")
    path.write_bytes(b"nothing")
    assert read_source(tmp_path, "a.tar.gz/set/audio/05.wav", kept) == FILES["set/audio/05.wav"]


@pytest.mark.parametrize(
    "member, problem",
    [
        (special("set/link.wav", tarfile.SYMTYPE, "/etc/passwd"), "it is a link or a device"),
        (special("set/hard.wav", tarfile.LNKTYPE, "../../secret"), "it is a link or a device"),
        (special("set/pipe.wav", tarfile.FIFOTYPE), "it is a link or a device"),
        (special("set/disk.wav", tarfile.BLKTYPE), "it is a link or a device"),
        (("/etc/evil.wav", b"x"), "its name leads out of the archive"),
        (("set/../../evil.wav", b"x"), "its name leads out of the archive"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_what_an_archive_must_not_hold_is_refused_and_the_rest_is_read(
    tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes], problem: str, suffix: str
):
    write_tar(tmp_path / f"a.{suffix}", [("set/good.wav", b"good"), member, ("set/last.wav", b"last")])
    name = member.name if isinstance(member, tarfile.TarInfo) else member[0]
    assert problem in open_archive(tmp_path, f"a.{suffix}", None).members[name].problem
    with pytest.raises(DataProblem, match=f"{problem}|{LEADS_OUT}|No such file"):
        read_source(tmp_path, f"a.{suffix}/{name}")
    assert read_source(tmp_path, f"a.{suffix}/set/last.wav") == b"last"
    assert problem in dict(names_in(tmp_path, f"a.{suffix}/set")).get(name.removeprefix("set/"), problem)


def test_of_two_members_of_one_name_the_second_is_refused(tmp_path: Path):
    write_tar(tmp_path / "a.tar", [("x", b"first"), ("x", b"second")])
    assert read_source(tmp_path, "a.tar/x") == b"first"
    assert [member.problem for member in open_archive(tmp_path, "a.tar", None).members.values()] == [
        "",
        "the archive holds two files of this name",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_a_member_of_absurd_size_is_refused_without_reading_it(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archive, "MEMBER_BYTES_LIMIT", 5000)
    write_tar(tmp_path / f"a.{suffix}", [("large", bytes(5001)), ("small", b"small")])
    with pytest.raises(DataProblem, match="it is larger than"):
        read_source(tmp_path, f"a.{suffix}/large")
    assert read_source(tmp_path, f"a.{suffix}/small") == b"small"


def test_an_archive_that_inflates_without_end_is_refused_before_it_does(tmp_path: Path):
    header = tarfile.TarInfo("zeros")
    header.size = 1 << 50
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(DataProblem, match="would inflate to more than 16 GiB"):
        read_source(tmp_path, "a.tar.gz/zeros")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_of_its_own_is_refused(tmp_path: Path, kind: bytes):
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 1 << 33
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(DataProblem, match="a header claims 8,589,934,592 bytes"):
        read_source(tmp_path, "a.tar/long")


@settings(max_examples=25)
@given(share=st.floats(0.0, 0.97), suffix=st.sampled_from(["tar", "tar.gz"]))
def test_a_half_downloaded_archive_is_one_clear_problem(tmp_path: Path, share: float, suffix: str):
    rng_bytes = {name: os.urandom(len(payload)) for name, payload in FILES.items()}
    path = write_tar(tmp_path / f"a.{suffix}", list(rng_bytes.items()))
    whole = path.read_bytes()
    end = len(whole) - 10_240 if suffix == "tar" else len(whole)  # a tar is filled up with zeros, which may lack
    path.write_bytes(whole[: int(share * end)])
    with pytest.raises(DataProblem, match=r"interrupted.*Download it again.*bytes are here"):
        read_source(tmp_path, f"a.{suffix}/set/audio/00.wav")


def test_a_flipped_bit_in_a_compressed_archive_is_noticed(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar.gz", [("noise", os.urandom(300_000))])
    damaged = bytearray(path.read_bytes())
    damaged[150_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataProblem, match="cannot be read to its end"):
        read_source(tmp_path, "a.tar.gz/noise")


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "a/../../secret", "", "a\0b", "a.tar/../../secret"])
def test_a_path_that_leads_out_is_never_opened(tmp_path: Path, path: str):
    (tmp_path.parent / "secret").write_bytes(b"secret")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataProblem, match=LEADS_OUT):
        read_source(tmp_path, path)
    assert Tree(tmp_path).problem(path) == LEADS_OUT


def test_a_pipe_in_the_place_of_a_file_blocks_nobody(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(DataProblem, match="a folder, pipe or device"):
        read_source(tmp_path, "pipe.wav")


def test_links_that_the_user_has_put_into_the_folder_are_followed(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.wav").write_bytes(b"a")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "audio").symlink_to(tmp_path / "disk")
    assert read_source(tmp_path / "root", "audio/a.wav") == b"a"


def test_a_tree_lists_each_folder_once_whatever_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a/1.wav", "a/2.wav", "b/3.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    tree = Tree(tmp_path)
    there = {name: tree.problem(name) for name in ("a/1.wav", "b/3.wav", "a/9.wav", "a/2.wav", "c/4.wav", "c/5.wav")}
    assert there == {
        "a/1.wav": "",
        "b/3.wav": "",
        "a/9.wav": NO_SUCH_FILE,
        "a/2.wav": "",
        "c/4.wav": NO_SUCH_FILE,
        "c/5.wav": NO_SUCH_FILE,
    }
    assert listed == ["a", "b", "c"]


def test_a_tree_knows_members_their_order_and_their_version(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar.gz", [("z", b"zz"), ("link", b""), ("a", b"a")])
    tree = Tree(tmp_path)
    assert [tree.problem(f"a.tar.gz/{name}") for name in ("z", "a", "b")] == ["", "", NO_SUCH_FILE]
    assert tree.order("a.tar.gz/z") < tree.order("a.tar.gz/a")
    assert tree.status("a.tar.gz/z") == (2, path.stat().st_mtime_ns)


def test_a_folder_that_is_named_like_an_archive_is_a_folder(tmp_path: Path):
    (tmp_path / "mix.tar").mkdir()
    (tmp_path / "mix.tar" / "a.wav").write_bytes(b"a")
    assert in_archive(tmp_path, "mix.tar/a.wav") is None
    assert read_source(tmp_path, "mix.tar/a.wav") == b"a"
