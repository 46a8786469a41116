"""Checkpoints: whole or absent, verified before anything is loaded, refused when they are another training's."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, multiprocessing

from shards.example import Batch
from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.store import PARTIAL
from trainers import checkpoint
from trainers.config import config_to_dict, identity, load
from trainers.engine import Engine

CONFIG = load("myna:base", "debug")
IDENTITY = identity(CONFIG, "fingerprint")
REPOSITORY = Path(__file__).parents[1]


def new_engine() -> Engine:
    return Engine(
        checkpoint.build_objective(CONFIG),
        optimizer=CONFIG.optimizer,
        engine=CONFIG.engine,
        learning_rate=lambda step: 1e-3,
        batch_examples=4,
    )


def batch_of_noise(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = tuple(torch.rand(4, 128, 96, generator=generator) for _ in range(2))
    seeds = torch.randint(2**62, (4, 2), generator=generator)
    return Batch(torch.arange(4), torch.ones(4), views, seeds)


def save(engine: Engine, folder: Path, validation_loss: float = 1.0, keep: int = 3) -> Path:
    about = {
        "config": config_to_dict(CONFIG),
        "identity": IDENTITY,
        "column": "mel",
        "contract": {"fingerprint": "contract"},
        "validation_loss": validation_loss,
    }
    return checkpoint.save(engine, folder / "checkpoints", about=about, keep=keep)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder with checkpoints of steps 1 and 2; nothing may change it."""
    folder, engine = tmp_path_factory.mktemp("run"), new_engine()
    for step in range(2):
        engine.step(batch_of_noise(step))
        save(engine, folder, validation_loss=[1.0, 2.0][step])
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run folder, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_resuming_gives_the_exact_state(run):
    engine = new_engine()
    assert checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY) == engine.steps == 2
    unbroken = new_engine()
    for step in range(2):
        unbroken.step(batch_of_noise(step))
    assert engine.step(batch_of_noise(2)) == unbroken.step(batch_of_noise(2))
    torch.testing.assert_close(engine.weights(), unbroken.weights(), rtol=0, atol=0)


def test_nothing_to_resume_is_step_zero(tmp_path):
    assert checkpoint.resume(new_engine(), tmp_path / "checkpoints", identity=IDENTITY) == 0


def test_an_opened_model_is_the_trained_one_in_evaluation_mode(run):
    engine = new_engine()
    checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY)
    model, card = checkpoint.open_model(run / "checkpoints" / "step-00000002")
    trained = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.testing.assert_close(trained, {n: w for n, w in engine.weights().items() if n in trained}, rtol=0, atol=0)
    assert not model.training and (card["step"], card["column"]) == (2, "mel")


def test_a_run_folder_opens_as_its_best_checkpoint(run):
    assert checkpoint.open_model(run)[1]["step"] == 1  # validation losses 1.0 and 2.0


def test_a_random_model_is_the_architecture_before_training(run):
    model, _ = checkpoint.open_model(run, random=True)
    initial = checkpoint.build_objective(CONFIG).model
    torch.testing.assert_close(dict(model.state_dict()), dict(initial.state_dict()), rtol=0, atol=0)


def test_a_model_opens_without_deepspeed_ray_and_mlflow(run):
    code = (
        "import sys; from pathlib import Path; from trainers.checkpoint import open_model;"
        "open_model(Path(sys.argv[1]));"
        "print(sorted({'deepspeed', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_of_weights_and_card_alone_opens_too(run, tmp_path):
    for name in ("model.safetensors", "card.json"):
        shutil.copy(run / "checkpoints" / "step-00000002" / name, tmp_path)
    assert checkpoint.open_model(tmp_path)[1]["step"] == 2


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, place: int = 1000) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


EVERY_KIND = (
    *("model.safetensors", "card.json", "engine/state/00000.safetensors"),
    *("engine/progress.json", "engine/random-00000.safetensors"),
)


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize(
    ("damage", "reason"), [(Path.unlink, "is missing|has no card"), (cut, "bytes|damaged"), (flip, "SHA-256|damaged")]
)
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(run, caplog, name, damage, reason):
    damage(run / "checkpoints" / "step-00000002" / name)
    assert checkpoint.newest_step(run / "checkpoints", IDENTITY) == 1
    assert "step-00000002" in caplog.text and "Falling back" in caplog.text
    assert any(word in caplog.text for word in reason.split("|"))


@settings(max_examples=25)
@given(st.data())
def test_any_flipped_bit_is_found(trained, data):
    folder = trained / "checkpoints" / "step-00000001"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    try:
        flip(path, data.draw(st.integers(0, len(before) - 1)))
        with pytest.raises(DataProblem):
            checkpoint.verified(folder)
    finally:
        path.write_bytes(before)


def test_a_run_without_any_whole_checkpoint_does_not_start_over_silently(run):
    for folder in (run / "checkpoints").glob("step-*"):
        cut(folder / "model.safetensors")
    with pytest.raises(DataProblem, match="--fresh"):
        checkpoint.newest_step(run / "checkpoints", IDENTITY)


