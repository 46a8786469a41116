"""What is planned to be rendered, and the command that does it, in child processes that may be killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.music.layouts.nsynth import FAMILIES, VELOCITIES, planned_notes
from pipelines.music.synthesis import SOUNDFONT
from pipelines.recording import SPLITS
from pipelines.render import Render, _chunks, main
from shards.problem import UsageProblem
from shards.words import module_named
from tests.command import REPOSITORY, sonograph

GENUINE = Path(__file__).parent / "data" / "nsynth"
NOTES = 40
LAYOUTS = ("audioset", "emomusic", "folder", "giantsteps", "gtzan", "magnatagatune", "nsynth", "slakh")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A small corpus with genuine notes added, and what the command said."""
    root = tmp_path_factory.mktemp("data") / "nsynth"
    words = ("--notes", NOTES, "--seed", 3, "--workers", 2)
    return root, sonograph("render", "nsynth", "--out", root, *words, "--real", GENUINE)


def notes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "RESULT.json"}


@settings(max_examples=15)
@given(notes=st.integers(33, 2_000), seed=st.integers(0, 2**32))
def test_a_plan_has_every_family_in_every_split_and_no_instrument_in_two(notes: int, seed: int):
    planned = planned_notes(notes, seed)
    assert len({note.name for note in planned}) == len({note.entry["note"] for note in planned}) == notes
    for split in SPLITS:
        counts = Counter(note.entry["instrument_family_str"] for note in planned if note.split == split)
        assert set(counts) == set(FAMILIES)
        assert max(counts.values()) - min(counts.values()) <= 1
    homes = {(note.entry["instrument"], note.entry["instrument_str"], note.split) for note in planned}
    assert len({home[0] for home in homes}) == len({home[1] for home in homes}) == len(homes)
    assert {note.entry["velocity"] for note in planned} <= set(VELOCITIES)


def test_the_default_corpus_probes_over_a_thousand_notes_of_many_unseen_instruments():
    planned = planned_notes(5_000, 0)
    assert Counter(note.split for note in planned) == {"train": 3_500, "valid": 400, "test": 1_100}
    assert len({note.entry["instrument"] for note in planned if note.split == "test"}) > 100


def test_another_seed_gives_other_notes_of_the_same_presets_in_the_same_splits():
    first, second = planned_notes(5_000, 0), planned_notes(5_000, 1)
    assert {note.name for note in first} != {note.name for note in second}
    homes = {(note.tone.bank, note.tone.program, note.split) for note in first + second}
    assert len(homes) == len({home[:2] for home in homes})


@pytest.mark.parametrize("notes", [-1, 0, 32, 40_001])
def test_a_number_of_notes_that_cannot_be_had_is_a_usage_problem(notes: int):
    with pytest.raises(UsageProblem, match="Pass --notes between 33 and 40,000"):
        planned_notes(notes, 0)


def test_the_largest_corpus_has_names_of_three_digits():
    planned = planned_notes(40_000, 0)
    assert {len(str(note.entry["instrument_str"]).rsplit("_", 1)[1]) for note in planned} == {3}


def test_the_command_ends_with_the_folder_and_a_record_of_what_is_in_it(rendered):
    root, said = rendered
    assert (said.returncode, said.stdout.splitlines()[-1]) == (0, str(root)), said.stderr
    metrics = json.loads((root / "RESULT.json").read_bytes())["metrics"]
    assert {name: metrics[name] for name in ("train notes", "valid notes", "test notes", "rendered_now", "real")} == {
        "train notes": 18,
        "valid notes": 11,
        "test notes": 11,
        "rendered_now": 2,
        "real": 16,
    }
    assert metrics["hours_now"] == pytest.approx(40 * 4 / 3600)


