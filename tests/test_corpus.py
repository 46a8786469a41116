"""A corpus is one file: the guide's example is loaded and built, and every file gives a command with its options."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pipelines.corpora
from pipelines import task
from pipelines.build import _words
from pipelines.corpus import Corpus, corpus_type
from shards.inspect import summary
from shards.manifest import REJECTED, Manifest, read_table
from shards.problem import DataProblem, RunFailed, UsageProblem
from shards.reader import Reader
from shards.verify import verify
from shards.words import words_in
from tests.building import build_here, everything_below, parsed
from tests.command import REPOSITORY, sonograph

GUIDE = REPOSITORY / "docs" / "add_a_corpus.md"
RATE = 22_050
LOOPS = {"house/120_a": 10.0, "house/124_b": 4.5, "swing/90_c": 3.0, "breakbeat/300_d": 8.0, "swing/no_tempo": 5.0}


@pytest.fixture
def _loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's example as a file in pipelines/corpora, as far as Python can tell."""
    (source,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "loops.py").write_text(source)
    monkeypatch.setattr(pipelines.corpora, "__path__", [*pipelines.corpora.__path__, str(tmp_path / "corpora")])
    yield
    monkeypatch.delitem(__import__("sys").modules, "pipelines.corpora.loops", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Loops of known lengths; one has beats, two of them at one border of spans of 4 s."""
    root = tmp_path / "loops"
    for number, (name, seconds) in enumerate(LOOPS.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(root / f"{name}.wav", noise, RATE)
    (root / "house/120_a.beats").write_text("0.5\n3.5\n4.0\n9.75\n")
    (root / "house/124_b.beats").write_text("")
    return root


@pytest.mark.usefixtures("_loops")
def test_the_guides_example_builds_with_spans_labels_and_events(root: Path, tmp_path: Path):
    words = ("loops", "--root", root, "--out", tmp_path / "out", "--span-seconds", 4, "--last", "keep")
    result = build_here(*words, "--shard-examples", 3)
    readers = [Reader(tmp_path / "out" / split) for split in result["metrics"]]
    rows = {
        key: (bpm, style, events, seconds)
        for reader in readers
        for key, bpm, style, events, seconds in zip(
            *(reader.labels(name).tolist() for name in ("key", "bpm", "style")),
            reader.events("beats"),
            reader.labels("seconds").tolist(),
            strict=True,
        )
    }
    stem = {key.partition("--")[0]: key.partition("@")[0] for key in rows}
    one, two, three = stem["house_120_a_wav"], stem["house_124_b_wav"], stem["swing_90_c_wav"]
    assert rows == {
        f"{one}@0": (120, 1, [(0.5, 0.5, 1), (3.5, 3.5, 2)], 4.0),
        f"{one}@{4 * RATE}": (120, 1, [(0.0, 0.0, 3)], 4.0),
        f"{one}@{8 * RATE}": (120, 1, [(1.75, 1.75, 4)], 2.0),
        f"{two}@0": (124, 1, [], 4.0),
        f"{two}@{4 * RATE}": (124, 1, [], 0.5),
        f"{three}@0": (90, 2, [], 3.0),
    }
    assert all(list(verify(reader.folder)) == [] for reader in readers)
    assert [reader.manifest.events for reader in readers] == [{"beats": {"type": "int", "classes": None}}] * len(
        readers
    )
    assert any(
        "events       beats: 4 in 3 examples  1 1  2 1  3 1  4 1" in line for r in readers for line in summary(r.folder)
    )
    with pytest.raises(DataProblem, match="has no events 'chords'.*Events: beats"):
        readers[0].events("chords")


@pytest.mark.usefixtures("_loops")
def test_recordings_in_are_examples_out_and_rejected_with_reasons(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (root / "house/124_b.beats").write_text("soon")
    with caplog.at_level("INFO"):
        result = build_here("loops", "--root", root, "--out", tmp_path / "out", "--span-seconds", 4)
    rejected = [row for split in ("train", "test") for row in _rejected(tmp_path / "out" / split)]
    reasons = {row["path"]: row["reason"].partition(":")[0] for row in rejected}
    assert reasons == {
        "house/124_b.wav": "its beats cannot be read",
        "swing/90_c.wav": "it is shorter than 4 s",
        "swing/no_tempo.wav": "its name does not begin with its tempo and a _",
    }
    assert sum(counts["examples"] for counts in result["metrics"].values()) == 2
    for reason in reasons.values():
        assert f"rejected 1 at listing: {reason}" in caplog.text
    said = re.findall(r"(\d+) recordings: (\d+) used, (\d+) rejected", caplog.text)
    assert np.sum(np.array(said, int), axis=0).tolist() == [4, 1, 3]


def _rejected(folder: Path) -> list[dict]:
    return read_table(folder / REJECTED).to_pylist() if (folder / REJECTED).is_file() else []


@pytest.mark.usefixtures("_loops")
def test_a_split_of_which_nothing_can_be_used_is_accounted_for_and_is_no_dataset(root: Path, tmp_path: Path):
    by_split = {recording.recording_id: recording.split for recording in corpus_type("loops")(root).recordings()}  # type: ignore[call-arg]
    assert set(by_split.values()) == {"train", "test"}
    for recording in corpus_type("loops")(root).recordings():  # type: ignore[call-arg]
        if recording.split == "test":
            (root / recording.path).write_bytes(b"")
    result = build_here("loops", "--root", root, "--out", tmp_path / "out")
    assert list(result["metrics"]) == ["train"]
    assert len(_rejected(tmp_path / "out" / "test")) == list(by_split.values()).count("test")
    with pytest.raises(DataProblem):
        Manifest.read(tmp_path / "out" / "test")


@pytest.mark.usefixtures("_loops")
def test_when_nothing_is_left_the_filter_is_named_and_nothing_is_written(root: Path, tmp_path: Path):
    (root / "swing/no_tempo.wav").unlink()
    with pytest.raises(DataProblem, match="of 4 loops, --fastest-bpm 60 removed 4"):
        build_here("loops", "--root", root, "--out", tmp_path / "out", "--fastest-bpm", 60)
    for path in root.rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(DataProblem, match=r"None of the 3 recordings .* can be used \(3: "):
        build_here("loops", "--root", root, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("t*"))


@pytest.mark.usefixtures("_loops")
def test_a_dry_run_says_what_would_be_done_and_does_nothing(root: Path, tmp_path: Path):
    before = everything_below(tmp_path)
    words = ("loops", "--root", root, "--out", tmp_path / "out", "--span-seconds", 4)
    planned = build_here(*words, "--dry-run")
    assert everything_below(tmp_path) == before
    totals = {name: sum(facts[name] for facts in planned["metrics"].values()) for name in ("recordings", "spans")}
    assert totals == {"recordings": 4, "spans": 5}
    files = sum((root / f"house/{name}.wav").stat().st_size for name in ("120_a", "124_b"))
    assert sum(facts["bytes_to_read"] for facts in planned["metrics"].values()) == files
    assert "1: it is shorter than 4 s" in planned["output"]
    build_here(*words)
    before = everything_below(tmp_path)
    planned = build_here(*words, "--dry-run")
    assert everything_below(tmp_path) == before
    assert all(facts["shards"] == facts["whole_shards"] for facts in planned["metrics"].values())
    assert "to read      0 files" in planned["output"]


@pytest.mark.usefixtures("_loops")
def test_another_option_of_the_corpus_or_the_span_rule_is_another_dataset(root: Path, tmp_path: Path):
    words = ("loops", "--root", root, "--out", tmp_path / "out")
    build_here(*words)
    for other, named in ((("--fastest-bpm", 300), "options is fastest_bpm"), (("--span-seconds", 2), "examples is")):
        with pytest.raises(DataProblem, match=f"holds another dataset: its {named}"):
            build_here(*words, *other)


@pytest.mark.usefixtures("_loops")
@pytest.mark.parametrize(
    "options", [(), ("--fastest-bpm", 90, "--span-seconds", 3.5, "--silence-db", -60, "--shard-examples", 7)]
)
def test_the_manifests_command_is_the_command_that_was_run(root: Path, options: tuple):
    command = parsed("loops", "--root", root, "--out", "out", "--workers", 2, *options)
    words = _words(command)
    assert words[0] == "build" and "--workers" not in words and "--out" not in words
    again = parsed(*words[1:], "--out", "out", "--workers", 2)
    assert (again.source, again.examples, again.features) == (command.source, command.examples, command.features)


@pytest.mark.parametrize("word", words_in("pipelines.corpora"))
def test_every_corpus_offers_its_own_options_on_one_screen(word: str):
    shown = sonograph("build", word, "--help", COLUMNS="100").stdout
    options = {field.name for field in fields(corpus_type(word)) if field.name != "indexes"}  # type: ignore[arg-type]
    assert len(shown.splitlines()) <= 50
    missing = {name for name in options - _renamed(word) if f"--{name.replace('_', '-')}" not in shown}
    assert not missing and "--span-seconds" in shown


def _renamed(word: str) -> set[str]:
    """Fields that have another name on the command line than in the file."""
    tree = ast.parse((REPOSITORY / "pipelines" / "corpora" / f"{word}.py").read_text())
    lines = (node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and "arg(name=" in ast.unparse(node))
    return {ast.unparse(line.target) for line in lines}


@pytest.mark.parametrize("word", words_in("pipelines.corpora"))
def test_every_corpus_is_one(word: str, tmp_path: Path):
    corpus = corpus_type(word)(root=tmp_path)  # type: ignore[call-arg]
    assert isinstance(corpus, Corpus)
    with pytest.raises((DataProblem, UsageProblem)):
        list(corpus.recordings())


def test_the_help_without_a_corpus_lists_them_all():
    shown = sonograph("build", "--help", COLUMNS="100").stdout
    assert all(word in shown for word in words_in("pipelines.corpora"))
    assert "--root" in shown and "--dry-run" in shown


@pytest.mark.parametrize("words", [("slak",), ("--root", "x", "--out", "y", "slak")])
def test_an_unknown_corpus_offers_the_nearest(words: tuple[str, ...]):
    with pytest.raises(UsageProblem, match="Did you mean slakh"):
        build_here(*words, "--root", "x", "--out", "y")


def test_a_plan_can_be_read_by_machines(root: Path, tmp_path: Path):
    """The facts of a dry run are plain JSON."""
    result = build_here("folder", "--root", root, "--out", tmp_path / "out", "--dry-run")
    assert json.loads(json.dumps(result["metrics"])) == result["metrics"]


def test_clipped_examples_are_kept_counted_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    for number, level in enumerate((0.1, 0.1, 0.7)):
        path = tmp_path / "music" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.clip(level * rng.standard_normal(16_000), -1, 1), 16_000)
    options = ("--valid-share", 0, "--test-share", 0)
    build_here("folder", "--root", tmp_path / "music", "--out", tmp_path / "out", *options)
    assert "1 examples are clipped" in caplog.text
    assert any("clipped      1 examples" in line for line in summary(tmp_path / "out" / "train"))
    assert len(Reader(tmp_path / "out" / "train")) == 3


@pytest.mark.usefixtures("_loops")
def test_an_example_that_is_neither_written_nor_rejected_stops_the_build_before_its_manifest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = task.write_shard
    monkeypatch.setattr(task, "write_shard", lambda *place, rejected, **more: whole(*place, rejected=[], **more))
    with pytest.raises(RunFailed, match=r"accounts for 1 examples \(1 written, 0 rejected\) where 2 were planned"):
        build_here("loops", "--root", root, "--out", tmp_path / "out", "--span-seconds", 8)
    assert not list((tmp_path / "out").rglob("manifest.json"))
