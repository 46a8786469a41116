"""The build as its users meet it: killed, repeated, fed with broken files, pointed at the wrong folder."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from shards.manifest import MANIFEST, REJECTED, Manifest, read_table
from shards.reader import Reader
from shards.verify import verify
from tests.building import build_here
from tests.command import REPOSITORY, sonograph

SPLITS = ("test", "train", "valid")
REAL = Path(__file__).parent / "data" / "nsynth"


def contents(out: Path) -> dict[str, bytes]:
    """Every byte of the datasets, by name."""
    files = (path for split in SPLITS for path in (out / split).rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def shards(out: Path) -> int:
    return len(list(out.glob("*/index/*.parquet")))


def start(root: Path, out: Path, workers: int) -> subprocess.Popen:
    """Begin a build in a child process, which writes what it says beside `out`."""
    words = ["build", "nsynth", "--root", root, "--out", out, "--shard-examples", 16, "--workers", workers]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with log_of(out).open("w") as log:
        command = [sys.executable, "-m", "sonograph", *map(str, words)]
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def log_of(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_suffix(".log")


def wait_for_shards(process: subprocess.Popen, out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while shards(out) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def kill_a_task(process: subprocess.Popen) -> int:
    """SIGKILL the Ray workers that run a task of this build right now; waits for one to be there."""
    while process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        running = [child for child in below if "".join(child.cmdline()).startswith("ray::Map")]
        for child in running:
            child.kill()
        if running:
            return len(running)
    return 0


@pytest.fixture(scope="module")
def undisturbed(rendered_nsynth: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "nsynth"
    process = start(rendered_nsynth, out, workers=2)
    assert process.wait(300) == 0, log_of(out).read_text()
    return contents(out)


@pytest.mark.slow
def test_killed_at_random_points_and_repeated_it_ends_in_the_same_bytes(
    rendered_nsynth: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    out, draw = tmp_path / "nsynth", random.Random(7)
    kept: dict[Path, int] = {}
    for after in (1, 6, 12):  # the driver and all it started die at once, as in a machine's loss of power
        process = start(rendered_nsynth, out, workers=1)
        wait_for_shards(process, out, after)
        time.sleep(draw.uniform(0, 0.05))
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert not list(out.glob("*/manifest.json")), "a killed build must not look whole"
        assert all(path.stat().st_ino == inode for path, inode in kept.items()), "a finished shard was made again"
        kept = {path: path.stat().st_ino for path in out.glob("*/index/*.parquet")}
    process = start(rendered_nsynth, out, workers=2)  # and now a worker dies while its driver lives
    wait_for_shards(process, out, len(kept) + 1)
    assert kill_a_task(process) > 0
    assert process.wait(300) == 0, log_of(out).read_text()
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    assert contents(out) == undisturbed


def test_repeating_a_finished_build_writes_nothing_new_and_needs_no_cluster(
    rendered_nsynth: Path, rendered_nsynth_dataset: Path
):
    before = {path: path.stat().st_ino for path in rendered_nsynth_dataset.glob("*/*/*")}
    words = ("--root", rendered_nsynth, "--out", rendered_nsynth_dataset, "--shard-examples", 64)
    result = sonograph("build", "nsynth", *words, RAY_ADDRESS="127.0.0.1:1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith(str(rendered_nsynth_dataset))
    assert {path: path.stat().st_ino for path in rendered_nsynth_dataset.glob("*/*/*")} == before


def test_every_note_of_the_corpus_becomes_an_example_with_its_labels(
    rendered_nsynth: Path, rendered_nsynth_dataset: Path
):
    for split in SPLITS:
        notes = json.loads((rendered_nsynth / f"nsynth-{split}" / "examples.json").read_text())
        reader = Reader(rendered_nsynth_dataset / split)
        assert reader.labels("key").tolist() == sorted(notes)
        assert reader.labels("pitch").tolist() == [notes[key]["pitch"] for key in sorted(notes)]
        assert reader.manifest.rendered
        assert list(verify(rendered_nsynth_dataset / split)) == []


def test_no_instrument_is_in_two_splits(rendered_nsynth_dataset: Path):
    instruments = [set(Reader(rendered_nsynth_dataset / split).labels("instrument").tolist()) for split in SPLITS]
    assert not (instruments[0] & instruments[1] or instruments[0] & instruments[2] or instruments[1] & instruments[2])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A small copy of real notes, to be damaged."""
    return shutil.copytree(REAL, tmp_path / "corpus")


def notes_of(corpus: Path) -> Iterator[Path]:
    return iter(sorted((corpus / "nsynth-test" / "audio").glob("*.wav")))


