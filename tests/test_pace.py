"""What a training reports of itself: arithmetic counted as the architecture has it, rates, and peaks."""

from itertools import pairwise

import pytest
import torch

from shards.example import Batch
from trainers import checkpoint
from trainers.config import load
from trainers.pace import flops_per_example, peak_flops

CPU = torch.device("cpu")


def batch(examples: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.rand(examples, 128, 96, generator=generator) for _ in range(2))
    seeds = torch.randint(2**62, (examples, 2), generator=generator)
    return Batch(torch.arange(examples), torch.ones(examples), views, seeds)


@pytest.mark.parametrize("size", ["debug", "laptop"])
def test_the_counted_flops_are_those_of_the_architecture(size):
    config = load("myna:base", size)
    model, tokens = config.model, 5  # of 48, a tenth stays visible
    inner = model.heads * model.head_width
    block = model.width * 4 * inner + 2 * model.width * model.mlp_width + 2 * tokens * inner
    embedding = tokens * model.patch_bands * model.patch_frames * model.width
    widths = (model.width, *config.objective.projector_widths)
    projector = sum(first * second for first, second in pairwise(widths))
    # Once forward and twice backward, two FLOPs a product, two views an example.
    expected = 3 * 2 * 2 * (tokens * model.depth * block + embedding + projector)
    counted = flops_per_example(lambda: checkpoint.build_objective(config), batch(2), CPU)
    assert counted == pytest.approx(expected, rel=0.01)


def test_counting_moves_no_random_generator():
    before = torch.get_rng_state()
    flops_per_example(lambda: checkpoint.build_objective(load("myna:base", "debug")), batch(2), CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_unknown_processor_is_measured(precision):
    assert 1e8 < peak_flops(CPU, precision) < 1e14