def test_a_checkpoint_holds_only_files_that_cannot_execute_anything(run):
    kinds = {path.suffix for path in run.rglob("checkpoints/step-*/**/*") if path.is_file()}
    assert kinds == {".safetensors", ".json"}


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes_with_the_next_one(run):
    engine = new_engine()
    checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY)
    half = run / "checkpoints" / ".step-00000009.partial-"
    shutil.copytree(run / "checkpoints" / "step-00000001", half)
    assert checkpoint.newest_step(run / "checkpoints", IDENTITY) == 2
    engine.step(batch_of_noise(2))
    save(engine, run)
    assert not half.exists()


def test_a_writer_killed_inside_save_at_any_time_costs_no_step_that_was_committed(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainers.engine"])
    place, committed = tmp_path / "checkpoints", 0
    for delay in (0.0, 0.002, 0.01, 0.02, 0.05):
        writer = context.Process(target=_train_without_end, args=(tmp_path, torch.get_num_threads()))
        writer.start()
        while not list(place.glob(f".step-*{PARTIAL}")) or not list(place.glob("step-*")):
            time.sleep(0.001)
        time.sleep(delay)
        writer.kill()
        writer.join()
        step = checkpoint.newest_step(place, IDENTITY)
        assert step >= committed
        committed = step
    resumed, unbroken = new_engine(), new_engine()
    assert checkpoint.resume(resumed, place, identity=IDENTITY) == committed > 0
    for number in range(committed):
        unbroken.step(batch_of_noise(number))
    torch.testing.assert_close(resumed.weights(), unbroken.weights(), rtol=0, atol=0)


def _train_without_end(run: Path, threads: int) -> None:
    torch.set_num_threads(threads)  # another number of them would round differently
    engine = new_engine()
    checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY)
    for step in itertools.count(engine.steps):
        engine.step(batch_of_noise(step))
        save(engine, run, keep=2)


def test_the_newest_and_the_best_are_kept(run):
    engine = new_engine()
    checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY)
    for step in range(2, 5):
        engine.step(batch_of_noise(step))
        save(engine, run, validation_loss=3.0, keep=2)
    kept = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-00000001", "step-00000004", "step-00000005"]
    assert checkpoint.checkpoint_folder(run).name == "step-00000001"


def test_saving_again_over_a_damaged_checkpoint_repairs_it(run):
    cut(run / "checkpoints" / "step-00000002" / "model.safetensors")
    engine = new_engine()
    assert checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY) == 1
    engine.step(batch_of_noise(1))
    assert checkpoint.verified(save(engine, run)).step == 2


def test_a_checkpoint_of_another_model_is_refused_field_by_field(run):
    other = identity(replace(CONFIG, model=replace(CONFIG.model, width=64), seed=5), "other data")
    with pytest.raises(DataProblem) as refused:
        checkpoint.newest_step(run / "checkpoints", other)
    for row in ("model.width: 32 there, 64 here", "seed: 0 there, 5 here", "data: fingerprint there, other data here"):
        assert row in str(refused.value)
    assert "model.depth" not in str(refused.value)


def test_a_card_of_another_format_version_is_refused(run):
    rewrite_card(run / "checkpoints" / "step-00000002", version=99)
    with pytest.raises(DataProblem, match="version 99"):
        checkpoint.read_card(run / "checkpoints" / "step-00000002")


def test_weights_that_do_not_fit_the_card_are_refused(run):
    folder = run / "checkpoints" / "step-00000002"
    wider = replace(CONFIG, model=replace(CONFIG.model, mlp_width=96))
    rewrite_card(folder, config=config_to_dict(wider))
    with pytest.raises(DataProblem, match=r"mlp|size mismatch"):
        checkpoint.open_model(folder)


def test_a_pointer_to_a_checkpoint_that_is_gone_is_explained_and_does_not_hinder_resuming(run):
    shutil.rmtree(run / "checkpoints" / "step-00000001")  # the best one
    with pytest.raises(DataProblem, match=r"points to step-00000001, which is gone.*step-00000002"):
        checkpoint.open_model(run)
    assert checkpoint.newest_step(run / "checkpoints", IDENTITY) == 2


def test_a_place_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageProblem, match="no checkpoint"):
        checkpoint.open_model(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_before_it_whole(run):
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=_save_with_little_space, args=(run, told))
    process.start()
    process.join()
    kind, message = told.get()
    assert kind == "EnvironmentProblem" and "step-00000003" in message and "MiB are free" in message
    assert checkpoint.newest_step(run / "checkpoints", IDENTITY) == 2


def _save_with_little_space(run: Path, told: Any) -> None:
    engine = new_engine()
    checkpoint.resume(engine, run / "checkpoints", identity=IDENTITY)
    engine.step(batch_of_noise(2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        save(engine, run)
    except EnvironmentProblem as error:
        told.put((type(error).__name__, str(error)))


def rewrite_card(folder: Path, **changes: object) -> None:
    """Change fields of a card and prove it again, as a writer of such a card would have."""
    card = {**checkpoint.read_card(folder), **changes}
    (folder / "card.json").write_text(json.dumps({**card, "sha256": checkpoint.digest_of(card)}))


def test_tensors_are_described_in_the_card(run):
    card = checkpoint.read_card(run / "checkpoints" / "step-00000002")
    weights: dict[str, Tensor] = dict(checkpoint.build_objective(CONFIG).state_dict())
    assert {name: tuple(entry["shape"]) for name, entry in card["layout"].items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }
