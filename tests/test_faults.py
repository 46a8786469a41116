"""A build on a disk that is full, under a clock that is wrong, of files with odd names, changing under its hands.

The long matrix is in test_faults_build.py, test_faults_bytes.py and test_faults_store.py: make faults.
"""

import os
import resource
import shutil
import signal
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from pipelines import example_maker
from pipelines.source import read_source
from shards.decode import DecodeError, decode
from shards.manifest import MANIFEST, REJECTED, Manifest, read_table
from shards.problem import DataProblem, EnvironmentProblem
from shards.reader import Reader
from shards.verify import verify
from tests.building import build_here, everything_below
from tests.media import FORMATS, NEEDS_FFMPEG, encoded

NOTES = Path(__file__).parent / "data" / "nsynth"
RATE_HZ = 16_000
HEADERLESS = {"mp3-plain", "aac", "ac3"}
"""Streams that state no length: one that ends between two frames is whole as far as anybody can tell."""


def built(root: Path, out: Path) -> Path:
    """The dataset `test` of some notes, in four shards."""
    build_here("nsynth", "--root", root, "--out", out, "--shard-examples", 4)
    return out / "test"


def refusal(root: Path, out: Path) -> str:
    """Why the build was refused; empty when it was not."""
    try:
        built(root, out)
    except (DataProblem, EnvironmentProblem) as problem:
        return str(problem)
    return ""


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(NOTES, tmp_path_factory.mktemp("source") / "notes")


