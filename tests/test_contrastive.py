"""InfoNCE and NT-Xent: the specification's numbers, and what a batch's order, padding and precision may change."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shards.example import Batch
from shards.problem import UsageProblem
from tests.views_in_pairs import ENCODER, HYBRID, OBJECTIVES, batch_of, objective_of, rows_of, steps_of
from trainers.models.vit1d import Vit1dConfig
from trainers.objectives.contrastive import LOSSES, ContrastiveConfig
from trainers.similarity import compare, reduced

FIRST = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SECOND = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
PAIRS = torch.stack([FIRST, SECOND])


def loss_of(pairs: Tensor, name: str, temperature: float, block_rows: int = 1024) -> tuple[Tensor, dict[str, Tensor]]:
    similar = compare(pairs, pairs.new_ones(pairs.shape[1]), temperature=temperature, block_rows=block_rows)
    return reduced(similar, LOSSES[name](similar))


@pytest.mark.parametrize(
    ("temperature", "from_first", "from_second", "symmetrised", "ntxent"),
    [
        (0.5, 0.583901, 1.265893, 0.924897, 1.270714),
        (1.0, 0.571101, 0.976344, 0.773722, 1.157474),
        (0.1, 2.000335, 3.783901, 2.892118, 2.966802),
    ],
)
def test_losses_and_written_out_formula_have_the_published_values(
    temperature, from_first, from_second, symmetrised, ntxent
):
    loss, metrics = loss_of(PAIRS, "infonce", temperature)
    assert loss.item() == metrics["loss"].item() == pytest.approx(symmetrised, abs=1e-6)
    assert loss_of(PAIRS, "ntxent", temperature)[0].item() == pytest.approx(ntxent, abs=1e-6)
    assert papers_loss(FIRST, SECOND, temperature) == pytest.approx(from_first, abs=1e-6)
    assert papers_loss(SECOND, FIRST, temperature) == pytest.approx(from_second, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("block_rows", [1, 4, 1024])
def test_losses_are_the_formulas_of_the_papers_in_both_directions(name, block_rows):
    pairs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    inside = name == "ntxent"
    expected = (papers_loss(*pairs, 0.2, inside) + papers_loss(*pairs.flip(0), 0.2, inside)) / 2
    assert loss_of(pairs, name, 0.2, block_rows)[0].item() == pytest.approx(expected, rel=1e-5)


def papers_loss(anchors: Tensor, others: Tensor, temperature: float, positive_inside: bool = False) -> float:
    """Mean over i of -log(exp(s+) / sum over j != i of exp(s-)), one term at a time."""

    def similarity(x: Tensor, y: Tensor) -> float:
        return math.exp((x @ y / x.norm() / y.norm()).item() / temperature)

    def term(i: int) -> float:
        negatives = [similarity(anchors[i], v[j]) for j in range(len(anchors)) if j != i for v in (anchors, others)]
        positive = similarity(anchors[i], others[i])
        return -math.log(positive / (sum(negatives) + positive_inside * positive))

    return sum(term(i) for i in range(len(anchors))) / len(anchors)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_whole_matrix(name):
    pairs = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blockwise, whole = pairs.clone().requires_grad_(), pairs.clone().requires_grad_()
    loss_of(blockwise, name, 0.1, block_rows=3)[0].backward()
    rows = torch.nn.functional.normalize(whole.flatten(0, 1), dim=1)
    logits = (rows @ rows.T / 0.1).masked_fill(torch.eye(14, dtype=torch.bool), -torch.inf)
    positives = logits.diagonal(7).repeat(2)
    pairs_too = torch.eye(7, dtype=torch.bool).repeat(2, 2)
    denominators = logits if name == "ntxent" else logits.masked_fill(pairs_too, -torch.inf)
    (denominators.logsumexp(dim=1) - positives).mean().backward()
    torch.testing.assert_close(blockwise.grad, whole.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_near_zero_overflows_nowhere(name):
    pairs = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss, metrics = loss_of(pairs, name, 1e-4)
    loss.backward()
    assert pairs.grad.isfinite().all() and all(value.isfinite() for value in (loss, *metrics.values()))


def test_metrics_have_the_values_of_their_definitions():
    _, metrics = loss_of(PAIRS, "infonce", 0.5)
    # Squared distances: the pairs 0.8 apart; negatives of the first views 2 and 0.4, of the second 0.08 and 0.4.
    assert metrics["alignment"].item() == pytest.approx(0.8)
    potential = (2 * math.exp(-2 * 0.4) + math.exp(-2 * 2) + math.exp(-2 * 0.08)) / 4
    assert metrics["uniformity"].item() == pytest.approx(math.log(potential))
    assert metrics["top1_pair_accuracy"].item() == 0.0


def test_separated_pairs_are_all_found():
    _, metrics = loss_of(torch.eye(4).repeat(2, 1, 1), "infonce", 0.1)
    assert metrics["top1_pair_accuracy"].item() == 1.0


@settings(max_examples=10)
@given(order=st.permutations(range(8)), name=st.sampled_from(["infonce", "ntxent", "infonce_bn"]))
def test_the_order_of_a_batch_changes_nothing(order, name):
    whole = steps_of(objective_of(OBJECTIVES[name]))
    shuffled = steps_of(objective_of(OBJECTIVES[name]), lambda batch: rows_of(batch, order))
    torch.testing.assert_close(shuffled.loss, whole.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled.gradients, whole.gradients, atol=1e-5, rtol=0)


def test_a_hybrids_loss_is_the_mean_over_its_patchings_each_with_fresh_masks():
    objective, batch, seen = objective_of(OBJECTIVES["infonce"], HYBRID), batch_of(4), {}
    objective.model.register_forward_pre_hook(
        lambda _, arguments, named: seen.update({named["patching"]: arguments[1]}), with_kwargs=True
    )
    loss, metrics = objective(batch)
    alone = []
    for patching, keep in seen.items():
        embedded = objective.model(torch.cat(batch.views), keep, patching=patching)
        alone.append(loss_of(objective.linear_head(embedded, torch.ones(8)).unflatten(0, (2, 4)), "infonce", 0.1)[0])
    assert list(seen) == ["square", "vertical"] and (seen["square"] != seen["vertical"]).any()
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    assert metrics["loss"] == loss


def test_other_seeds_hide_other_patches():
    batch = batch_of(4)
    objective = objective_of(OBJECTIVES["infonce"])
    assert objective(batch)[0] != objective(replace(batch, seeds=batch.seeds + 1))[0]


def test_nothing_is_hidden_at_ratio_zero():
    objective = objective_of(ContrastiveConfig(mask_ratio=0.0, projector_widths=(8,)))
    batch = batch_of(4)
    reseeded = Batch(batch.index, batch.weight, batch.views, batch.seeds + 1)
    assert objective(batch)[0] == objective(reseeded)[0]


def test_every_parameter_receives_a_gradient():
    for name in OBJECTIVES:
        model = objective_of(OBJECTIVES[name], HYBRID)
        model(batch_of(4))[0].backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters()), name


def test_projectors_have_the_layers_of_their_kind():
    vit1d = Vit1dConfig().build()
    head = ContrastiveConfig(projector="gelu", projector_widths=(192, 128)).build(vit1d).linear_head
    assert sum(p.numel() for p in head.parameters()) == 61_760
    assert [type(layer).__name__ for layer in head] == ["Linear", "GELU", "Linear"]
    normed = objective_of(OBJECTIVES["infonce_bn"]).linear_head
    assert [type(layer).__name__ for layer in normed] == ["Linear", "GlobalBatchNorm", "ReLU", "Linear"]
    assert normed[0].bias is None and normed[3].bias is None


def test_batch_norm_is_torchs_own_on_one_rank():
    objective = objective_of(OBJECTIVES["infonce_bn"])
    ours = objective.linear_head[1]
    torchs = torch.nn.BatchNorm1d(64)
    rows = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(rows, torch.ones(10)), torchs(rows))
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    torch.testing.assert_close(ours.eval()(rows, torch.zeros(10)), torchs.eval()(rows))


def test_the_loss_is_float32_under_autocast():
    batch, objective = batch_of(4), objective_of(OBJECTIVES["infonce"], ENCODER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = objective(batch)
    assert loss.dtype == metrics["uniformity"].dtype == torch.float32
    torch.testing.assert_close(loss, objective(batch)[0], atol=0.05, rtol=0)


@pytest.mark.parametrize("rows", [[0], [0, -1]], ids=["alone", "with_padding"])
def test_a_batch_of_one_example_is_refused(rows):
    with pytest.raises(UsageProblem, match="at least 2"):
        objective_of(OBJECTIVES["infonce"])(rows_of(batch_of(2), rows))


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"mask_ratio": 1.0},
        {"projector_widths": ()},
        {"chunk_examples": -1},
        {"logits_block_rows": 0},
    ],
)
def test_settings_that_leave_nothing_to_compare_are_refused(changes):
    with pytest.raises(UsageProblem, match="nothing"):
        ContrastiveConfig(**changes)