def test_a_rendered_corpus_says_what_it_is_and_from_what_it_was_made(rendered):
    marker = json.loads((rendered[0] / "rendered.json").read_bytes())
    assert marker["what"] == "Rendered from a SoundFont in the layout of nsynth; not the published dataset."
    assert {name: marker[name] for name in ("corpus", "notes", "seed")} == {"corpus": "nsynth", "notes": 40, "seed": 3}
    assert marker["soundfont"] == sha256(SOUNDFONT.read_bytes()).hexdigest()
    assert marker["fluidsynth"].count(".") == 2


def test_progress_is_one_measured_line(rendered):
    _, said = rendered
    assert "render nsynth  piece 2/2  0.04 hours of music  " in said.stderr
    assert "x real time  eta 0.0 min" in said.stderr


def test_the_repeated_command_says_that_all_is_there_and_changes_nothing(rendered):
    root, _ = rendered
    before = notes(root)
    said = sonograph("render", "nsynth", "--out", root, "--notes", NOTES, "--seed", 3, "--real", GENUINE)
    assert said.returncode == 0
    assert "all 2 pieces are there already" in said.stderr
    assert notes(root) == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path):
    said = sonograph("render", "nsynth", "--out", tmp_path / "nsynth", "--dry-run")
    assert said.returncode == 0
    assert said.stdout.startswith("3,500 train notes, 400 valid notes, 1,100 test notes, ")
    assert "5.56 hours of music in 157 pieces, 0 of them in " in said.stdout
    assert not (tmp_path / "nsynth").exists()


def test_killed_at_any_moment_and_repeated_the_command_ends_in_the_same_bytes(rendered, tmp_path: Path):
    undisturbed, root = rendered[0], tmp_path / "nsynth"
    words = ["render", "nsynth", "--out", str(root), "--notes", str(NOTES), "--seed", "3", "--workers", "1"]
    for written in (1, 33):
        child = subprocess.Popen(
            [sys.executable, "-m", "sonograph", *words],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while len(list(root.rglob("*.wav"))) < written and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert written <= len(list(root.rglob("*.wav"))), "the note was not there in a minute"
    said = sonograph(*words, "--real", GENUINE)
    assert said.returncode == 0, said.stderr
    assert notes(root) == notes(undisturbed)


def test_a_sound_cut_short_by_a_full_disk_is_one_readable_error_and_leaves_nothing_that_looks_whole(tmp_path: Path):
    program = tmp_path / "fluidsynth"
    program.write_text(
        f'#!/bin/sh\n{shutil.which("fluidsynth")} "$@" || exit\n'
        'while [ $# -gt 0 ]; do [ "$1" = -F ] && truncate -s 1000000 "$2"; shift; done\n'
    )
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    said = sonograph("render", "nsynth", "--out", tmp_path / "nsynth", "--notes", NOTES, PATH=path)
    assert said.returncode == 1
    assert "fluidsynth failed: 1,000,000 of " in said.stderr
    assert "free some space" in said.stderr
    assert not [*tmp_path.rglob("*.wav"), *tmp_path.rglob("examples.json")]


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("nsinth",), 2, "Did you mean nsynth"),
        (("annotated",), 2, "annotated can be read but not rendered"),
        (("nsynth", "--notes", "5"), 2, "Pass --notes between 33 and 40,000"),
        (("nsynth", "--notes", "0"), 2, "There is no music of notes 0"),
        (("audioset", "--hours", "nan"), 2, "There is no music of hours nan"),
        (("nsynth", "--hours", "1"), 2, "nsynth takes --notes (default 5,000), and not --hours"),
        (("audioset", "--hours", "1", "--tracks", "3"), 2, "audioset takes --hours (default 1), and not --tracks"),
        (("gtzan", "--real", "."), 2, "--real is for layouts that published files can be added to"),
        (("nsynth", "--seed", "-1"), 2, "--seed is -1"),
        (("nsynth", "--workers", "0"), 2, "--workers 0"),
        (("nsynth", "--notes", "40", "--soundfont", "absent.sf2"), 4, "apt-get install fluidsynth fluid-soundfont-gm"),
    ],
)
def test_what_cannot_be_rendered_is_one_line_with_the_right_exit_code(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path
):
    said = sonograph("render", *words, "--out", tmp_path / "corpus")
    assert (said.returncode, said.stderr.count("\n")) == (code, 1)
    assert message in said.stderr
    assert not (tmp_path / "corpus").exists()


