"""A stack of autoencoders: each member is the training that stands alone, and a killed stack goes on where it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shards.problem import RunFailed, UsageProblem
from tests.vectors import write_notes
from trainers import checkpoint, stack_training
from trainers.checkpoint import open_model
from trainers.config import load
from trainers.driver import settle, sole_trainer
from trainers.encoder import open_encoder
from trainers.engine import Engine
from trainers.evaluate import Evaluate
from trainers.evaluate import main as evaluate
from trainers.objectives.multiview import MultiviewObjectiveConfig
from trainers.schedule import learning_rate
from trainers.stack_probes import probe_stack
from trainers.stack_training import newest_state, require_stackable, train_stack
from trainers.stacked import Seen, Stack
from trainers.task import Task, prepare
from trainers.tracking import curves
from trainers.train import COMMAND, is_complete

CELLS = [
    ("infonce", "sim", 0.0),
    ("infonce", "sep", 0.4),
    ("infonce", "both", 0.8),
    ("cosine", "sim", 0.4),
    ("cosine", "sep", 0.0),
    ("cosine", "both", 0.2),
    ("vicreg", "sim", 0.6),
    ("vicreg", "sep", 0.2),
    ("vicreg", "both", 0.0),
    ("infonce", "both", 1.0),
]


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    return write_notes(tmp_path_factory.mktemp("stacked") / "notes", {"train": 50, "valid": 20, "test": 160})


def member(dataset: Path, out: Path, cell: tuple[str, str, float], *words: str) -> Task:
    """The training of one cell of the paper's grid, at debug size."""
    command = COMMAND(["multiview:best", "--size", "debug", "--data.dataset", str(dataset), *words])
    principle, kind, weight = cell
    config = replace(
        command.config,
        model=replace(command.config.model, decoder=weight > 0),
        objective=replace(command.config.objective, principle=principle, kind=kind, reconstruction_weight=weight),
    )
    name = f"{principle}-{kind}-{weight}"
    task = prepare(replace(command, config=config, out=out / name, workers=1))
    with sole_trainer(task.run):
        settle(task)
    return task


def checkpoints(task: Task) -> Mapping[int, Mapping[str, Tensor]]:
    folders = sorted(task.checkpoints.glob("step-*"))
    return {int(folder.name[5:]): checkpoint.read_part(folder / checkpoint.WEIGHTS) for folder in folders}


def losses(task: Task) -> Mapping[str, Mapping[int, float]]:
    return {name: points for name, points in curves(task.run).items() if name.startswith("valid/")}


@dataclass(frozen=True)
class Judged:
    """A member's weights at some step, and its metrics on valid."""

    weights: Mapping[str, Tensor]
    metrics: Mapping[str, float]


def trained_alone(task: Task) -> Mapping[int, Judged]:
    """The loop of trainers/train.py in this process, with nothing written: what each validation found."""
    config, found = task.config, dict[int, Judged]()
    engine = Engine(
        task.objective(),
        optimizer=config.optimizer,
        engine=config.engine,
        learning_rate=lambda step: learning_rate(
            step, optimizer=config.optimizer, steps_per_epoch=task.steps_per_epoch, epochs=config.epochs
        ),
        batch_examples=config.data.batch_examples,
    )
    validation = task.validation()
    for step, batch in enumerate(task.training().from_step(0, task.steps), 1):
        engine.step(batch)
        if step % config.save_every_steps == 0 or step == task.steps:
            metrics = engine.evaluate(validation.from_step(0, validation.steps_per_epoch))
            found[step] = Judged(engine.weights(), metrics)
    return found


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (CELLS, ()),
        (CELLS[1:4], ("--model.pool", "time", "--optimizer.decay-vectors", "false", "--optimizer.warmup-epochs", "1")),
        (CELLS[:1], ("--objective.negatives", "other_family")),
    ],
)
def test_every_member_equals_its_training_alone(notes, tmp_path, cells, words):
    # With its usual eps Adam takes a whole step where a gradient is nothing but rounding errors.
    words = ("--epochs", "3", "--save-every-steps", "4", "--optimizer.eps", "1e-4", *words)
    stacked = [member(notes, tmp_path / "stacked", cell, *words) for cell in cells]
    train_stack(stacked, tmp_path / "state")
    for task, cell in zip(stacked, cells, strict=True):
        alone = trained_alone(member(notes, tmp_path / "alone", cell, *words))
        best = min(alone, key=lambda step: (alone[step].metrics["loss"], step))
        assert set(checkpoints(task)) == {best, 18}
        for step, weights in checkpoints(task).items():
            torch.testing.assert_close(dict(weights), dict(alone[step].weights), rtol=1e-4, atol=1e-6)
        for name, points in losses(task).items():
            expected = {step: judged.metrics[name.removeprefix("valid/")] for step, judged in alone.items()}
            assert points == pytest.approx(expected, rel=2e-4, abs=1e-5), name
        assert {name.removeprefix("valid/") for name in losses(task)} == set(alone[18].metrics)
        assert open_model(task.run)[1]["step"] == best


def test_a_member_is_a_run_like_any_other(notes, tmp_path):
    task = member(notes, tmp_path, CELLS[2])
    train_stack([task], tmp_path / "state")
    assert is_complete(task) and not (tmp_path / "state").exists()
    encoder = open_encoder(str(task.run))
    assert encoder.embed(task.validation().lineups[0].reader).shape == (20, 32)


