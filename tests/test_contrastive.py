"""InfoNCE: the specification's numbers, and one batch over any number of processes."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, multiprocessing
from torch import distributed as dist

from shards.example import Batch
from shards.problem import UsageProblem
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import Contrastive, ContrastiveConfig, info_nce

FIRST = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
SECOND = torch.tensor([[0.6, 0.8], [0.8, 0.6]])


def objective() -> Contrastive:
    torch.manual_seed(0)
    model = MynaConfig(width=32, depth=2, heads=2, head_width=16, mlp_width=64, log1p=True).build()
    return ContrastiveConfig(projector_widths=(64, 32)).build(model)


def batch_of(examples: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = tuple(torch.empty(examples, 128, 96).exponential_(1.0, generator=generator) for _ in range(2))
    seeds = torch.randint(-(2**62), 2**62, (examples, 2), generator=generator)
    return Batch(torch.arange(examples), torch.ones(examples), views, seeds)


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """The chosen rows; -1 is a padding row, full of values that must not matter."""
    real = rows >= 0
    views = tuple(torch.where(real[:, None, None], view[rows], torch.tensor(3.0)) for view in batch.views)
    return Batch(torch.where(real, batch.index[rows], -1), real.float(), views, batch.seeds[rows])


def loss_and_gradients(objective: Contrastive, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    loss, metrics = objective(batch)
    loss.backward()
    return (
        loss.detach(),
        torch.cat([p.grad.flatten() for p in objective.parameters()]),
        metrics,
    )


@pytest.mark.parametrize(
    ("temperature", "from_first", "from_second", "symmetrised"),
    [
        (0.5, 0.583901, 1.265893, 0.924897),
        (1.0, 0.571101, 0.976344, 0.773722),
        (0.1, 2.000335, 3.783901, 2.892118),
    ],
)
def test_loss_and_written_out_formula_have_the_published_values(temperature, from_first, from_second, symmetrised):
    loss, metrics = info_nce(FIRST, SECOND, torch.ones(2), temperature=temperature)
    assert loss.item() == metrics["loss"].item() == pytest.approx(symmetrised, abs=1e-6)
    assert papers_loss(FIRST, SECOND, temperature) == pytest.approx(from_first, abs=1e-6)
    assert papers_loss(SECOND, FIRST, temperature) == pytest.approx(from_second, abs=1e-6)


def test_the_loss_is_the_formula_of_the_paper_in_both_directions():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 8, generator=generator)
    expected = (papers_loss(first, second, 0.2) + papers_loss(second, first, 0.2)) / 2
    loss, _ = info_nce(first, second, torch.ones(5), temperature=0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def papers_loss(anchors: Tensor, others: Tensor, temperature: float) -> float:
    """Mean over i of -log(exp(s+) / sum over j != i of exp(s-)), one term at a time."""

    def similarity(x: Tensor, y: Tensor) -> float:
        return math.exp((x @ y / x.norm() / y.norm()).item() / temperature)

    def term(i: int) -> float:
        negatives = [similarity(anchors[i], v[j]) for j in range(len(anchors)) if j != i for v in (anchors, others)]
        return -math.log(similarity(anchors[i], others[i]) / sum(negatives))

    return sum(term(i) for i in range(len(anchors))) / len(anchors)


def test_metrics_have_the_values_of_their_definitions():
    _, metrics = info_nce(FIRST, SECOND, torch.ones(2), temperature=0.5)
    # Squared distances: the pairs 0.8 apart; negatives of the first views 2 and 0.4, of the second 0.08 and 0.4.
    assert metrics["alignment"].item() == pytest.approx(0.8)
    potential = (2 * math.exp(-2 * 0.4) + math.exp(-2 * 2) + math.exp(-2 * 0.08)) / 4
    assert metrics["uniformity"].item() == pytest.approx(math.log(potential))
    assert metrics["top1_pair_accuracy"].item() == 0.0


def test_separated_pairs_are_all_found():
    _, metrics = info_nce(torch.eye(4), torch.eye(4), torch.ones(4), temperature=0.1)
    assert metrics["top1_pair_accuracy"].item() == 1.0


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_a_batch_changes_nothing(order):
    whole, gradients, _ = loss_and_gradients(objective(), batch_of(6))
    shuffled, shuffled_gradients, _ = loss_and_gradients(objective(), rows_of(batch_of(6), torch.tensor(order)))
    torch.testing.assert_close(shuffled, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(shuffled_gradients, gradients, atol=1e-5, rtol=0)


def test_padding_rows_change_neither_loss_nor_gradients_nor_metrics():
    whole, gradients, metrics = loss_and_gradients(objective(), batch_of(5))
    padded = rows_of(batch_of(5), torch.tensor([0, -1, 1, 2, 3, 4, -1]))
    loss, padded_gradients, padded_metrics = loss_and_gradients(objective(), padded)
    torch.testing.assert_close(loss, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded_gradients, gradients, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded_metrics, metrics, atol=1e-5, rtol=0)


def test_other_seeds_hide_other_patches():
    batch = batch_of(4)
    reseeded = Batch(batch.index, batch.weight, batch.views, batch.seeds + 1)
    assert objective()(batch)[0] != objective()(reseeded)[0]


def test_every_parameter_receives_a_gradient():
    model = objective()
    model(batch_of(4))[0].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_loss_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = objective()(batch_of(4))
    assert loss.dtype == metrics["uniformity"].dtype == torch.float32
    torch.testing.assert_close(loss, objective()(batch_of(4))[0], atol=0.05, rtol=0)


def test_a_batch_of_one_example_is_refused():
    with pytest.raises(UsageProblem, match="at least 2"):
        objective()(batch_of(1))


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"mask_ratio": 1.0}, {"projector_widths": ()}])
def test_settings_that_leave_nothing_to_compare_are_refused(changes):
    with pytest.raises(UsageProblem, match="nothing to compare"):
        ContrastiveConfig(**changes)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, dict]]:
    """What each of two processes finds for global batches of 8, 7 and 5 examples."""
    folder = tmp_path_factory.mktemp("shares")
    multiprocessing.spawn(_find_shares, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("examples", [8, 7, 5], ids=["divides", "one_padding_row", "unequal_padding"])
def test_two_processes_find_the_loss_and_gradients_of_one(shares, examples):
    whole, gradients, metrics = loss_and_gradients(objective(), batch_of(examples))
    first, second = (share[examples] for share in shares)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close((first["gradients"] + second["gradients"]) / 2, gradients, atol=1e-5, rtol=0)
    for share in (first, second):
        torch.testing.assert_close(share["metrics"], metrics, atol=1e-5, rtol=0)


def _find_shares(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows = {8: [[0, 2, 4, 6], [1, 3, 5, 7]], 7: [[0, 2, 4, 6], [1, 3, 5, -1]], 5: [[0, 1, 2, 3], [4, -1, -1, -1]]}
    found = {}
    for examples, by_rank in rows.items():
        share = rows_of(batch_of(examples), torch.tensor(by_rank[rank]))
        loss, gradients, metrics = loss_and_gradients(objective(), share)
        found[examples] = {"loss": loss, "gradients": gradients, "metrics": metrics}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
