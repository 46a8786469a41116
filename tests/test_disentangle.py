"""What compares latents: worked values, closed forms, what must not matter, and several models at once."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shards.problem import UsageProblem
from trainers.disentangle import (
    DisentanglementConfig,
    cosine_sep,
    cosine_sim,
    disentanglement,
    effective_rank,
    infonce_sep,
    infonce_sim,
    invariance,
    monitors,
    reconstruction,
    vicreg_sep,
    vicreg_sim,
)

A = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
B = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
CONFIGS = [
    DisentanglementConfig(principle=principle, kind=kind)  # type: ignore[arg-type]
    for principle in ("infonce", "cosine", "vicreg")
    for kind in ("sim", "sep", "both")
]


def latents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss_of(private: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor], config: DisentanglementConfig) -> Tensor:
    return disentanglement(private, shared, config)[0]


@pytest.mark.parametrize(
    ("temperature", "symmetric", "one_way", "separate"),
    [(0.1, 0.0363647, 0.0092427, 7.970539), (1.0, 0.4488791, 0.4420580, 0.5601622)],
)
def test_infonce_has_its_worked_values(temperature, symmetric, one_way, separate):
    assert infonce_sim(A, B, temperature=temperature).item() == pytest.approx(symmetric, abs=1e-6)
    assert infonce_sim(A, B, temperature=temperature, symmetric=False).item() == pytest.approx(one_way, abs=1e-6)
    assert infonce_sep(A, B, temperature=temperature).item() == pytest.approx(separate, abs=1e-5)


def test_cosine_and_vicreg_have_their_worked_values():
    assert cosine_sim(A, B).item() == pytest.approx(0.1)
    assert (cosine_sep(A, B).item(), cosine_sep(A, B, target=-1).item()) == pytest.approx((0.9, 1.9))
    assert invariance(A, B).item() == pytest.approx(0.1)
    assert vicreg_sim(A, B).item() == pytest.approx(13.630923, abs=1e-5)
    assert vicreg_sep(A, B).item() == pytest.approx(8.630923, abs=1e-5)


@pytest.mark.parametrize("scope", ["all", "pair_vs_batch"])
def test_separation_is_0_for_orthogonal_latents_and_1_over_the_temperature_for_equal_ones(scope):
    directions, one = 3.0 * torch.eye(4), torch.ones(2, 4)
    assert infonce_sep(directions[:2], directions[2:], temperature=0.1, scope=scope).item() == pytest.approx(
        0, abs=1e-6
    )
    assert infonce_sep(one, 2 * one, temperature=0.1, scope=scope).item() == pytest.approx(10)


def test_vicreg_is_0_for_equal_views_of_wide_uncorrelated_dimensions():
    rows = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    assert vicreg_sim(rows, rows).item() == 0.0


def test_where_all_latents_are_equal_choosing_among_sixteen_costs_their_logarithm():
    rows = torch.ones(16, 3)
    assert infonce_sim(rows, rows, temperature=0.1).item() == pytest.approx(math.log(16), abs=1e-5)


@pytest.mark.parametrize(("scope", "weight"), [("all", 1), ("pair_vs_batch", 5)])
def test_separation_is_the_formula_written_out(scope, weight):
    a, b = latents(5, 7), latents(5, 7, seed=1)
    rows = torch.cat([a, b]) / torch.cat([a, b]).norm(dim=1, keepdim=True)
    terms = []
    for i in range(10):
        counts = {j: weight if j == (i + 5) % 10 else 1 for j in range(10) if j != i}
        exponentials = sum(count * math.exp(float(rows[i] @ rows[j]) / 0.2) for j, count in counts.items())
        terms.append(math.log(exponentials / sum(counts.values())))
    found = infonce_sep(a, b, temperature=0.2, scope=scope)
    assert found.item() == pytest.approx(sum(terms) / 10, abs=1e-5)


def test_pairs_that_are_excluded_are_no_negatives():
    a, b = latents(4, 6), latents(4, 6, seed=1)
    family = torch.tensor([0, 1, 0, 1])
    excluded = (family[:, None] == family) & ~torch.eye(4, dtype=torch.bool)
    kept = [[row, *(family != family[row]).nonzero()[:, 0].tolist()] for row in range(4)]

    def one_way(x: Tensor, y: Tensor) -> float:
        cosines = torch.cosine_similarity(x[:, None], y[None], dim=2) / 0.1
        return -sum(float(cosines[row, others].log_softmax(0)[0]) for row, others in enumerate(kept)) / 4

    expected = (one_way(a, b) + one_way(b, a)) / 2
    assert infonce_sim(a, b, temperature=0.1, excluded=excluded).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.principle}-{config.kind}")
def test_models_side_by_side_have_the_losses_that_they_have_alone(config):
    parts = [latents(3, 6, 5, seed=seed) for seed in range(4)]
    together, told = disentanglement((parts[0], parts[1]), (parts[2], parts[3]), config)
    for member in range(3):
        own = [part[member] for part in parts]
        alone, told_alone = disentanglement((own[0], own[1]), (own[2], own[3]), config)
        torch.testing.assert_close(together[member], alone)
        torch.testing.assert_close({name: value[member] for name, value in told.items()}, told_alone)


@given(factor=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_length_of_latents_matters_to_vicreg_alone(factor, seed):
    pair = latents(6, 5, seed=seed), latents(6, 5, seed=seed + 100)
    scaled = factor * pair[0], factor * pair[1]
    for config in (config for config in CONFIGS if config.principle != "vicreg"):
        torch.testing.assert_close(loss_of(scaled, scaled, config), loss_of(pair, pair, config), atol=1e-4, rtol=1e-4)
    if abs(factor - 1) > 0.1:
        assert abs(vicreg_sim(*scaled) - vicreg_sim(*pair)) > 0.01


@given(order=st.permutations(range(6)), config=st.sampled_from(CONFIGS))
def test_the_order_of_a_batch_changes_nothing(order, config):
    private, shared = (latents(6, 5), latents(6, 5, seed=1)), (latents(6, 5, seed=2), latents(6, 5, seed=3))
    turned = [(first[order], second[order]) for first, second in (private, shared)]
    torch.testing.assert_close(loss_of(turned[0], turned[1], config), loss_of(private, shared, config))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.principle}-{config.kind}")
def test_similarity_moves_shared_latents_only_and_separation_private_ones_only(config):
    parts = [latents(6, 5, seed=seed).requires_grad_() for seed in range(4)]
    loss_of((parts[0], parts[1]), (parts[2], parts[3]), config).backward()
    moved = [part.grad is not None and bool(part.grad.any()) for part in parts]
    assert moved == [config.kind != "sim"] * 2 + [config.kind != "sep"] * 2


def test_beyond_its_cap_vicreg_wins_nothing_from_distance_and_without_one_everything():
    near, far = torch.zeros(4, 3), torch.full((4, 3), 9.0)
    spread = vicreg_sep(near, near)
    assert vicreg_sep(near, far).item() == pytest.approx(spread.item() - 25 * 4)
    assert vicreg_sep(near, far, cap=None).item() == pytest.approx(spread.item() - 25 * 81)


def test_a_reconstruction_counts_both_views_alike():
    x, zeros = (torch.full((4, 3), 1.0), torch.full((4, 3), 3.0)), torch.zeros(2, 4, 3)
    errors = reconstruction((zeros, zeros), x)  # of two models, one input
    torch.testing.assert_close(errors, torch.full((2,), (1 + 9) / 2))


def test_monitors_show_a_collapse_and_its_absence():
    collapsed, spread = torch.ones(4, 6), math.sqrt(4) * torch.eye(4)
    told = monitors(collapsed, torch.cat([spread, torch.zeros(4, 2)], dim=1))
    assert (told["private_deviation"].item(), told["private_rank"].item()) == pytest.approx((0.0, 1.0), abs=1e-3)
    assert told["shared_rank"].item() == pytest.approx(4.0, abs=1e-3)
    assert told["private_shared_cosine"].item() == pytest.approx(1 / math.sqrt(6))
    assert monitors(collapsed, collapsed)["private_shared_cosine"].item() == pytest.approx(1.0)
    assert set(monitors(None, spread)) == {"shared_deviation", "shared_rank"}
    assert effective_rank(torch.stack([spread, collapsed[:, :4]])).tolist() == pytest.approx([4.0, 1.0], abs=1e-3)


@pytest.mark.parametrize("compare", [cosine_sim, cosine_sep, vicreg_sim, vicreg_sep, invariance])
@pytest.mark.parametrize("shape", [(1, 5), (6, 4)])
def test_latents_of_different_shapes_are_of_no_pairs(compare, shape):
    with pytest.raises(UsageProblem, match=r"\(6, 5\) and"):
        compare(latents(6, 5), latents(*shape))
    with pytest.raises(UsageProblem, match=r"\(6, 5\) and"):
        infonce_sim(latents(6, 5), latents(*shape), temperature=0.1)
    with pytest.raises(UsageProblem, match=r"\(6, 5\) and"):
        infonce_sep(latents(6, 5), latents(*shape), temperature=0.1)


def test_an_example_alone_has_nothing_to_be_compared_with():
    one = latents(1, 5)
    for kind in ("sim", "sep"):
        config = DisentanglementConfig(principle="vicreg", kind=kind)  # type: ignore[arg-type]
        with pytest.raises(UsageProblem, match="VICReg compares .* this one has 1"):
            disentanglement((one, one), (one, one), config)
    with pytest.raises(UsageProblem, match="InfoNCE compares .* this one has 1"):
        infonce_sim(one, one, temperature=0.1)


@pytest.mark.parametrize("changed", [{"temperature": 0.0}, {"vicreg_cap": -1.0}])
def test_a_temperature_or_cap_of_nothing_is_refused(changed):
    with pytest.raises(UsageProblem, match="above 0"):
        replace(CONFIGS[0], **changed)