def test_a_stack_that_was_stopped_between_epochs_ends_with_the_same_weights(notes, tmp_path, monkeypatch):
    whole = [member(notes, tmp_path / "whole", cell) for cell in CELLS[:4]]
    train_stack(whole, tmp_path / "state-whole")
    parts = [member(notes, tmp_path / "parts", cell) for cell in CELLS[:4]]
    taken = steps_until(monkeypatch, 8)  # an epoch has six
    with pytest.raises(KeyboardInterrupt):
        train_stack(parts, tmp_path / "state")
    assert newest_state(tmp_path / "state").name == "step-00000006"
    monkeypatch.undo()
    taken = steps_until(monkeypatch, 99)
    train_stack(parts, tmp_path / "state")
    assert len(taken) == 6
    for one, other in zip(whole, parts, strict=True):
        assert losses(one) == losses(other)
        for step, weights in checkpoints(other).items():
            torch.testing.assert_close(dict(weights), dict(checkpoints(one)[step]), rtol=0, atol=0)


def steps_until(monkeypatch, last: int) -> list[int]:
    """Every step from now on; the one after `last` is interrupted."""
    taken, step = [], Stack.step

    def counted(self, *arguments):
        if len(taken) == last:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(Stack, "step", counted)
    return taken


def test_a_stack_that_was_stopped_between_two_members_trains_none_again(notes, tmp_path, monkeypatch):
    tasks = [member(notes, tmp_path / "runs", cell) for cell in CELLS[:3]]
    commit, done = stack_training._commit, []

    def only_one(task, *others):
        if done and task is not done[0]:
            raise KeyboardInterrupt
        done.append(task)
        commit(task, *others)

    monkeypatch.setattr(stack_training, "_commit", only_one)
    with pytest.raises(KeyboardInterrupt):
        train_stack(tasks, tmp_path / "state")
    monkeypatch.undo()
    assert [is_complete(task) for task in tasks] == [True, False, False]
    taken = steps_until(monkeypatch, 0)
    train_stack(tasks, tmp_path / "state")
    assert not taken and all(is_complete(task) for task in tasks)


def test_a_complete_stack_is_not_touched(notes, tmp_path, monkeypatch):
    tasks = [member(notes, tmp_path, cell) for cell in CELLS[:2]]
    train_stack(tasks, tmp_path / "state")
    taken = steps_until(monkeypatch, 0)
    train_stack(tasks, tmp_path / "state")
    assert not taken and not (tmp_path / "state").exists()


def test_a_member_whose_loss_is_no_number_harms_no_other_and_is_named(notes, tmp_path):
    broken, sound = member(notes, tmp_path, CELLS[0]), member(notes, tmp_path, CELLS[3])
    broken = replace(broken, config=replace(broken.config, objective=_overflowing(broken.config.objective)))
    with pytest.raises(RunFailed, match=r"loss of infonce-sim-0\.0 was never a number"):
        train_stack([broken, sound], tmp_path / "state")
    assert is_complete(sound) and not is_complete(broken)


def _overflowing(objective: MultiviewObjectiveConfig) -> MultiviewObjectiveConfig:
    return replace(objective, temperature=1e-40)


def test_what_a_stack_cannot_do_is_refused(notes, tmp_path):
    with pytest.raises(UsageProblem, match=r"engine\.clip_norm=1\.0 is more than a stack does"):
        require_stackable(member(notes, tmp_path, CELLS[0], "--engine.clip-norm", "1.0"))
    require_stackable(member(notes, tmp_path, CELLS[1]))
    assert load("multiview:best").engine.clip_norm is None


def test_answers_of_a_stack_are_those_of_the_evaluator(notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = [member(notes, tmp_path / "runs", cell) for cell in (CELLS[1], CELLS[0])]
    train_stack(tasks, tmp_path / "state")
    probe_stack(tasks)
    for task in tasks:
        (place,) = (task.run / "evaluations").iterdir()
        ours = json.loads((place / "results.json").read_bytes())
        answered = {name for name in curves(task.run) if name.startswith("eval/")}
        assert {name.rpartition("/")[2] for name in answered} == set(ours["metrics"])
        command = Evaluate(str(task.run), "margins", notes, seed=task.config.seed, fresh=True)
        assert Path(evaluate(command)["folder"]) == place
        assert json.loads((place / "results.json").read_bytes())["metrics"] == ours["metrics"]


def test_a_test_split_too_small_to_be_asked_is_told_of(notes, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = write_notes(tmp_path / "small", {"train": 50, "valid": 20, "test": 20})
    task = member(small, tmp_path / "runs", CELLS[2])
    train_stack([task], tmp_path / "state")
    probe_stack([task])
    assert "Margins are not measured" in caplog.text and not (task.run / "evaluations").exists()


@pytest.mark.gpu
def test_a_gpu_takes_the_same_steps(notes, tmp_path):
    def trained(device: str) -> dict[str, Tensor]:
        stack = Stack([member(notes, tmp_path, cell).objective() for cell in CELLS], slow.optimizer, device)
        features = torch.randn(2, 8, 1, 384, generator=torch.Generator().manual_seed(0)).to(device)
        for _ in range(3):
            stack.step(Seen(features, torch.arange(8, device=device)), 1e-4)
        return {f"{n}.{name}": w for n in range(len(CELLS)) for name, w in stack.member(stack.weights, n).items()}

    slow = member(notes, tmp_path, CELLS[0], "--optimizer.eps", "1e-4").config
    torch.testing.assert_close(trained("cuda"), trained("cpu"), rtol=1e-3, atol=1e-5)