def test_a_folder_that_holds_something_else_is_refused_with_the_exit_code_of_data(tmp_path: Path):
    (tmp_path / "song.txt").write_text("mine")
    said = sonograph("render", "nsynth", "--out", tmp_path, "--notes", NOTES)
    assert (said.returncode, said.stderr.count("\n")) == (3, 1)
    assert "not rendered by this command" in said.stderr
    assert not list(tmp_path.rglob("nsynth-*"))


def test_another_rendered_corpus_in_the_folder_is_refused_and_left_alone(rendered):
    root, before = rendered[0], notes(rendered[0])
    said = sonograph("render", "nsynth", "--out", root, "--notes", NOTES, "--seed", 4)
    assert said.returncode == 3
    assert "another rendered corpus (seed 3 there, 4 here)" in said.stderr
    assert notes(root) == before


def test_a_place_where_no_folder_can_be_is_a_problem_of_the_machine(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    said = sonograph("render", "nsynth", "--out", tmp_path / "file" / "nsynth", "--notes", NOTES)
    assert (said.returncode, said.stderr.count("\n")) == (4, 1)
    assert "could not be filled" in said.stderr


def test_without_a_synthesiser_nothing_is_begun(tmp_path: Path):
    said = sonograph("render", "nsynth", "--out", tmp_path / "nsynth", "--notes", NOTES, PATH=str(tmp_path))
    assert said.returncode == 4
    assert "apt-get install fluidsynth" in said.stderr
    assert not (tmp_path / "nsynth").exists()


@pytest.mark.parametrize("word", LAYOUTS)
def test_every_layout_plans_its_default_size_the_same_way_each_time_and_writes_nothing(word: str, tmp_path: Path):
    corpus = module_named("pipelines.corpora", word)
    name, size = next(iter(corpus.RENDERED_SIZES.items()))
    plans = [corpus.planned(size={name: size}, seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert all(piece.seconds > 0 and hash(piece) for piece in plans[0] if word != "nsynth")
    shown = main(Render(word, out=tmp_path / word, seed=1, dry_run=True))
    assert f"{len(plans[0]):,} pieces, 0 of them in " in str(shown["output"])
    assert not (tmp_path / word).exists()


def test_a_corpus_lies_under_data_unless_told_otherwise():
    assert Render("gtzan").out == Path("data/gtzan")
    assert Render("gtzan", out=Path("here")).out == Path("here")


@given(st.lists(st.floats(0.5, 400), max_size=200), st.integers(1, 40))
def test_tasks_hold_every_piece_once_in_order_and_none_is_long(seconds: list[float], workers: int):
    pieces = [SimpleNamespace(seconds=length) for length in seconds]
    chunks = _chunks(pieces, workers)
    assert [piece for chunk in chunks for piece in chunk] == pieces
    assert all(chunks)
    assert max((len(chunk) for chunk in chunks), default=0) <= max(1, len(pieces) // (8 * workers) + 1)


@pytest.mark.slow
def test_music_rendered_on_ray_has_the_same_bytes_as_by_threads(tmp_path: Path):
    words = ("--hours", 0.02, "--seed", 1)
    threads = sonograph("render", "audioset", "--out", tmp_path / "threads", *words, "--workers", 1)
    on_ray = sonograph("render", "audioset", "--out", tmp_path / "ray", *words, "--workers", 2, RAY_ADDRESS="local")
    assert (threads.returncode, on_ray.returncode) == (0, 0), threads.stderr + on_ray.stderr
    assert len(list(tmp_path.glob("threads/**/*.flac"))) == 7
    assert notes(tmp_path / "ray") == notes(tmp_path / "threads")
