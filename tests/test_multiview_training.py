"""Trainings of the multi-view autoencoder on pairs of notes, and what is asked of their runs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.views import Pairs
from tests.background import in_two_processes
from tests.vectors import BANDS, WORD, write_notes, write_vectors
from trainers import checkpoint
from trainers.encoder import ContractMismatch, open_encoder
from trainers.evaluate import Evaluate
from trainers.evaluate import main as evaluate
from trainers.models.multiview import Multiview
from trainers.task import Task, prepare
from trainers.tracking import curves
from trainers.train import COMMAND, work_on

DEBUG = ("--size", "debug")


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    return write_notes(tmp_path_factory.mktemp("notes"), {"train": 48, "valid": 16, "test": 24})


def task_of(dataset: Path, out: Path, *words: str, name: str = "multiview:best") -> Task:
    out.mkdir(exist_ok=True)
    return prepare(COMMAND([name, *DEBUG, "--data.dataset", str(dataset), "--out", str(out), *words]))


@pytest.fixture(scope="module")
def run(notes, tmp_path_factory) -> Task:
    """A finished training of one process."""
    task = task_of(notes, tmp_path_factory.mktemp("runs") / "whole", "--epochs", "4", "--optimizer.lr", "3e-3")
    assert work_on(task) == task.steps == 24
    (task.run / "config.json").write_text("{}")
    return task


def weights(task: Task) -> Mapping[str, Tensor]:
    return checkpoint.open_model(sorted(task.checkpoints.glob("step-*"))[-1])[0].state_dict()


def test_training_learns_and_keeps_what_was_measured(run, notes):
    validation, kept = curves(run.run), weights(run)
    assert validation["valid/loss"][24] < validation["valid/loss"][5]
    assert validation["valid/mse"][24] < validation["valid/mse"][5]
    assert len(set(validation["valid/scale"].values())) == 1
    assert {"valid/private_rank", "valid/private_shared_cosine", "valid/sim", "valid/sep"} <= set(validation)
    numbers = np.stack([array[:, 0] for array in Reader(notes / "train", WORD).arrays(range(48))])
    np.testing.assert_allclose(kept["mean"], numbers.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(kept["deviation"], numbers.std(axis=0), atol=1e-5)


def test_a_training_that_was_stopped_continues_with_the_same_numbers(run, notes, tmp_path):
    halves = task_of(notes, tmp_path / "halves", "--epochs", "4", "--optimizer.lr", "3e-3")
    halves.stop_file.touch()
    assert work_on(halves) == 1
    halves.stop_file.unlink()
    assert work_on(halves) == 24
    assert curves(halves.run)["train/loss"] == curves(run.run)["train/loss"]
    torch.testing.assert_close(weights(halves), weights(run), rtol=0, atol=0)


def test_two_workers_take_the_steps_of_one(run, notes, tmp_path):
    two = task_of(notes, tmp_path / "two", "--epochs", "4", "--optimizer.lr", "3e-3", "--workers", "2")
    in_two_processes(two)
    assert curves(two.run)["train/loss"] == pytest.approx(curves(run.run)["train/loss"], rel=1e-4)
    torch.testing.assert_close(weights(two), weights(run), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reconstruction", []),
        ("contrastive_instrument", []),
        ("contrastive_pitch", []),
        ("best", ["--objective.negatives", "other_family"]),
        ("best", ["--objective.principle", "vicreg", "--engine.precision", "bf16"]),
        ("best", ["--data.examples", "24", "--data.valid-examples", "8", "--data.stratify", "instrument_family"]),
        ("contrastive_instrument", ["--engine.accumulation-steps", "2", "--engine.zero-stage", "2"]),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`")  # of torch itself, while DeepSpeed imports its compiler
def test_every_variant_trains(notes, tmp_path, name, words):
    task = task_of(notes, tmp_path / "run", "--epochs", "1", *words, name=f"multiview:{name}")
    assert work_on(task) == task.steps == (3 if "--data.examples" in words else 6)
    assert all(np.isfinite(value) for curve in curves(task.run).values() for value in curve.values())


def test_only_the_examples_that_were_drawn_take_part_as_partners_too(notes, tmp_path):
    words = ("--data.examples", "24", "--data.stratify", "instrument_family")
    task = task_of(notes, tmp_path / "run", *words)
    numbers = np.stack([array[:, 0] for array in Reader(notes / "train", WORD).arrays(range(48))])
    seen = set()
    for batch in task.training().from_step(0, 3 * task.steps_per_epoch):
        views = torch.cat(batch.to("cpu").views)[:, :, 0].numpy()
        seen |= {int(np.abs(numbers - view).sum(axis=1).argmin()) for view in views}
    family = Reader(notes / "train", WORD).labels("instrument_family")
    assert len(seen) == 24 and np.bincount(family[sorted(seen)]).tolist() == [8, 8, 8]


def test_partners_share_the_family_differ_in_pitch_where_they_can_and_are_others_each_epoch():
    rng, rows = np.random.default_rng(0), np.arange(256)
    family, pitch = rng.integers(11, size=256), rng.integers(24, 97, size=256)
    pitch[family == 3] = 60  # of one pitch only
    pairs = Pairs("family", 1, "pitch").cast(rows, {"family": family, "pitch": pitch}.__getitem__)
    first, again, next_epoch = (pairs.rows(rows, rows, seed=7, epoch=epoch)[:, 1] for epoch in (0, 0, 1))
    assert (first == again).all() and (first != next_epoch).any()
    assert (family[first] == family).all() and (first != rows).all()
    assert ((pitch[first] != pitch) == (family != 3)).all()
    some = np.array([200, 5, 17])  # in whatever batch
    assert (pairs.rows(some, some, seed=7, epoch=0)[:, 1] == first[some]).all()


def test_a_family_of_one_member_is_left_out_and_told_of(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        labels = {"instrument_family": [0] * 8 + [1] * 8 + [2], "pitch": [*range(8)] * 2 + [1]}
        write_vectors(tmp_path / "odd" / split, rng.normal(size=(17, BANDS)), labels)
    task = task_of(tmp_path / "odd", tmp_path / "run")
    shown = torch.cat([batch.index for batch in task.training().from_step(0, task.steps_per_epoch)])
    assert sorted(shown.tolist()) == list(range(16))
    assert "1 examples have no partner of the same instrument_family" in caplog.text


@pytest.mark.parametrize(
    ("words", "problem", "said"),
    [
        (["--data.pair-by", "instrument"], DataProblem, "has no label 'instrument'"),
        (["--data.pair-unlike", "pich"], DataProblem, "has no label 'pich'"),
        (["--data.examples", "9", "--data.stratify", "tone"], DataProblem, "has no label 'tone'"),
        (["--data.examples", "999"], DataProblem, "48 examples to choose from, fewer than the 999"),
        (["--data.pair-by", ""], UsageProblem, "pair_unlike beside pair_by"),
        (["--model.bands", "768"], DataProblem, "has 384 bands in its column 'logmel_stats'"),
        (["--data.frames", "2"], UsageProblem, r"data.frames=2 and model.frames=1"),
        (["--data.sound", "clmr"], UsageProblem, "is no mel of that rate"),
        (["--data.column", "audiomae"], DataProblem, "has no column 'audiomae'"),
    ],
)
def test_what_the_data_do_not_allow_is_refused_before_anything_starts(notes, tmp_path, words, problem, said):
    with pytest.raises(problem, match=said):
        task_of(notes, tmp_path / "run", *words)


# Questions to a run --------------------------------------------------------------------------------------------------


def test_a_run_is_an_encoder_and_random_weights_of_it_keep_what_was_measured(run, notes):
    reader = Reader(notes / "test", WORD)
    trained, random, other = (
        open_encoder(name, seed=5) for name in (str(run.run), f"random:{run.run}", "random:multiview:best")
    )
    assert trained.embed(reader).shape == (24, 32)
    for name in Multiview.fitted:
        assert torch.equal(random.model.get_buffer(name), trained.model.get_buffer(name))
        assert not torch.equal(other.model.get_buffer(name)[:384], trained.model.get_buffer(name))
    assert not torch.equal(random.model.shared[0].weight, trained.model.shared[0].weight)
    assert "fitted" in random.about and random.about != open_encoder(f"random:{run.run}", seed=6).about


def test_the_probe_asks_a_run_and_its_controls(run, notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    controls = (f"random:{run.run}", f"column:{WORD}", f"pca:{WORD}")
    told = evaluate(
        Evaluate(str(run.run), "probe", notes, ("instrument_family",), controls, resamples=100, random_seeds=1)
    )
    metric = told["metrics"]["instrument_family_accuracy"]
    assert set(metric["against"]) == set(controls) and 0 <= metric["value"] <= 1


def test_a_column_of_another_contract_is_refused(run, tmp_path):
    rng = np.random.default_rng(0)
    folder = write_vectors(
        tmp_path / "test",
        rng.normal(size=(4, BANDS)),
        {"pitch": [1] * 4},
        contract={"log": "log10", "fingerprint": "0" * 64},
    )
    with pytest.raises(ContractMismatch, match="log: log10 there"):
        open_encoder(str(run.run)).embed(Reader(folder, WORD))


def test_the_control_of_any_column_is_its_mean_frame(notes):
    reader = Reader(notes / "test", WORD)
    expected = np.stack([array.mean(axis=1) for array in reader.arrays(range(24))])
    np.testing.assert_allclose(open_encoder(f"column:{WORD}").embed(reader), expected, atol=1e-6)


def test_principal_components_are_those_of_the_training_split(notes):
    encoder = open_encoder(f"pca:{WORD}")
    train, test = (encoder.embed(Reader(notes / split, WORD)) for split in ("train", "test"))
    assert encoder.model.subspaces == {"private": slice(0, 23), "shared": slice(23, 46)}  # 48 examples vary in 47 ways
    numbers, others = (
        np.stack([array[:, 0] for array in Reader(notes / split, WORD).arrays(range(rows))])
        for split, rows in (("train", 48), ("test", 24))
    )
    _, values, directions = np.linalg.svd(numbers - numbers.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(train, axis=0), values[:46], rtol=1e-3)
    expected = np.abs((others - numbers.mean(axis=0)) @ directions[:46].T)
    np.testing.assert_allclose(np.abs(test), expected, atol=1e-2)
