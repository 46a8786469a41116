"""The claims command at debug size, from rendered notes to verdicts: real corpora, trainings, probes and report."""

import csv
import json
import sqlite3
from pathlib import Path

import pytest

from claims.studies import multiview, myna
from shards.words import module_named, words_in
from tests.command import sonograph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """Where the command was called."""
    here = tmp_path_factory.mktemp("claims")
    finished = sonograph("claims", "myna", "--size", "debug", cwd=here)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.rstrip().endswith("runs/claims-myna-debug")
    return here


def test_every_claim_on_what_was_trained_gets_a_verdict_with_an_interval(asked: Path):
    findings = json.loads((asked / "runs/claims-myna-debug/findings.json").read_bytes())
    study = myna.study("debug")
    expected = [(c.text, than) for c in study.claims if c.sweep in study.sweeps for than in c.than]
    assert [(each["claim"], each["than"]) for each in findings["verdicts"]] == expected
    for each in findings["verdicts"]:
        assert each["low"] <= each["difference"] <= each["high"]
        assert each["verdict"] in ("holds", "contradicted", "undecided")


def test_all_encoders_and_controls_are_in_the_report(asked: Path):
    place = asked / "runs/claims-myna-debug"
    text = (place / "report.md").read_text()
    for encoder in ("base", "vertical", "hybrid", "mae", "vit1d", "column:mel", "random weights"):
        assert f"| {encoder} |" in text
    assert "rendered" in text and "![variants](plots/variants.png)" in text
    assert (place / "plots" / "variants.png").read_bytes()[:4] == b"\x89PNG"
    with (place / "plots" / "claims.csv").open() as file:
        assert {row["verdict"] for row in csv.DictReader(file)} <= {"holds", "contradicted", "undecided"}


def test_the_trainings_are_nested_under_their_sweep_in_mlflow(asked: Path):
    with sqlite3.connect(asked / "runs/mlflow.db") as store:
        parents = dict(store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        names = dict(store.execute("select run_uuid, name from runs"))
        statuses = {status for (status,) in store.execute("select status from runs")}
    store.close()
    assert len(parents) == 5
    assert {names[parent].partition("-debug")[0] for parent in parents.values()} == {"sweep-myna-variants"}
    assert statuses == {"FINISHED"}


def test_what_is_finished_is_not_trained_again(asked: Path):
    before = {path: path.stat().st_mtime_ns for path in asked.glob("runs/*/checkpoints/*/card.json")}
    options = ("--size", "debug", "--data.dataset", "datasets/claims-debug")
    finished = sonograph("sweep", "myna:variants", *options, cwd=asked)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "all 5 trainings complete since an earlier call" in finished.stderr
    assert len(before) >= 5
    assert before == {path: path.stat().st_mtime_ns for path in asked.glob("runs/*/checkpoints/*/card.json")}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("claims", "mina"), 2, "Did you mean"),
        (("claims", "myna", "--size", "laptop", "--sweeps", "vews"), 2, "Did you mean views"),
        (("sweep", "myna:ratio", "--size", "debug"), 2, "masking_ratio"),
        (("sweep", "myna:variants", "--size", "debug", "--seeds", "9"), 2, "from 1 to 1"),
        (("sweep",), 2, "myna:masking_ratio"),
    ],
)
def test_wrong_words_are_answered_with_the_nearest(words, code, message, tmp_path):
    finished = sonograph(*words, cwd=tmp_path)
    assert finished.returncode == code
    assert message in finished.stderr


def test_a_dry_run_lists_commands_and_claims_and_leaves_nothing(tmp_path):
    finished = sonograph("claims", "myna", "--size", "laptop", "--dry-run", cwd=tmp_path)
    assert finished.returncode == 0
    assert "sonograph sweep myna:variants --size laptop" in finished.stdout
    assert list(tmp_path.iterdir()) == []


def test_some_sweeps_of_a_study_ask_for_the_claims_on_them_alone():
    study = myna.study("laptop").only(("batch_size",))
    assert (list(study.sweeps), [claim.text for claim in study.claims]) == (
        ["batch_size"],
        ["a larger batch is better"],
    )
    assert myna.study("laptop").only(()) == myna.study("laptop")


def test_every_study_has_a_sweep_for_each_of_its_claims():
    assert words_in("claims.studies") == ["multiview", "myna"]
    for size in ("paper", "laptop"):
        assert {claim.sweep for claim in myna.study(size).claims} <= set(myna.study(size).sweeps)
        assert {"paper", "baselines"} <= set(multiview.study(size).sweeps)
    for system in ("myna", "multiview"):
        sweeps = {name.partition(":")[2] for name in known_sweeps(system)}
        assert set(module_named("claims.studies", system).study("paper").sweeps) <= sweeps


def known_sweeps(system: str) -> list[str]:
    return [f"{system}:{name}" for name in vars(module_named("trainers.sweeps", system))]
