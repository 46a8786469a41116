"""One step over all workers: exact resumption, ZeRO, precision, accumulation, clipping, the learning rate."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from shards.example import Batch
from shards.problem import EnvironmentProblem, UsageProblem
from tests.regression import PAPER, Regression, engine_of, part_of_batch, trained
from trainers.config import EngineConfig
from trainers.schedule import learning_rate

STEPS = 6
# Of torch itself, while DeepSpeed imports its compiler for stages above 0.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`")


@pytest.mark.parametrize(("epoch", "expected"), [(0, 3e-5), (9, 3e-4), (10, 3e-4), (255, 1.5e-4), (500, 0.0)])
@pytest.mark.parametrize("schedule", ["step", "epoch"])
def test_the_learning_rate_has_the_published_values(epoch, expected, schedule):
    optimizer = replace(PAPER, schedule=schedule)
    rate = learning_rate(epoch * 200, optimizer=optimizer, steps_per_epoch=200, epochs=500)
    assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(epochs=st.integers(11, 60), steps_per_epoch=st.integers(1, 9))
def test_the_learning_rate_rises_to_its_peak_then_falls(epochs, steps_per_epoch):
    total = epochs * steps_per_epoch
    rates = [learning_rate(s, optimizer=PAPER, steps_per_epoch=steps_per_epoch, epochs=epochs) for s in range(total)]
    peak = rates.index(max(rates))
    assert max(rates) == PAPER.lr and min(rates) >= 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_rate_that_follows_epochs_is_constant_within_one():
    optimizer = replace(PAPER, schedule="epoch")
    rates = {learning_rate(s, optimizer=optimizer, steps_per_epoch=50, epochs=20) for s in range(600, 650)}
    assert len(rates) == 1


def test_a_step_is_the_optimisers_step_of_plain_torch():
    engine, plain = engine_of(), Regression()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=PAPER.weight_decay)
    metrics = engine.step(part_of_batch(0))
    loss, _ = plain(part_of_batch(0))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    optimizer.step()
    assert metrics["loss"] == loss.item() and metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
    torch.testing.assert_close(engine.weights(), dict(plain.state_dict()), rtol=1e-6, atol=1e-7)


def test_each_step_uses_the_rate_of_its_number():
    assert [m["learning_rate"] for m in trained(engine_of(), 0, 3)] == [1e-2, 1e-2 / 2, 1e-2 / 3]


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    whole, parts = engine_of(), engine_of(EngineConfig(accumulation_steps=4))
    for expected, found in zip(trained(whole, 0, 3), trained(parts, 0, 3), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    left, right = ({n: w for n, w in engine.weights().items() if n != "seen"} for engine in (parts, whole))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_clipping_changes_the_step_and_not_the_reported_norm():
    # Only the second moment remembers the scale of a gradient, so the second step is the first that differs.
    free, clipped = engine_of(), engine_of(EngineConfig(clip_norm=1e-3))
    first_free, first_clipped = trained(free, 0, 2)[0], trained(clipped, 0, 2)[0]
    assert first_clipped["grad_norm"] == first_free["grad_norm"] > 1e-3
    assert any((free.weights()[name] != weight).any() for name, weight in clipped.weights().items())


def test_evaluation_counts_each_batch_by_its_examples_and_learns_nothing():
    engine = engine_of()
    before = engine.weights()
    large, small = part_of_batch(0), part_of_batch(1)
    small = Batch(small.index[:2], small.weight[:2], (small.views[0][:2],), small.seeds[:2])
    expected = (8 * engine.evaluate([large])["loss"] + 2 * engine.evaluate([small])["loss"]) / 10
    assert engine.evaluate([large, small])["loss"] == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(engine.weights(), before, rtol=0, atol=0)


def test_a_warm_up_may_be_a_share_of_the_steps_and_the_end_above_zero():
    optimizer = replace(PAPER, warmup_epochs=0, warmup_share=0.05, lr=1e-3, final_lr=1e-6)
    rates = [learning_rate(step, optimizer=optimizer, steps_per_epoch=7, epochs=100) for step in range(700)]
    assert rates[0] == pytest.approx(1e-3 / 35) and rates[34] == pytest.approx(1e-3) == max(rates)
    assert rates[:35] == sorted(rates[:35]) and rates[35:] == sorted(rates[35:], reverse=True)
    assert 1e-6 <= rates[-1] < 1.1e-6


def test_a_warm_up_has_one_length():
    with pytest.raises(UsageProblem, match="no single length"):
        replace(PAPER, warmup_share=0.1)


@pytest.mark.parametrize("decay_vectors", [True, False])
@pytest.mark.parametrize("zero_stage", [0, 1])
def test_only_matrices_decay_when_asked(decay_vectors, zero_stage):
    decayed = replace(PAPER, name="adamw", weight_decay=0.5, decay_vectors=decay_vectors)
    engines = [
        engine_of(EngineConfig(zero_stage=zero_stage), optimizer)
        for optimizer in (decayed, replace(decayed, weight_decay=0.0))
    ]
    for engine in engines:
        trained(engine, 0, 1)
    before = dict(Regression().named_parameters())
    with_decay, without = (engine.weights() for engine in engines)
    for name, weight in before.items():
        expected = without[name] - 1e-2 * 0.5 * weight * (decay_vectors or weight.ndim > 1)
        torch.testing.assert_close(with_decay[name], expected.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this machine has fp16"
)
def test_fp16_is_refused_where_it_does_not_run():
    with pytest.raises(EnvironmentProblem, match="bf16"):
        engine_of(EngineConfig(precision="fp16"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_resumes_bit_for_bit(tmp_path, precision, zero_stage):
    measured = _unbroken_and_resumed(EngineConfig(precision=precision, zero_stage=zero_stage), tmp_path)
    assert measured["resumed_metrics"] == measured["metrics"][STEPS // 2 :]
    torch.testing.assert_close(measured["resumed_weights"], measured["weights"], rtol=0, atol=0)


SETTINGS = {
    "stage0": EngineConfig(),
    "stage1": EngineConfig(zero_stage=1),
    "stage2": EngineConfig(zero_stage=2, accumulation_steps=2, clip_norm=0.1),
    "stage3": EngineConfig(zero_stage=3),
    "stage2_bf16": EngineConfig(zero_stage=2, precision="bf16"),
    "stage0_bf16": EngineConfig(precision="bf16"),
}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> dict[str, Any]:
    """What two gloo processes measured with every setting: losses and weights, unbroken and resumed half-way."""
    folder = tmp_path_factory.mktemp("two_workers")
    numactl = folder / "numactl"
    numactl.write_text(f"#!/bin/sh\n: > {folder}/was-run\n")
    numactl.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        multiprocessing.spawn(_measure, args=(folder,), nprocs=2)
    return {**torch.load(folder / "measured.pt", weights_only=True), "numactl_was_run": (folder / "was-run").exists()}


def test_a_step_runs_no_program_that_happens_to_be_on_the_path(two_workers):
    assert not two_workers["numactl_was_run"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_workers_resume_bit_for_bit(two_workers, setting):
    measured = two_workers[setting]
    assert measured["resumed_metrics"] == measured["metrics"][STEPS // 2 :]
    torch.testing.assert_close(measured["resumed_weights"], measured["weights"], rtol=0, atol=0)


@pytest.mark.parametrize("setting", ["stage1", "stage3"])
def test_splitting_over_workers_changes_only_rounding(two_workers, setting):
    torch.testing.assert_close(two_workers[setting]["weights"], two_workers["stage0"]["weights"], rtol=1e-5, atol=1e-6)


def test_two_workers_take_the_steps_of_one(two_workers):
    alone = engine_of()
    for expected, found in zip(trained(alone, 0, STEPS), two_workers["stage0"]["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    torch.testing.assert_close(two_workers["stage0"]["weights"], alone.weights(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", ["stage2_bf16", "stage0_bf16"])
def test_lower_precision_learns_about_the_same(two_workers, setting):
    exact, rough = two_workers["stage0"]["metrics"], two_workers[setting]["metrics"]
    assert [m["loss"] for m in rough] == pytest.approx([m["loss"] for m in exact], rel=0.05)
    assert rough != exact


def test_ranks_agree(two_workers):
    assert two_workers["agreed"] == {"one_flag": True, "no_flag": False, "from_rank_zero": 7}


def _measure(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    measured: dict[str, Any] = {name: _unbroken_and_resumed(c, folder / name) for name, c in SETTINGS.items()}
    engine = engine_of()
    flags = {
        "one_flag": engine.on_any_rank(number == 1),
        "no_flag": engine.on_any_rank(False),
        "from_rank_zero": engine.from_rank_zero(7 - number),
    }
    if number == 0:
        torch.save(measured | {"agreed": flags}, folder / "measured.pt")
    dist.destroy_process_group()


def _unbroken_and_resumed(config: EngineConfig, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    engine = engine_of(config)
    metrics = trained(engine, 0, STEPS // 2)
    engine.save(folder)
    metrics += trained(engine, STEPS // 2, STEPS)
    resumed = engine_of(config)
    resumed.load(folder)
    assert resumed.steps == STEPS // 2
    resumed_metrics = trained(resumed, STEPS // 2, STEPS)
    return {
        "metrics": metrics,
        "weights": engine.weights(),
        "resumed_metrics": resumed_metrics,
        "resumed_weights": resumed.weights(),
    }
