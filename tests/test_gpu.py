"""What must be the same on a GPU; skipped by name where there is none, run by `make gpu`."""

from dataclasses import replace

import pytest
import torch

from shards.example import Batch
from trainers.checkpoint import build_objective
from trainers.config import EngineConfig, load
from trainers.engine import Engine

pytestmark = pytest.mark.gpu


def batch(examples: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.empty(examples, 128, 96).exponential_(1.0, generator=generator) for _ in range(2))
    seeds = torch.randint(-(2**62), 2**62, (examples, 2), generator=generator)
    return Batch(torch.arange(examples), torch.ones(examples), views, seeds)


def test_loss_and_gradients_are_those_of_the_cpu():
    config = load("myna:base", size="debug")
    results = []
    for device in ("cpu", "cuda"):
        objective = build_objective(config).to(device)
        loss, _ = objective(batch().to(device))
        loss.backward()
        results.append((loss.cpu(), [p.grad.cpu() for p in objective.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_training_steps_lower_the_loss(precision: str, zero_stage: int, is_compiled: bool):
    config = load("myna:base", size="debug")
    engine = Engine(
        build_objective(config),
        optimizer=replace(config.optimizer, lr=1e-3),
        engine=EngineConfig(precision=precision, zero_stage=zero_stage, compile=is_compiled),
        learning_rate=lambda step: 1e-3,
        batch_examples=16,
    )
    losses = [engine.step(batch())["loss"] for _ in range(30)]
    assert engine.device.type == "cuda"
    assert losses[-1] < losses[0] - 0.3


def test_a_batch_in_chunks_takes_less_memory_and_gives_the_same_gradients():
    config = load("myna:base", size="laptop")
    found = []
    for chunk_examples in (0, 32):
        torch.manual_seed(0)
        objective = build_objective(replace(config, objective=replace(config.objective, chunk_examples=chunk_examples)))
        objective.to("cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        objective(batch(1024).to("cuda"))[0].backward()
        found.append((torch.cuda.max_memory_allocated() - before, [p.grad for p in objective.parameters()]))
    (whole, gradients), (chunked, same) = found
    assert chunked < whole / 2
    torch.testing.assert_close(same, gradients, rtol=1e-3, atol=1e-5)