def test_broken_recordings_are_rejected_with_their_reasons_and_all_others_kept(corpus: Path, tmp_path: Path):
    notes = notes_of(corpus)
    reasons = {}
    for note, damage, reason in [
        (next(notes), lambda path: path.write_bytes(path.read_bytes()[:50_000]), "the WAV is truncated"),
        (next(notes), lambda path: path.write_bytes(b""), "0 bytes"),
        (next(notes), lambda path: soundfile.write(path, np.ones(44_100 * 4) / 2, 44_100), "its rate is 44,100 Hz"),
        (next(notes), lambda path: soundfile.write(path, np.full(64_000, np.nan), 16_000, subtype="FLOAT"), "NaN"),
        (next(notes), lambda path: soundfile.write(path, np.zeros(64_000), 16_000), "silent"),
        (next(notes), lambda path: soundfile.write(path, np.ones(16_000) / 2, 16_000), "declares only 16,000"),
        (next(notes), lambda path: path.unlink(), "No such file"),
    ]:
        damage(note)
        reasons[note.name] = reason
    examples = corpus / "nsynth-test" / "examples.json"
    entries = json.loads(examples.read_text())
    without_pitch = next(notes)
    del entries[without_pitch.stem]["pitch"]
    examples.write_text(json.dumps(entries))
    reasons["examples.json"] = f"it has no pitch: '{without_pitch.stem}'"

    result = sonograph("build", "nsynth", "--root", corpus, "--out", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    folder = tmp_path / "out" / "test"
    rejected = {Path(row["path"]).name: row["reason"] for row in read_table(folder / REJECTED).to_pylist()}
    assert rejected.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in rejected[name]
    manifest = Manifest.read(folder)
    assert manifest.planned == len(entries) == manifest.examples + len(reasons)
    assert list(verify(folder)) == []
    assert "rejected 1 at decode: it is silent" in result.stderr


def test_recordings_are_counted_once_however_many_pieces_and_shards_they_are_in(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    notes = list(notes_of(corpus))
    notes[0].write_bytes(b"")
    soundfile.write(notes[1], np.zeros(64_000), 16_000)
    soundfile.write(notes[2], np.ones(8_000) / 2, 16_000)  # shorter than a span, as the plan already knows
    words = ("--span-seconds", 1.5, "--hop-seconds", 1, "--shard-examples", 5, "--valid-share", 0, "--test-share", 0)
    with caplog.at_level(logging.INFO):
        build_here("folder", "--root", corpus / "nsynth-test", "--out", tmp_path / "out", *words)
    assert f"{len(notes)} recordings: {len(notes) - 3} used, 3 rejected" in caplog.text
    rejected = read_table(tmp_path / "out" / "train" / REJECTED).to_pylist()
    assert len(rejected) > 2 + 3, "a row for each piece of silence, also in a note that is used otherwise"


def refused(result: subprocess.CompletedProcess, code: int, *parts: str) -> None:
    """The command failed with one readable paragraph, not a traceback, and this exit code."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def build(
    root: Path, out: Path, *more: object, corpus: str = "nsynth", **environment: str
) -> subprocess.CompletedProcess:
    return sonograph("build", corpus, "--root", root, "--out", out, *more, **environment)


def test_a_missing_or_empty_source_is_named(tmp_path: Path):
    refused(build(tmp_path / "nowhere", tmp_path / "out"), 3, "nowhere")
    (tmp_path / "empty").mkdir()
    refused(build(tmp_path / "empty", tmp_path / "out"), 3, "empty")
    assert not (tmp_path / "out").exists()


def test_broken_metadata_is_named(corpus: Path, tmp_path: Path):
    examples = corpus / "nsynth-test" / "examples.json"
    examples.write_text(examples.read_text()[:100])
    refused(build(corpus, tmp_path / "out"), 3, "examples.json")
    assert not (tmp_path / "out").exists()


def test_an_unknown_corpus_or_feature_offers_the_nearest(corpus: Path, tmp_path: Path):
    refused(build(corpus, tmp_path / "out", corpus="nsint"), 2, "Did you mean nsynth?")
    refused(build(corpus, tmp_path / "out", "--features", "mell"), 2, "Did you mean mel?")
    refused(build(corpus, tmp_path / "out", "--featurs", "mel"), 2, "--features")


def test_a_folder_of_another_dataset_or_of_somebody_else_is_left_alone(
    corpus: Path, rendered_nsynth_dataset: Path, tmp_path: Path
):
    before = contents(rendered_nsynth_dataset)
    refused(build(corpus, rendered_nsynth_dataset), 3, "holds another dataset", "Pass another --out")
    assert contents(rendered_nsynth_dataset) == before
    (tmp_path / "out" / "test").mkdir(parents=True)
    (tmp_path / "out" / "test" / "thesis.tex").write_text("years of work")
    refused(build(corpus, tmp_path / "out"), 3, "was not made by a build")
    assert (tmp_path / "out" / "test" / "thesis.tex").read_text() == "years of work"


def test_a_folder_of_another_feature_contract_names_the_field_that_differs(corpus: Path, tmp_path: Path):
    column = tmp_path / "out" / "test" / "mel" / "column.json"
    refused(
        build(corpus, tmp_path / "out", RAY_ADDRESS="127.0.0.1:1"),
        4,
        "No Ray head answers at 127.0.0.1:1",
        "make cluster-up",
    )
    content = json.loads(column.read_text())
    del content["fingerprint"]
    column.write_text(json.dumps({**content, "hop_samples": 256}))
    refused(build(corpus, tmp_path / "out"), 3, "another column 'mel': its", "256, this build's is 512")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk")
def test_a_full_disk_stops_the_build_in_good_order_and_space_lets_it_continue(corpus: Path, tmp_path: Path):
    disk, out = tmp_path / "disk", tmp_path / "disk" / "nsynth"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine allows no mount")
    try:
        refused(
            build(corpus, out, "--shard-examples", 4), 4, "No space left", "MiB are free", "repeat the same command"
        )
        assert [line for line in verify(out / "test") if MANIFEST not in line] == [], "what has its name is whole"
        assert not (out / "test" / MANIFEST).exists()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert build(corpus, out, "--shard-examples", 4).returncode == 0
        assert list(verify(out / "test")) == []
        # The first worker that meets the end of the disk ends the build, and with it another in the middle of a file:
        # what that one leaves has a temporary name, and goes when the build is repeated.
        assert not list(out.rglob(".*partial*"))
    finally:
        subprocess.run(["umount", disk], check=True)
