"""The published NSynth archives: the same examples as from the folders, not unpacked, and nothing in them obeyed."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.corpora.nsynth import LABELS, Corpus, add
from pipelines.recording import Recording
from shards.manifest import REJECTED, Manifest, read_table
from shards.problem import DataProblem
from shards.reader import Reader
from shards.verify import verify
from tests.building import build_here, everything_below

GENUINE = Path(__file__).parent / "data" / "nsynth"
NAME = "guitar_acoustic_014-060-050"


def entries(root: Path, split: str = "test") -> dict[str, dict]:
    return json.loads((root / f"nsynth-{split}" / "examples.json").read_bytes())


def rewrite(root: Path, changed: dict, split: str = "test") -> None:
    (root / f"nsynth-{split}").mkdir(parents=True, exist_ok=True)
    (root / f"nsynth-{split}" / "examples.json").write_text(json.dumps(changed))


def recordings(root: Path) -> list[Recording]:
    return list(Corpus(root).recordings())


def packed(folder: Path, root: Path, names: list[str], split: str = "test") -> Path:
    """The split as its publisher packs it, its files in the given order."""
    root.mkdir(exist_ok=True)
    with tarfile.open(root / f"nsynth-{split}.jsonwav.tar.gz", "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    return root


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("order", ["sorted", "reversed", "mixed"])
def test_the_archive_gives_the_same_examples_as_the_folder(tmp_path: Path, order: str):
    names = files_of(GENUINE)
    names = {"sorted": names, "reversed": names[::-1], "mixed": names[1::2] + names[::2]}[order]
    packed(GENUINE, tmp_path / "packed", names)
    archives = everything_below(tmp_path / "packed")
    words = ("--shard-examples", 5)
    build_here("nsynth", "--root", GENUINE, "--out", tmp_path / "a", *words)
    build_here("nsynth", "--root", tmp_path / "packed", "--out", tmp_path / "b", *words)
    folder, archive = (Reader(tmp_path / out / "test") for out in "ab")
    assert len(folder) == len(archive) == 16
    for name in ("index", "key", "source_digest", *LABELS):
        assert folder.labels(name).tolist() == archive.labels(name).tolist(), name
    for row in range(16):
        np.testing.assert_array_equal(folder.read(row), archive.read(row))
    assert list(verify(archive.folder)) == []
    assert everything_below(tmp_path / "packed") == archives, "something was written beside the archive"
    assert all(path.startswith("nsynth-test.jsonwav.tar.gz/") for path in archive.labels("source_path"))


def test_a_folder_and_an_archive_are_read_side_by_side_and_splits_keep_their_instruments_apart(tmp_path: Path):
    brass = {name: entry for name, entry in entries(GENUINE).items() if entry["instrument_str"] == "brass_acoustic_016"}
    others = {name: entry for name, entry in entries(GENUINE).items() if name not in brass}
    train = tmp_path / "unpacked"
    shutil.copytree(GENUINE / "nsynth-test", train / "nsynth-train")
    rewrite(train, dict([brass.popitem()]) | others, "train")
    root = tmp_path / "root"
    rewrite(root, brass)
    packed(train, root, files_of(train), "train")
    refused = {recording.problem for recording in recordings(root) if recording.problem}
    assert "its instrument is also in valid or test: training would make it known there" in refused
    assert Counter(recording.split for recording in recordings(root)) == {"train": 16, "test": 1}


def test_a_half_downloaded_archive_is_a_clear_problem_and_nothing_is_written(tmp_path: Path):
    path = packed(GENUINE, tmp_path / "packed", files_of(GENUINE)) / "nsynth-test.jsonwav.tar.gz"
    path.write_bytes(path.read_bytes()[:700_000])
    with pytest.raises(DataProblem, match=r"probably interrupted.*Download it again.*700,000 bytes are here"):
        build_here("nsynth", "--root", path.parent, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "test").exists()


def test_an_archive_without_examples_json_is_named(tmp_path: Path):
    root = packed(GENUINE, tmp_path / "packed", [name for name in files_of(GENUINE) if name.endswith(".wav")])
    with pytest.raises(DataProblem, match=r"tar.gz/nsynth-test/examples.json cannot be read: No such file"):
        recordings(root)


def test_nothing_in_an_archive_is_obeyed(tmp_path: Path):
    (tmp_path / "secret.wav").write_bytes((GENUINE / f"nsynth-test/audio/{NAME}.wav").read_bytes())
    root = packed(GENUINE, tmp_path / "packed", [name for name in files_of(GENUINE) if NAME not in name])
    with tarfile.open(root / "nsynth-test.jsonwav.tar", "w") as tar:
        for name in files_of(GENUINE):
            if NAME not in name:
                tar.add(GENUINE / name, name)
        for name, kind, target in (
            (f"nsynth-test/audio/{NAME}.wav", tarfile.SYMTYPE, str(tmp_path / "secret.wav")),
            ("nsynth-test/audio/../../../secret.wav", tarfile.REGTYPE, ""),
            ("/tmp/absolute.wav", tarfile.REGTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    (root / "nsynth-test.jsonwav.tar.gz").unlink()
    before = set(tmp_path.rglob("*"))
    build_here("nsynth", "--root", root, "--out", tmp_path / "out")
    rejected = {row["path"]: row["reason"] for row in read_table(tmp_path / "out/test" / REJECTED).to_pylist()}
    home = "nsynth-test.jsonwav.tar/nsynth-test/audio"
    assert rejected == {
        f"{home}/{NAME}.wav": "it is a link or a device in the archive, not a file",
        f"{home}/nsynth-test/audio/../../../secret.wav": "its name leads out of the archive",
        f"{home}//tmp/absolute.wav": "its name leads out of the archive",
    }
    assert Manifest.read(tmp_path / "out/test").examples == 15
    assert {path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(tmp_path / "out")} == set()


def test_published_notes_are_added_from_their_archive_as_from_their_folder(tmp_path: Path):
    roots = [tmp_path / "from-folder", tmp_path / "from-archive"]
    for root in roots:
        rewrite(root, {"other": {}})
    assert add(roots[0], GENUINE) == add(roots[1], packed(GENUINE, tmp_path / "packed", files_of(GENUINE))) == 16
    assert everything_below(roots[0]) == everything_below(roots[1])
    assert len(list(roots[0].rglob("*.wav"))) == 16