@pytest.fixture(scope="module")
def undisturbed(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return everything_below(built(notes, tmp_path_factory.mktemp("undisturbed") / "out"))


def inodes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


# Disks


@contextmanager
def files_no_larger_than(most_bytes: int) -> Iterator[None]:
    """As on a disk that is full: to write more fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_wherever_the_disk_is_full_the_build_says_so_keeps_nothing_half_written_and_continues(
    notes: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    out, said = tmp_path / "out", []
    for most_bytes in (0, 500, 2_000, 5_000, 20_000, 100_000, 170_000, 300_000):
        with files_no_larger_than(most_bytes):
            said.append(refusal(notes, out))
        left = everything_below(out / "test")
        assert (MANIFEST in left) == (said[-1] == "")
        assert {name: undisturbed[name] for name in left} == left
    assert all("repeat the same command" in why for why in said[:5])
    assert said[-1] == ""
    assert everything_below(out / "test") == undisturbed


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_whatever_file_of_an_unfinished_build_is_cut_it_is_made_again_or_named(
    notes: Path, undisturbed: dict[str, bytes], tmp_path: Path, kept: float
):
    whole = built(notes, tmp_path / "whole")
    (whole / MANIFEST).unlink()
    for name in sorted(undisturbed.keys() - {MANIFEST, "index", "mel"}):
        dataset = shutil.copytree(whole, tmp_path / "out" / "test", dirs_exist_ok=True)
        os.truncate(dataset / name, int(len(undisturbed[name]) * kept))
        why = refusal(notes, tmp_path / "out")
        assert bool(why) == name.endswith(".json")
        assert f"{dataset / name} is damaged" in why if why else everything_below(dataset) == undisturbed
        shutil.rmtree(tmp_path / "out")


# Clocks


@pytest.mark.parametrize("days", [-20_000, -1, 1, 20_000])
def test_neither_the_clock_nor_times_of_files_decide_anything(
    notes: Path, undisturbed: dict[str, bytes], tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    now, shift = time.time, 86_400 * days
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(now()) + shift))
    dataset = built(notes, out)
    assert everything_below(dataset) == undisturbed
    (dataset / MANIFEST).unlink()
    (dataset / "index" / "000002.parquet").unlink()
    before = inodes(dataset)
    for path in [*notes.rglob("*"), *out.rglob("*")]:
        os.utime(path, (max(now() + shift, 0), max(now() + shift, 0)))
    built(notes, out)
    assert everything_below(dataset) == undisturbed
    made = {name for name, inode in inodes(dataset).items() if before.get(name) != inode}
    assert made <= {MANIFEST, REJECTED, *(f"{name}/000002.{kind}" for name, kind in SHARD_2)}


SHARD_2 = (("index", "parquet"), ("mel", "parquet"), ("mel", "tar"))


# Names


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_whatever_files_are_called_each_is_one_example_with_a_plain_key_or_rejected(tmp_path: Path):
    root = tmp_path / "corpus"
    names = [
        *("a.1.wav", "a.2.wav", "a.1.2.wav", "a/b.wav", "a_b.wav", "a b.wav", " a.wav", "-a.wav"),
        *("ä.wav", unicodedata.normalize("NFD", "ä.wav"), "ÄA.wav", "äa.wav", "音楽/曲.wav", "🎵.wav", "עברית.wav"),
        *("a\nb.wav", "a\tb.wav", "a'b\"c.wav", "$(touch marker).wav", "pipe:touch marker.wav", "a::b.wav", "%2e.wav"),
        *("A.wav", "a.WAV", f"{'x' * 200}.wav", "000000000.mel.npy.wav", "__key__.wav", "con.wav", "\x1b[31m.wav"),
    ]
    paths = [os.fsencode(root / name) for name in names] + [os.fsencode(root) + b"/\xe4.wav"]
    for number, path in enumerate(paths):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - names of any bytes
        with open(path, "wb") as file:  # noqa: PTH123
            soundfile.write(
                file, 0.1 * np.random.default_rng(number).standard_normal(RATE_HZ // 4), RATE_HZ, format="WAV"
            )
    build_here("folder", "--root", root, "--out", tmp_path / "out", "--valid-share", 0, "--test-share", 0)
    dataset = tmp_path / "out" / "train"
    keys, rejected = Reader(dataset).labels("key").tolist(), read_table(dataset / REJECTED).to_pylist()
    assert [row["reason"] for row in rejected] == ["its path is not valid UTF-8"]
    assert len(set(keys)) == len(keys) == len(paths) - 1 == Manifest.read(dataset).planned - 1
    assert all(key.replace("_", "").replace("-", "").isalnum() and key.isascii() for key in keys)
    assert list(verify(dataset)) == []
    read = list(webdataset.WebDataset([str(dataset / "mel" / "000000.tar")], shardshuffle=False).decode())
    assert [sample["json"]["key"] for sample in read] == keys
    assert not (tmp_path / "marker").exists() and not Path("marker").exists()


# Sources


def noise(path: Path, seed: int) -> None:
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(RATE_HZ), RATE_HZ)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    (tmp_path / "sounds").mkdir()
    for number in range(6):
        noise(tmp_path / "sounds" / f"{number}.wav", number)
    return tmp_path / "sounds"


def build_sounds(root: Path, out: Path, *more: object) -> Path:
    shares = ("--valid-share", 0, "--test-share", 0)
    build_here("folder", "--root", root, "--out", out, "--shard-examples", 2, *shares, *more)
    return out / "train"


def test_a_source_that_changes_before_its_shard_is_made_is_what_the_index_says_it_is(sounds: Path, tmp_path: Path):
    dataset = build_sounds(sounds, tmp_path / "out")
    before = Reader(dataset).labels("source_digest").tolist()
    (dataset / MANIFEST).unlink()
    (dataset / "index" / "000001.parquet").unlink()
    for number in range(6):
        noise(sounds / f"{number}.wav", 100 + number)  # of the same length: the plan is the same
    build_sounds(sounds, tmp_path / "out")
    after = Reader(dataset).labels("source_digest").tolist()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, False, True, True]
    assert list(verify(dataset)) == []
    with pytest.raises(DataProblem, match=r"0\.wav is not what it was when .* its bytes are others"):
        build_sounds(sounds, tmp_path / "out", "--features", "mel", "logmel_stats")


@pytest.mark.parametrize("change", ["renamed", "added", "longer", "gone"])
def test_a_source_of_another_plan_is_not_mixed_into_what_is_there(sounds: Path, tmp_path: Path, change: str):
    dataset = build_sounds(sounds, tmp_path / "out", "--span-seconds", 1)
    (dataset / MANIFEST).unlink()
    before = everything_below(dataset)
    if change == "renamed":
        (sounds / "3.wav").rename(sounds / "33.wav")
    elif change == "gone":
        (sounds / "3.wav").unlink()
    elif change == "added":
        noise(sounds / "6.wav", 6)
    else:
        soundfile.write(sounds / "3.wav", np.full(2 * RATE_HZ, 0.1), RATE_HZ)
    with pytest.raises(DataProblem, match="holds another dataset: its listing is"):
        build_sounds(sounds, tmp_path / "out", "--span-seconds", 1)
    assert everything_below(dataset) == before


def test_a_corpus_that_goes_away_in_mid_build_stops_it_and_rejects_nothing(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = everything_below(build_sounds(sounds, tmp_path / "whole"))
    away, read = tmp_path / "away", []

    def reads(*given: object) -> bytes:
        read.append(given)
        if len(read) == 3:
            sounds.rename(away)
        return read_source(*given)

    monkeypatch.setattr(example_maker, "read_source", reads)
    with pytest.raises(EnvironmentProblem, match="out of reach"):
        build_sounds(sounds, tmp_path / "out")
    assert not list((tmp_path / "out").glob(f"*/{MANIFEST}"))
    away.rename(sounds)
    assert everything_below(build_sounds(sounds, tmp_path / "out")) == whole


@NEEDS_FFMPEG
@pytest.mark.parametrize("name", [name for name in FORMATS if name not in HEADERLESS])
def test_a_cut_recording_of_any_container_is_refused_and_never_a_shorter_one(name: str):
    whole = encoded(name)
    for share in (0.01, 0.5, 0.99):
        with pytest.raises(DecodeError):
            decode(whole[: int(len(whole) * share)])
