"""SogCLR: the specification's numbers, and a memory that is per example, per patching, float32 and checked."""

import math
from dataclasses import replace

import pytest
import torch

from shards.problem import DataProblem, UsageProblem
from tests.views_in_pairs import EXAMPLES, HYBRID, OBJECTIVES, batch_of, objective_of, rows_of
from trainers.objectives.contrastive import info_nce
from trainers.objectives.sogclr import SogclrConfig, gammas, sogclr
from trainers.similarity import compare

PAIRS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6]]])
CONFIG = OBJECTIVES["sogclr"]


def loss_of(pairs: torch.Tensor, past: torch.Tensor, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    similar = compare(pairs, torch.ones(2), temperature=0.5, block_rows=3)
    losses, averages = sogclr(similar, past, torch.full((2,), gamma), floor=1e-8)
    return losses.mean(), averages


def test_two_calls_on_one_batch_have_the_published_values():
    loss, averages = loss_of(PAIRS, torch.zeros(2), 1.0)
    assert loss.item() == pytest.approx(0.358307, abs=1e-6)
    torch.testing.assert_close(averages, torch.full((2,), 4.431756))
    again, unchanged = loss_of(PAIRS, averages, 0.9)
    assert again.item() == pytest.approx(0.349907, abs=1e-6)
    torch.testing.assert_close(unchanged, averages)


def test_without_memory_the_gradient_is_that_of_infonce_in_both_directions_times_the_temperature():
    pairs, same = PAIRS.clone().requires_grad_(), PAIRS.clone().requires_grad_()
    loss_of(pairs, torch.zeros(2), 1.0)[0].backward()
    # The mean over four anchors of both directions is half the sum of the two means.
    (0.5 * 2 * info_nce(compare(same, torch.ones(2), temperature=0.5, block_rows=4)).mean()).backward()
    expected = torch.tensor([[0.0, -0.256210], [-0.256210, 0.0]])
    torch.testing.assert_close(pairs.grad[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pairs.grad, same.grad)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1.0), (5, 0.95), (10, 0.9), (25, 0.9)])
def test_a_cosine_falls_to_gamma_over_the_visits_of_an_example(epoch, expected):
    config = replace(CONFIG, gamma=0.9, gamma_schedule="cosine", gamma_epochs=10)
    assert gammas(torch.tensor([epoch]), config).item() == pytest.approx(expected)


def test_the_first_visit_of_an_example_counts_fully_whatever_the_batch_knows_of_others():
    assert gammas(torch.tensor([0, 1, 7]), replace(CONFIG, gamma=0.25)).tolist() == [1.0, 0.25, 0.25]
    objective = objective_of(CONFIG)
    batch = batch_of(4)
    objective(rows_of(batch, [0, 1]))
    before = objective.averages.clone()
    objective(batch)
    known, new = batch.index[:2], batch.index[2:]
    alone = objective_of(CONFIG)
    alone(batch)
    torch.testing.assert_close(objective.averages[:, new], alone.averages[:, new])
    torch.testing.assert_close(objective.averages[:, known], (before[:, known] + alone.averages[:, known]) / 2)
    assert objective.visits[batch.index].tolist() == [2, 2, 1, 1] and objective.visits.sum() == 6


def test_a_hybrid_remembers_each_patching_by_itself():
    objective, batch = objective_of(CONFIG, HYBRID), batch_of(4)
    objective(batch)
    square, vertical = objective.averages[:, batch.index]
    assert (square > 0).all() and (vertical > 0).all() and (square != vertical).all()
    assert set(objective.averages[:, objective.visits == 0].flatten().tolist()) == {0.0}


def test_padding_is_remembered_nowhere():
    objective, padded = objective_of(CONFIG), objective_of(CONFIG)
    objective(batch_of(5))
    padded(rows_of(batch_of(5), [0, -1, 1, 2, 3, 4, -1]))
    torch.testing.assert_close(padded.averages, objective.averages)
    assert torch.equal(padded.visits, objective.visits)


def test_an_example_that_comes_twice_in_a_batch_is_visited_once():
    objective = objective_of(CONFIG)
    objective(rows_of(batch_of(4), [0, 0, 1, 2]))
    assert objective.visits.max() == 1


def test_evaluation_neither_reads_nor_writes_the_memory():
    objective, fresh = objective_of(CONFIG), objective_of(CONFIG)
    objective(batch_of(8))
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    other_dataset = replace(batch_of(8), index=torch.arange(8) + EXAMPLES)
    assert objective.eval()(other_dataset)[0] == fresh.eval()(batch_of(8))[0]
    assert all(torch.equal(buffer, before[name]) for name, buffer in objective.named_buffers())


def test_the_memory_is_in_the_state_and_stays_float32_in_half_precision():
    objective, restored = objective_of(CONFIG), objective_of(CONFIG)
    objective(batch_of(8))
    averages = objective.averages.clone()
    restored.half().load_state_dict(objective.half().state_dict())
    assert restored.averages.dtype == torch.float32 and torch.equal(restored.averages, averages)
    assert restored.visits.sum() == 8


def test_an_index_beyond_the_memory_is_refused():
    with pytest.raises(DataProblem, match=f"example {EXAMPLES - 1}.*below 5"):
        objective_of(CONFIG.sized(5))(batch_of(8))


def test_an_objective_that_does_not_know_its_data_is_refused():
    with pytest.raises(UsageProblem, match="examples=0"):
        objective_of(SogclrConfig())


@pytest.mark.parametrize("changes", [{"gamma": 0.0}, {"gamma_epochs": 0}, {"temperature": 0.01}])
def test_settings_that_remember_nothing_useful_are_refused(changes):
    with pytest.raises(UsageProblem, match="moving averages"):
        SogclrConfig(**changes)


def test_the_average_is_that_of_the_negatives():
    objective, batch = objective_of(CONFIG), batch_of(3)
    seen = []
    objective.linear_head.register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    objective(batch)
    rows = torch.nn.functional.normalize(seen[0], dim=1).unflatten(0, (2, 3))
    for i, index in enumerate(batch.index.tolist()):
        negatives = [rows[v, j] for j in range(3) if j != i for v in range(2)]
        both = [math.exp(rows[v, i] @ n / CONFIG.temperature) for v in range(2) for n in negatives]
        assert objective.averages[0, index].item() == pytest.approx(sum(both) / len(both), rel=1e-4)
