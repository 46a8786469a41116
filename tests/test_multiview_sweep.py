"""The paper's grid as one command: which trainings it means, and what a killed one leaves to be done."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.command import REPOSITORY, sonograph
from tests.vectors import write_notes
from trainers.config import TrainConfig, load
from trainers.stacks import likeness, stacks_of
from trainers.sweep import COMMAND
from trainers.sweeps.multiview import SEEDS, paper
from trainers.tracking import events

WORDS = ("sweep", "multiview:paper", "--size", "debug", "--data.dataset", "datasets/notes", "--epochs", "30")


def real(test: Callable) -> Callable:
    """A test of the command itself, which takes minutes."""
    return pytest.mark.slow(pytest.mark.timeout(900)(test))


def first(sweep_members: Mapping[str, tuple[TrainConfig, ...]]) -> Mapping[str, TrainConfig]:
    return {name: configs[0] for name, configs in sweep_members.items()}


@pytest.mark.parametrize("size", ["paper", "laptop", "debug"])
def test_the_grid_has_54_cells_and_46_trainings_a_seed(size):
    sweep = paper(size)
    assert len(sweep.members) == 54 and 6 <= sweep.stack <= 18
    for seed in range(SEEDS[size]):
        configs = {name: per_seed[seed] for name, per_seed in sweep.members.items()}
        assert len(set(configs.values())) == 46
        assert len({config for name, config in configs.items() if not name.endswith("-1.0")}) == 45
        assert {config.seed for config in configs.values()} == {seed}


def test_the_cells_are_in_the_order_of_principle_kind_and_weight():
    names = list(paper().members)
    assert names[:7] == [*(f"infonce-sim-{w}" for w in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)), "infonce-sep-0.0"]
    assert names[18] == "cosine-sim-0.0" and names[-1] == "vicreg-both-1.0"


def test_without_reconstruction_nothing_is_decoded_and_with_nothing_else_the_training_is_the_variant():
    for name, config in first(paper().members).items():
        assert config.model.decoder == (not name.endswith("-0.0"))
        if name.endswith("-1.0"):
            assert config == load("multiview:reconstruction")
    assert first(paper().members)["infonce-both-0.4"] == load("multiview:best")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with notes, as a user has one."""
    here = tmp_path_factory.mktemp("sweep")
    write_notes(here / "datasets" / "notes", {"train": 50, "valid": 20, "test": 240})
    return here


def test_stacks_hold_every_training_once_and_no_more_than_they_may(here, monkeypatch):
    monkeypatch.chdir(here)
    plan = COMMAND([*WORDS[1:]])
    for most in (1, 5, 18, 100):
        stacks = stacks_of(plan.every, most)
        assert sorted(task.run for stack in stacks for task in stack) == sorted(task.run for task in plan.every)
        assert max(map(len, stacks)) <= most and len(stacks) == -(-46 // most)
        assert max(map(len, stacks)) - min(map(len, stacks)) <= 1
        for stack in stacks:
            assert len({likeness(task.config) for task in stack}) == 1
    assert {task.steps for task in plan.every} == {plan.every[0].training().steps_per_epoch * 30}


def test_members_of_one_training_share_a_run(here, monkeypatch):
    monkeypatch.chdir(here)
    plan = COMMAND([*WORDS[1:]])
    assert len(plan.tasks) == 54 and len(plan.every) == 46
    assert len({plan.tasks[name][0].run for name in plan.tasks if name.endswith("-1.0")}) == 1
    assert plan.titles[plan.tasks["vicreg-sep-1.0"][0].run] == "infonce-sim-1.0-s0"
    assert plan.titles[plan.tasks["vicreg-sep-0.8"][0].run] == "vicreg-sep-0.8-s0"


@pytest.fixture(scope="module")
def place(here: Path) -> Path:
    """The sweep's folder, after the command was killed in the middle and repeated to its end."""
    _kill_after_an_epoch(here)
    finished = sonograph(*WORDS, "--json", cwd=here)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return here / json.loads(finished.stdout.splitlines()[-1])["output"].splitlines()[-1]


@real
def test_no_finished_epoch_is_trained_again(here, place):
    tags = [event.fields["values"] for run in _runs(here) for event in events(run) if event.kind == "tags"]
    begun = [int(values["training.from_step"]) for values in tags if "training.from_step" in values]
    assert begun.count(0) == 46 and any(begun)
    assert not list(place.glob("stacks/*/step-*"))


@real
def test_every_member_is_a_run_whose_margins_are_known(here, place):
    assert len(_runs(here)) == 46
    for run in _runs(here):
        assert {folder.name for folder in (run / "checkpoints").glob("step-*")} >= {"step-00000180"}
    words = ("evaluate", _runs(here)[0].relative_to(here), "margins", "--data", "datasets/notes")
    finished = sonograph(*words, cwd=here)
    assert "complete since an earlier call" in finished.stderr and "pitch_margin" in finished.stdout


@real
def test_the_table_has_a_row_for_each_cell(place):
    with (place / "plots" / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54 and len({row["run"] for row in rows}) == 46
    assert all(float(row["pitch_margin"]) <= 1 for row in rows)
    assert all((row["mse"] == "") == row["cell"].endswith("-0.0") for row in rows)


@real
def test_mlflow_has_one_parent_and_a_nested_run_for_each_training(here, place):
    with sqlite3.connect(here / "runs" / "mlflow.db") as store:
        parents = dict(store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        names = dict(store.execute("select run_uuid, name from runs"))
        statuses = {status for (status,) in store.execute("select status from runs")}
        measured = store.execute("select count(*) from latest_metrics where key like 'eval/%/pitch_margin'")
        assert measured.fetchone() == (46,)
    store.close()
    assert len(parents) == 46 and {names[parent] for parent in parents.values()} == {place.name}
    assert "cosine-sep-0.6-s0" in {names[run] for run in parents}
    assert statuses == {"FINISHED"}


@real
def test_a_complete_sweep_trains_nothing(here, place):
    before = {path: path.stat().st_mtime_ns for path in here.glob("runs/*/checkpoints/*/card.json")}
    finished = sonograph(*WORDS, cwd=here)
    assert finished.returncode == 0 and "all 46 trainings complete" in finished.stderr
    assert before == {path: path.stat().st_mtime_ns for path in here.glob("runs/*/checkpoints/*/card.json")}


@real
def test_work_whose_process_dies_is_tried_again_and_a_failure_stops_no_other(tmp_path):
    command = [sys.executable, "-m", "tests.spreading", str(tmp_path)]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found == {"ended": ["failing", "mortal", "plain"], "problem": "This one cannot work."}
    assert (tmp_path / "mortal").exists() and (tmp_path / "mortal.tries").read_text() == "xx"
    assert (tmp_path / "failing.tries").read_text() == "x"


def _runs(here: Path) -> list[Path]:
    return sorted(path.parent for path in here.glob("runs/multiview-*/config.json"))


def _kill_after_an_epoch(here: Path) -> None:
    """Start the command, and end it without warning when a stack has its first state."""
    command = [sys.executable, "-m", "sonograph", *WORDS]
    with (here / "killed.log").open("w") as log:
        running = subprocess.Popen(
            command, cwd=here, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=log, stderr=log
        )
        end = time.monotonic() + 300
        while not list(here.glob("runs/sweep-*/stacks/*/step-*/progress.json")) and time.monotonic() < end:
            assert running.poll() is None, (here / "killed.log").read_text()[-2000:]
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert list(here.glob("runs/sweep-*/stacks/*/step-*"))
