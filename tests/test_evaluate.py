"""The evaluate command: one answer, whole beside its checkpoint, compared example by example, repeated at no cost."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from shards.problem import DataProblem, UsageProblem
from tests.bumps import write_bumps
from tests.command import sonograph
from tests.tiny_run import write_run
from trainers.checkpoint import checkpoint_folder
from trainers.encoder import ContractMismatch, open_encoder
from trainers.evaluate import RESULTS, SCORES, TABLE, Evaluate, main
from trainers.tracking import Run, Signature, events

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
LABELS = ("pitch", "family")


@pytest.fixture(scope="module")
def bumps(tmp_path_factory) -> Path:
    sizes = {"train": 60, "valid": 30, "test": 40}
    return write_bumps(tmp_path_factory.mktemp("datasets") / "bumps", examples=sizes, frames=96, noise=2.0)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with a tracking store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def asked(bumps: Path, checkpoint: str = "column:mel", **options: object) -> Evaluate:
    return Evaluate(**{"checkpoint": checkpoint, "data": bumps, "labels": ("pitch",), "size": "debug", **options})


def results_in(folder: Path) -> dict:
    return json.loads((folder / RESULTS).read_bytes())


@pytest.fixture(scope="module")
def answered(tmp_path_factory, bumps) -> tuple[Path, dict[str, object]]:
    """A run that was asked by the command: where it was called, and what it returned."""
    here = tmp_path_factory.mktemp("here")
    run = write_run(here / "runs" / "tiny", bumps)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        signature, example = Signature((-1, 128, 96), (-1, 32)), np.zeros((1, 128, 96))
        Run(run).model(checkpoint_folder(run), "myna-base", alias="candidate", signature=signature, example=example)
        command = asked(
            bumps,
            "runs/tiny",
            labels=LABELS,
            against=("random:runs/tiny", "column:mel", "runs/tiny"),
            cluster="instrument",
        )
        outcome = main(command)
    assert run.is_dir()
    return here, outcome


def test_the_answer_lies_whole_beside_its_checkpoint_and_is_printed_last(answered):
    here, outcome = answered
    folder = here / str(outcome["output"]).splitlines()[-1]
    assert folder.parent == here / "runs" / "tiny" / "evaluations"
    names = {path.name for path in folder.iterdir()}
    assert names == {RESULTS, TABLE, SCORES, "pitch_confusion.png", "family_confusion.png"}
    assert (folder / TABLE).read_text() in str(outcome["output"])
    with np.load(folder / SCORES, allow_pickle=False) as scores:
        assert scores["score.pitch_accuracy"].mean() == pytest.approx(
            results_in(folder)["metrics"]["pitch_accuracy"]["value"]
        )
        assert len(scores["unit.instrument"]) == len(np.unique(scores["unit.example"])) == 40
    results = results_in(folder)
    assert (results["checkpoint"], results["corpus"], results["examples"]) == (
        "runs/tiny step 1",
        "bumps-rendered",
        40,
    )


def test_every_control_is_compared_over_examples_and_over_instruments(answered):
    metric = answered[1]["metrics"]["pitch_accuracy"]
    assert set(metric["against"]) == {"random:runs/tiny", "column:mel", "runs/tiny"}
    for against in metric["against"].values():
        assert set(against["intervals"]) == {"example", "instrument"}
        assert against["difference"] == pytest.approx(metric["value"] - against["value"])
    assert metric["intervals"]["example"]["units"] == 40
    assert metric["intervals"]["instrument"]["units"] <= 12


def test_a_random_control_is_several_draws_and_a_checkpoint_against_itself_no_difference(answered):
    against = answered[1]["metrics"]["pitch_accuracy"]["against"]
    assert [len(against[name]["draws"]) for name in ("random:runs/tiny", "column:mel", "runs/tiny")] == [3, 1, 1]
    itself = against["runs/tiny"]
    assert itself["difference"] == 0 and itself["intervals"]["example"]["verdict"] == "not distinguishable"


def test_the_run_in_mlflow_shows_numbers_datasets_and_pictures(answered):
    here, outcome = answered
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name.startswith("sonograph/"))
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = outcome["metrics"]
    assert run.data.metrics["eval/bumps-rendered/pitch_accuracy"] == metrics["pitch_accuracy"]["value"]
    difference = metrics["family_accuracy"]["against"]["column:mel"]["difference"]
    assert run.data.metrics["eval/bumps-rendered/family_accuracy_minus_column:mel"] == pytest.approx(difference)
    (point,) = client.get_metric_history(run.info.run_id, "eval/bumps-rendered/pitch_accuracy")
    assert point.step == 1
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {
        f"bumps-rendered/{split}" for split in ("train", "valid", "test")
    }
    (folder,) = client.list_artifacts(run.info.run_id, "evaluations")
    shown = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, folder.path)}
    assert {RESULTS, TABLE, "pitch_confusion.png"} <= shown


def test_a_registered_model_is_asked_as_its_checkpoint_is(answered, monkeypatch):
    here, _ = answered
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registered, checkpoint = open_encoder("models:/myna-base@candidate"), open_encoder("runs/tiny")
    assert (registered.about, registered.step) == (checkpoint.about, 1)
    with pytest.raises(DataProblem, match="models:/myna-base@candidate"):
        open_encoder("models:/myna-base@canditate")


def test_repeating_a_command_shows_the_same_answer_and_computes_nothing(bumps, here):
    first = main(asked(bumps))
    times = {path: path.stat().st_mtime_ns for path in Path(first["folder"]).iterdir()}
    assert main(asked(bumps)) == first
    assert times == {path: path.stat().st_mtime_ns for path in Path(first["folder"]).iterdir()}


def test_asking_again_gives_the_same_numbers(bumps, here):
    first = main(asked(bumps))
    written = (Path(first["folder"]) / RESULTS).read_bytes()
    os.utime(Path(first["folder"]) / RESULTS, ns=(0, 0))
    assert main(asked(bumps, fresh=True)) == first
    assert (Path(first["folder"]) / RESULTS).read_bytes() == written
    assert (Path(first["folder"]) / RESULTS).stat().st_mtime_ns > 0


def test_another_question_gets_another_folder(bumps, here):
    folders = {
        main(asked(bumps, dry_run=True, **options))["output"].splitlines()[-1]
        for options in (
            {},
            {"seed": 1},
            {"labels": ("family",)},
            {"cluster": "instrument"},
            {"against": ("column:mel",)},
        )
    }
    assert len(folders) == 5


def test_a_dry_run_writes_nothing(bumps, here):
    main(asked(bumps, dry_run=True))
    assert list(here.iterdir()) == []


def test_an_answer_that_failed_halfway_is_no_answer(bumps, here):
    with pytest.raises(UsageProblem, match="need a regression"):
        main(asked(bumps, labels=("pitch", "loudness")))
    assert not list(here.rglob(RESULTS))


def test_a_checkpoint_that_hears_another_contract_is_refused_before_anything_is_computed(answered, tmp_path, bumps):
    here, _ = answered
    lines = len(list(events(here / "runs" / "tiny")))
    other = write_bumps(
        tmp_path, examples={"train": 20, "valid": 10, "test": 10}, contract={"hop_samples": 160, "fingerprint": "f"}
    )
    with pytest.raises(ContractMismatch, match="hop_samples: 160 there, 512 in training"):
        main(asked(other, str(here / "runs" / "tiny")))
    assert len(list(events(here / "runs" / "tiny"))) == lines


def test_splits_of_different_contracts_are_refused_by_controls_too(tmp_path):
    write_bumps(tmp_path, examples={"train": 20, "valid": 10})
    write_bumps(tmp_path, examples={"test": 10}, contract={"hop_samples": 160, "fingerprint": "f"})
    with pytest.raises(ContractMismatch, match="hop_samples"):
        main(asked(tmp_path))


@pytest.mark.parametrize(
    ("options", "problem", "said"),
    [
        ({"evaluator": "prob"}, UsageProblem, "Did you mean probe?"),
        ({"labels": ("pich",)}, UsageProblem, "Did you mean pitch?"),
        ({"cluster": "instument"}, DataProblem, "has no label 'instument'"),
        ({"resamples": 5}, UsageProblem, "--resamples 5"),
        ({"random_seeds": 0}, UsageProblem, "--random-seeds 0"),
        ({"against": ("column:mell",)}, DataProblem, "has no column 'mell'"),
    ],
)
def test_a_mistyped_option_is_answered_with_its_remedy(bumps, here, options, problem, said):
    with pytest.raises(problem) as refused:
        main(asked(bumps, **options))
    assert said in str(refused.value)


def test_a_dataset_without_test_split_and_one_split_alone_are_refused(bumps, tmp_path):
    write_bumps(tmp_path, examples={"train": 20, "valid": 10})
    with pytest.raises(DataProblem, match="no finished dataset for test"):
        main(asked(tmp_path))
    with pytest.raises(DataProblem, match=f"Name its parent: {bumps}"):
        main(asked(bumps / "train"))


def test_an_empty_split_is_refused(tmp_path):
    write_bumps(tmp_path, examples={"train": 20, "valid": 10, "test": 0})
    with pytest.raises(DataProblem, match="holds no example"):
        main(asked(tmp_path))


def test_the_command_prints_table_then_place_and_exits_by_kind_of_problem(bumps, tmp_path):
    words = ["evaluate", "column:mel", "probe", "--data", bumps, "--labels", "family"]
    done = sonograph(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert (tmp_path / last / RESULTS).is_file() and "family_accuracy" in done.stdout
    assert sonograph("evaluate", "runs/nothing", "--data", bumps, cwd=tmp_path).returncode == 2
