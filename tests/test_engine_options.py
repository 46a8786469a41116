"""What an engine can do besides taking a step: average, recompute, compile, and refuse a gradient."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from shards.example import Batch
from shards.problem import UsageProblem
from tests.regression import engine_of, falling_rate, part_of_batch, trained
from trainers import checkpoint
from trainers.blocks import blocks
from trainers.config import EngineConfig, load
from trainers.engine import Engine
from trainers.guard import Guard

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method`",  # of torch itself, while DeepSpeed imports its compiler for stages above 0
)
STAGES = pytest.mark.parametrize("stage", [0, 1, 2, 3])
CONFIG = load("myna:base", "debug")


def poisoned(step: int) -> Batch:
    batch = part_of_batch(step)
    batch.views[0][-1] = math.nan
    return batch


@STAGES
def test_the_average_is_what_is_evaluated_and_given_and_training_does_not_see_it(stage):
    plain, engine = engine_of(EngineConfig(zero_stage=stage)), engine_of(EngineConfig(zero_stage=stage, ema_decay=0.8))
    expected = plain.weights()
    for step in range(4):
        assert plain.step(part_of_batch(step)) == engine.step(part_of_batch(step))
        engine.evaluate([part_of_batch(99)])
        expected = {name: 0.8 * old + 0.2 * plain.weights()[name] for name, old in expected.items() if name != "seen"}
    given = engine.weights()
    torch.testing.assert_close({name: given[name] for name in expected}, expected, rtol=1e-5, atol=1e-7)
    averaged = engine_of()
    averaged._engine.module.load_state_dict(given)
    assert engine.evaluate([part_of_batch(99)]) == pytest.approx(averaged.evaluate([part_of_batch(99)]), rel=1e-5)


@STAGES
def test_the_average_is_part_of_the_state(stage, tmp_path):
    config = EngineConfig(zero_stage=stage, ema_decay=0.8)
    engine, resumed = engine_of(config), engine_of(config)
    trained(engine, 0, 3)
    engine.save(tmp_path)
    resumed.load(tmp_path)
    for one in (engine, resumed):
        trained(one, 3, 5)
    torch.testing.assert_close(resumed.weights(), engine.weights(), rtol=0, atol=0)


def myna_engine(**options: Any) -> Engine:
    return Engine(
        checkpoint.build_objective(CONFIG),
        optimizer=CONFIG.optimizer,
        engine=EngineConfig(**options),
        learning_rate=falling_rate,
        batch_examples=4,
    )


def batch_of_noise(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = tuple(torch.rand(4, 128, 96, generator=generator) for _ in range(2))
    return Batch(torch.arange(4), torch.ones(4), views, torch.randint(2**62, (4, 2), generator=generator))


@pytest.mark.parametrize("options", [{}, {"zero_stage": 3}, {"precision": "bf16"}])
def test_recomputing_blocks_changes_no_bit(options):
    plain, frugal = myna_engine(**options), myna_engine(recompute=True, **options)
    for step in range(3):
        assert frugal.step(batch_of_noise(step)) == plain.step(batch_of_noise(step))
    torch.testing.assert_close(frugal.weights(), plain.weights(), rtol=0, atol=0)


def test_recomputed_blocks_keep_fewer_activations():
    kept = []
    for recompute in (False, True):
        engine, sizes = myna_engine(recompute=recompute), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            engine._engine(batch_of_noise(0))
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


def test_a_model_without_blocks_cannot_recompute_them():
    with pytest.raises(UsageProblem, match="no blocks"):
        engine_of(EngineConfig(recompute=True))


def test_every_block_is_found_once():
    assert len(list(blocks(checkpoint.build_objective(CONFIG)))) == CONFIG.model.depth


@pytest.mark.slow
def test_a_compiled_model_takes_the_same_steps_under_the_same_names():
    multiprocessing.spawn(_compiled, nprocs=1)  # ZeRO 3 changes torch for the whole of a process


def _compiled(number: int) -> None:
    for stage in (0, 3):
        plain, compiled = (
            engine_of(EngineConfig(zero_stage=stage)),
            engine_of(EngineConfig(zero_stage=stage, compile=True)),
        )
        for expected, found in zip(trained(plain, 0, 3), trained(compiled, 0, 3), strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(compiled.weights(), plain.weights(), rtol=1e-4, atol=1e-6)


@STAGES
@pytest.mark.parametrize("parts", [1, 2])
def test_a_refused_batch_leaves_no_trace_but_its_number(stage, parts, tmp_path):
    config = EngineConfig(zero_stage=stage, accumulation_steps=parts, ema_decay=0.9, skip_budget=1)
    engine, other = engine_of(config), engine_of(config)
    trained(engine, 0, 2)
    before = engine.weights()
    metrics = engine.step(poisoned(2))
    assert math.isnan(metrics["loss"]) and engine.refusal == "its loss is nan" and engine.refused == 1
    torch.testing.assert_close(engine.weights(), before, rtol=0, atol=0)
    assert engine.steps == 3
    engine.save(tmp_path)
    other.load(tmp_path)
    assert (other.steps, other.refused) == (3, 1)
    assert trained(other, 3, 5) == trained(engine, 3, 5) and not engine.refusal
    torch.testing.assert_close(other.weights(), engine.weights(), rtol=0, atol=0)


@STAGES
def test_a_spike_is_refused(stage):
    engine = engine_of(EngineConfig(zero_stage=stage, spike_deviations=30.0, skip_budget=1))
    trained(engine, 0, 25)
    assert engine.refused == 0
    before = engine.weights()
    usual = part_of_batch(25)
    engine.step(Batch(usual.index + 1000, usual.weight, usual.views, usual.seeds))
    assert "mean deviations above the usual" in engine.refusal
    torch.testing.assert_close(engine.weights(), before, rtol=0, atol=0)


def test_a_first_batch_that_is_refused_can_be_saved_and_resumed(tmp_path):
    engine, resumed = (engine_of(EngineConfig(zero_stage=1, skip_budget=1)) for _ in range(2))
    engine.step(poisoned(0))
    engine.save(tmp_path)
    resumed.load(tmp_path)
    assert trained(resumed, 1, 3) == trained(engine, 1, 3)


def test_one_rank_with_a_broken_example_makes_all_refuse_the_step(tmp_path):
    multiprocessing.spawn(_refuse, args=(tmp_path,), nprocs=2)
    refusals = [(tmp_path / f"{number}").read_text() for number in range(2)]
    assert refusals == ["its loss is nan,1,3"] * 2


def _refuse(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    told = []
    for stage in (0, 2):
        engine = engine_of(EngineConfig(zero_stage=stage))
        engine.step(part_of_batch(0))
        engine.step(poisoned(1) if number else part_of_batch(1))
        refusal = engine.refusal
        assert math.isfinite(engine.step(part_of_batch(2))["loss"])
        told.append(f"{refusal},{engine.refused},{engine.steps}")
    assert told[0] == told[1]
    (folder / f"{number}").write_text(told[0])
    dist.destroy_process_group()


@given(st.lists(st.floats(-10, 10), min_size=40, max_size=80), st.floats(50, 1e6))
def test_a_guard_admits_what_it_has_seen_and_refuses_what_is_far_above(values, far):
    guard = Guard(spike_deviations=40.0)
    assert all(not guard.judge(value, abs(value)) for value in [*values, *values])
    seen = guard._usual["loss"]
    outlier = seen.mean + 41 * max(seen.deviation, 0.01 * abs(seen.mean), 1e-9) + far
    assert guard.judge(outlier, 1.0).startswith("its loss is")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_guard_always_refuses_what_is_no_number(value):
    assert Guard(None).judge(value, 1.0) == f"its loss is {value}"
    assert Guard(None).judge(1.0, value) == f"its gradient norm is {value}"


def test_a_guard_goes_on_where_another_stopped():
    guard, other = Guard(3.0), Guard(3.0)
    for value in range(30):
        guard.judge(float(value % 5), 1.0 + value % 3)
    other.restore(guard.state())
    assert other.judge(1e9, 1.0) == guard.judge(1e9, 1.0) != ""
