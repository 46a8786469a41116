"""The multi-view autoencoder: sizes, losses and what they reach, and what is measured first."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shards.example import Batch
from shards.problem import DataProblem, UsageProblem
from tests.views_in_pairs import in_two_processes
from trainers.config import load
from trainers.disentangle import disentanglement
from trainers.models.multiview import MultiviewConfig
from trainers.objectives.multiview import MultiviewObjective, MultiviewObjectiveConfig

SMALL = MultiviewConfig(bands=6, frames=4, hidden=16, latent=5)
BOTH = MultiviewObjectiveConfig(principle="infonce", kind="both", reconstruction_weight=0.4)


def objective_of(config: MultiviewObjectiveConfig = BOTH, model: MultiviewConfig = SMALL) -> MultiviewObjective:
    torch.manual_seed(0)
    return config.build(model.build())


def batch_of(examples: int, seed: int = 0) -> Batch:
    """Features of other means and deviations than 0 and 1; the first one has the same value throughout."""
    generator = torch.Generator().manual_seed(seed)
    views = 3.0 + 2.0 * torch.randn(2, examples, 6, 4, generator=generator)
    views[:, :, 0] = 7.0
    return Batch(torch.arange(examples), torch.ones(examples), tuple(views), torch.zeros(examples, 2).long())


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """Those rows; -1 is padding, full of values that must not matter."""
    at, real = torch.tensor(rows), torch.tensor(rows) >= 0
    views = tuple(torch.where(real[:, None, None], view[at], torch.tensor(9.0)) for view in batch.views)
    return Batch(torch.where(real, batch.index[at], -1), real.float(), views, batch.seeds[at])


def gradients(objective: MultiviewObjective, batch: Batch) -> dict[str, Tensor]:
    objective.zero_grad()
    objective(batch)[0].backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in objective.named_parameters()}


# Sizes ---------------------------------------------------------------------------------------------------------------


def parameters(part: torch.nn.Module | None) -> int:
    assert part is not None
    return sum(weight.numel() for weight in part.parameters())


def test_the_published_sizes():
    model, baseline = MultiviewConfig().build(), MultiviewConfig(private=False, decoder=False).build()
    assert (parameters(model.private), parameters(model.shared), parameters(model.decoder)) == (
        787_712,
        787_712,
        919_296,
    )
    assert (parameters(model), parameters(baseline)) == (2_494_720, 919_040)


@pytest.mark.parametrize("changed", [{}, {"pool": "time"}, {"private": False, "decoder": False}, {"layers": 1}])
def test_an_embedding_is_both_codes_side_by_side(changed):
    model = replace(SMALL, **changed).build()
    embedded = model(batch_of(3).views[0])
    assert embedded.shape == (3, 10)
    assert list(model.subspaces) == (["private", "shared"] if model.private else [])
    if model.private and not changed:
        pooled = batch_of(3).views[0].mean(dim=2)
        torch.testing.assert_close(embedded[:, model.subspaces["private"]], model.private(pooled))
        torch.testing.assert_close(embedded[:, model.subspaces["shared"]], model.shared(pooled))


def test_codes_of_frames_are_averaged_after_they_were_made():
    model, features = replace(SMALL, pool="time").build(), batch_of(2).views[0]
    frames = torch.stack([model(features[:, :, [frame]]) for frame in range(4)])
    torch.testing.assert_close(model(features), frames.mean(dim=0))


@pytest.mark.parametrize("name", ["best", "reconstruction", "contrastive_instrument", "contrastive_pitch"])
def test_the_paper_size_has_the_published_values(name):
    config = load(f"multiview:{name}")
    assert (config.epochs, config.data.batch_examples, config.optimizer.name) == (100, 16, "adamw")
    assert (config.data.examples, config.data.valid_examples) == (10_000, 2_000)
    assert (config.model.bands, config.model.frames, config.objective.temperature) == (768, 25, 0.1)
    by_pitch = name == "contrastive_pitch"
    assert (config.data.pair_by == "pitch") == by_pitch == (config.data.pair_unlike == "instrument_family")
    assert config.model.decoder == config.model.private == (name in ("best", "reconstruction"))


# Losses --------------------------------------------------------------------------------------------------------------


def test_the_loss_is_both_in_their_proportion():
    objective, batch = objective_of(), batch_of(5)
    objective.scale.fill_(3.0)
    loss, metrics = objective(batch)
    x = [view.mean(dim=2) for view in batch.views]
    model = objective.model
    private, shared = ([part(view) for view in x] for part in (model.private, model.shared))
    other, parts = disentanglement(tuple(private), tuple(shared), BOTH)
    rebuilt = [model.decoder(torch.cat(codes, dim=1)) for codes in zip(private, shared, strict=True)]
    error = sum((made - given).square().mean() for made, given in zip(rebuilt, x, strict=True)) / 2
    torch.testing.assert_close(loss, 0.4 * 3.0 * error + 0.6 * other)
    expected = {**parts, "disentanglement": other, "mse": error}
    torch.testing.assert_close(metrics, {name: value.detach() for name, value in expected.items()})


def test_with_all_weight_on_reconstruction_the_other_loss_is_seen_and_moves_nothing():
    batch = batch_of(5)
    only = replace(BOTH, reconstruction_weight=1.0)
    found = [gradients(objective_of(replace(only, kind=kind)), batch) for kind in ("sim", "sep", "both")]
    assert all(torch.equal(found[0][name], other[name]) for other in found for name in found[0])
    objective = objective_of(only)
    loss, metrics = objective(batch)
    assert loss == metrics["mse"] and {"disentanglement", "sim", "sep"} <= set(metrics)


@pytest.mark.parametrize(("kind", "still"), [("sim", "private"), ("sep", "shared"), ("both", "")])
def test_without_reconstruction_there_is_no_decoder_and_what_nothing_reaches_stays(kind, still):
    objective = objective_of(replace(BOTH, kind=kind, reconstruction_weight=0.0), replace(SMALL, decoder=False))
    found = gradients(objective, batch_of(5))
    assert not any("decoder" in name for name in found)
    assert {name.split(".")[1] for name, gradient in found.items() if not gradient.any()} == ({still} - {""})
    assert {name.split(".")[1] for name, p in objective.named_parameters() if not p.requires_grad} == ({still} - {""})
    assert "mse" not in objective(batch_of(5))[1]


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        ({"reconstruction_weight": 0.0}, {}, "--model.decoder false"),
        ({}, {"decoder": False}, "nothing would be decoded"),
        ({"kind": "sep"}, {"private": False}, "--model.private true"),
    ],
)
def test_parts_that_are_missing_or_idle_are_refused(config, model, said):
    with pytest.raises(UsageProblem, match=said):
        objective_of(replace(BOTH, **config), replace(SMALL, **model))


@pytest.mark.parametrize(
    "changed",
    [
        {"reconstruction_weight": 1.1},
        {"scale_batches": 0},
        {"scale_range": (0.0, 1.0)},
        {"principle": "cosine", "negatives": "other_family"},
        {"kind": "sep", "negatives": "other_family"},
    ],
)
def test_a_value_without_a_meaning_is_refused(changed):
    with pytest.raises(UsageProblem):
        replace(BOTH, **changed)


@pytest.mark.parametrize("principle", ["infonce", "vicreg"])
def test_a_batch_of_one_is_refused(principle):
    with pytest.raises(UsageProblem, match="batch-examples at least 2"):
        objective_of(replace(BOTH, principle=principle))(batch_of(1))


def test_examples_of_one_class_are_no_negatives_where_only_others_are_asked_for():
    config = replace(BOTH, kind="sim", negatives="other_family")
    plain, batch = objective_of(replace(config, negatives="all")), batch_of(6)
    told = objective_of(config)
    with pytest.raises(UsageProblem, match=r"--data\.pair-by"):
        told(batch)
    told.know(torch.arange(6), torch.zeros(6).long())
    assert told(batch)[1]["sim"] == plain(batch)[1]["sim"]  # every example is of a class of its own
    told.know(torch.tensor([0, 0, 0, 1, 1, 1]), torch.zeros(6).long())
    assert told(batch)[1]["sim"] < plain(batch)[1]["sim"]
    told.eval()  # of the validation's examples, which are all of one class
    assert told(batch)[1]["sim"] == 0


def test_half_precision_changes_the_losses_by_its_rounding_only():
    objective, batch = objective_of(), batch_of(6)
    objective.fit([batch])
    loss, _ = objective(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, metrics = objective(batch)
    assert rounded.item() == pytest.approx(loss.item(), rel=0.02)
    assert all(value.dtype == torch.float32 for value in metrics.values())


# Several ranks -------------------------------------------------------------------------------------------------------

PRINCIPLES = ("infonce", "cosine", "vicreg")
PARTS = ([0, 1, 2], [3, 4, -1])  # of five examples; the last row is padding


def _of_principle(principle: str) -> MultiviewObjective:
    return objective_of(replace(BOTH, principle=principle))  # type: ignore[arg-type]


def _work(rank: int) -> dict[str, Any]:
    return {name: _found(_of_principle(name), part_of(batch_of(5), PARTS[rank])) for name in PRINCIPLES}


def _found(objective: MultiviewObjective, batch: Batch) -> dict[str, Any]:
    found = gradients(objective, batch)
    objective.eval()
    loss, metrics = objective(batch)
    return {"loss": loss.detach(), "metrics": metrics, "gradients": found}


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory) -> list[dict[str, Any]]:
    return in_two_processes(_work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("principle", PRINCIPLES)
def test_two_ranks_have_the_loss_and_the_gradients_of_the_whole_batch(principle, shared_out):
    whole, (first, second) = _found(_of_principle(principle), batch_of(5)), (each[principle] for each in shared_out)
    mean = {name: (first["gradients"][name] + second["gradients"][name]) / 2 for name in first["gradients"]}
    torch.testing.assert_close(mean, whole["gradients"], atol=1e-5, rtol=1e-5)
    for each in (first, second):
        torch.testing.assert_close(each["loss"], whole["loss"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(each["metrics"], whole["metrics"], atol=1e-5, rtol=1e-4)


# What is measured first ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["clip", "time"])
def test_features_are_standardised_by_the_training_set_and_then_guessing_the_mean_costs_1(pool):
    objective = objective_of(model=replace(SMALL, pool=pool))
    batches = [batch_of(8), part_of(batch_of(8, seed=1), [*range(6), -1, -1])]
    objective.fit(batches)
    heard = torch.cat([batches[0].views[0], batches[1].views[0][:6]])
    x = objective.model.pooled(heard).flatten(end_dim=-2)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.tensor([0.0, 1, 1, 1, 1, 1]), atol=1e-5, rtol=0)


def test_a_feature_that_is_constant_throughout_stays_a_number():
    objective = objective_of()
    objective.fit([batch_of(8)])
    assert objective.model.deviation[0] == pytest.approx(1e-6)
    assert all(value.isfinite() for value in objective(batch_of(8, seed=1))[1].values())


@pytest.mark.parametrize("principle", PRINCIPLES)
def test_reconstruction_is_brought_to_the_size_of_the_other_loss_on_the_first_batches(principle):
    objective = objective_of(replace(BOTH, principle=principle, scale_batches=2))
    batches = [batch_of(8, seed=seed) for seed in range(3)]
    objective.fit(batches)
    metrics = [objective(batch)[1] for batch in batches[:2]]
    others, errors = (sum(abs(float(told[name])) for told in metrics) / 2 for name in ("disentanglement", "mse"))
    assert objective.scale.item() == pytest.approx(others / errors, rel=1e-4)
    narrow = objective_of(replace(objective.config, scale_range=(5e3, 6e3)))
    narrow.fit(batches)
    assert narrow.scale.item() == 5e3


def test_one_loss_alone_needs_no_scale():
    only = objective_of(replace(BOTH, reconstruction_weight=1.0))
    none = objective_of(replace(BOTH, reconstruction_weight=0.0), replace(SMALL, decoder=False))
    for objective in (only, none):
        objective.fit([batch_of(8)])
        assert objective.scale == 1.0 and objective.model.mean[0] == pytest.approx(7.0)


def test_nothing_can_be_measured_on_no_example():
    with pytest.raises(DataProblem, match="no example to measure"):
        objective_of().fit([])
