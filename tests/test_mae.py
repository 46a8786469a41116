"""The masked autoencoder: its published size, what it predicts from what, and the loss of a batch over ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shards.example import Batch
from shards.problem import UsageProblem
from trainers.config import load
from trainers.models.mae import Mae, MaeConfig
from trainers.models.myna import keep_tokens, shuffled_tokens, sincos_positions
from trainers.objectives.masked import Masked, MaskedConfig

TINY = MaeConfig(width=32, depth=2, decoder_depth=1, heads=2, head_width=16, mlp_width=64)


def power(batch: int, seed: int = 0) -> Tensor:
    return 10 ** torch.empty(batch, 128, 96).uniform_(-3, 3, generator=torch.Generator().manual_seed(seed))


def tiny() -> Mae:
    torch.manual_seed(0)
    return TINY.build()


def batch_of(mel: Tensor, weight: Tensor | None = None) -> Batch:
    seeds = torch.arange(len(mel))[:, None] * 0x123456789
    return Batch(torch.arange(len(mel)), torch.ones(len(mel)) if weight is None else weight, (mel,), seeds)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_encoder_and_decoder_have_as_many_parameters_as_the_published_baseline():
    with torch.device("meta"):
        model = load("myna:mae").model.build()
    assert parameters(model) == 32_113_920
    assert parameters(model) - parameters(model.encoder) == 10_738_048


def test_three_quarters_of_the_patches_are_hidden_and_twelve_visible():
    objective = MaskedConfig().build(tiny())
    assert (objective.hidden, objective.tokens - objective.hidden) == (36, 12)


@given(st.integers(-(2**63), 2**63 - 1))
def test_what_is_visible_is_what_the_contrastive_mask_of_the_same_seed_keeps(seed):
    order = shuffled_tokens(torch.tensor([seed]), tokens=48)
    assert torch.equal(order[:, 36:], keep_tokens(torch.tensor([seed]), tokens=48, mask_ratio=0.75))
    assert sorted(order[0].tolist()) == list(range(48))


def test_the_embedding_is_the_encoders_over_all_patches():
    model, mel = tiny().eval(), power(2)
    torch.testing.assert_close(model(mel), model.hidden_states(mel)[-1].mean(dim=1))
    assert torch.equal(model(mel), model.encoder(mel))
    assert (model.patchings, model.tokens_of("square"), model.pass_width, model.embedding_width) == (
        ("square",),
        48,
        32,
        32,
    )
    assert [each.shape for each in model.attention_maps(mel)] == [(2, 2, 48, 48)] * 2


def test_a_hidden_patch_has_no_influence_on_what_is_predicted():
    model, mel = tiny().eval(), power(1)
    order = shuffled_tokens(torch.tensor([7]), tokens=48)
    row, column = divmod(int(order[0, 0]), 6)
    elsewhere = mel.clone()
    elsewhere[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = torch.nan
    assert torch.equal(model.predict(mel, order, hidden=36), model.predict(elsewhere, order, hidden=36))


def test_the_decoder_reads_mask_tokens_at_their_places_and_visible_ones_as_they_left_the_encoder():
    """The same, written token by token."""
    model, mel = tiny().eval(), power(1)
    order = shuffled_tokens(torch.tensor([3]), tokens=48)
    encoded = model.encoder.transformer(model.encoder.embed_patches(mel, order[:, 36:]))[0]
    grid = model.mask_token.vector[0] + sincos_positions(8, 6, 32)
    for place, token in zip(order[0, 36:].tolist(), encoded, strict=True):
        grid[place] = token
    expected = model.to_patch(model.decoder(grid[None]))[0, order[0, :36]]
    torch.testing.assert_close(model.predict(mel, order, hidden=36)[0], expected, atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_squared_error_of_log_power_over_hidden_patches_of_the_first_view():
    objective, mel = MaskedConfig().build(tiny()).eval(), power(3)
    batch = batch_of(mel)
    loss, metrics = objective(batch)
    order = shuffled_tokens(batch.seeds[:, 0], tokens=48)[:, :36]
    predicted = objective.model.predict(mel, shuffled_tokens(batch.seeds[:, 0], tokens=48), hidden=36)
    errors = []
    for example in range(3):
        for number, token in enumerate(order[example].tolist()):
            row, column = divmod(token, 6)
            patch = mel[example, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            errors.append((predicted[example, number] - patch.reshape(-1).log1p()).square())
    torch.testing.assert_close(loss, torch.cat(errors).mean())
    torch.testing.assert_close(metrics["loss"], loss.detach())


def test_padding_rows_change_neither_loss_nor_gradients():
    plain, padded = (MaskedConfig().build(tiny()) for _ in range(2))
    mel = power(3)
    loss, _ = plain(batch_of(mel))
    with_padding, _ = padded(batch_of(torch.cat([mel, power(1, seed=9)]), torch.tensor([1.0, 1, 1, 0])))
    torch.testing.assert_close(with_padding, loss)
    loss.backward()
    with_padding.backward()
    for ours, theirs in zip(plain.parameters(), padded.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_every_weight_is_trained():
    objective = MaskedConfig().build(tiny())
    objective(batch_of(power(2)))[0].backward()
    assert [name for name, weight in objective.named_parameters() if weight.grad is None] == []


def test_it_learns_to_predict_better_than_the_best_constant():
    falling = 1e4 * 0.95 ** torch.arange(128.0)[:, None]  # as the spectra of most sounds do
    objective, mel = MaskedConfig().build(tiny()), falling * torch.rand(8, 128, 96)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for _ in range(80):
        loss, metrics = objective(batch_of(mel))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["loss"] < 0.5 * metrics["target_variance"]


def test_the_objective_holds_the_model_that_a_checkpoint_exports():
    objective = load("myna:mae", "debug").objective.build(load("myna:mae", "debug").model.build())
    assert isinstance(objective, Masked)
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert names == {"model"}


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(UsageProblem, match=f"mask_ratio={ratio}"):
        MaskedConfig(mask_ratio=ratio)


def test_a_ratio_of_less_than_one_patch_is_refused():
    with pytest.raises(UsageProblem, match="less than one"):
        MaskedConfig(mask_ratio=0.01).build(tiny())
