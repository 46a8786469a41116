"""ViT-1D: one token a frame, a class token that starts as their mean; numbers are the specification's."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shards.example import Batch
from shards.feature import load_feature
from shards.problem import DataProblem, UsageProblem
from trainers.config import load
from trainers.models.vit1d import READOUTS, Vit1d, Vit1dConfig, decibel_moments, decibels, read, sincos_line

SMALL = {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp_width": 64}


def power(batch: int, frames: int = 126, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10 ** torch.empty(batch, 128, frames).uniform_(-6, 4, generator=generator)


def small(**changes: object) -> Vit1d:
    torch.manual_seed(0)
    return Vit1dConfig(**{**SMALL, **changes}).build().eval()


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_encoder_block_and_projector_have_the_computed_numbers_of_parameters():
    config = load("vit1d:base")
    objective = config.objective.build(config.model.build())
    assert parameters(objective.model) == 5_363_712
    assert parameters(objective.model.transformer.layers[0]) == 444_864
    assert parameters(objective) - parameters(objective.model) == 61_760


def test_four_seconds_are_126_frames_of_the_column_that_the_config_names():
    config, feature = load("vit1d:base"), load_feature("mel:vit1d")
    assert (feature.column, feature.frames(64_000)) == (config.data.column, config.data.frames) == ("mel-vit1d", 126)
    assert config.model.build().tokens_of("frame") == 126


def test_hidden_states_and_attention_have_the_published_shapes():
    model, mel = Vit1dConfig().build().eval(), power(2)
    with torch.no_grad():
        states, maps = model.hidden_states(mel), model.attention_maps(mel)
    assert [tuple(state.shape) for state in states] == [(2, 127, 192)] * 14  # 13, and the last after the final norm
    assert [tuple(each.shape) for each in maps] == [(2, 3, 127, 127)] * 12
    for each in maps:
        torch.testing.assert_close(each.sum(dim=-1), torch.ones(2, 3, 127), atol=1e-5, rtol=0)


def test_explicit_and_fused_attention_compute_the_same():
    model = Vit1dConfig().build().eval()
    with torch.no_grad():
        states = model.hidden_states(power(1))
        for block, before, after in zip(model.transformer.layers, states, states[1:], strict=False):
            torch.testing.assert_close(block.explicit(before)[0], after, atol=1e-5, rtol=0)


def test_positions_are_the_published_sines_and_cosines():
    positions = sincos_line(126, 192)
    assert torch.equal(positions[0], torch.tensor([0.0, 1.0]).repeat_interleave(96))
    torch.testing.assert_close(positions[1, [0, 96]], torch.tensor([0.841471, 0.540302]))
    assert positions.sum().item() == pytest.approx(8308.548, abs=0.01)


def test_the_class_token_begins_as_the_learned_vector_plus_the_mean_of_the_projections():
    model, mel = small(), power(2)
    tokens = model.embed_frames(mel)
    levels = (decibels(mel, 100.0) - model.mean_db) / model.deviation_db
    projected = model.to_token(levels.mT)
    torch.testing.assert_close(tokens[:, 0], model.class_vector + projected.mean(dim=1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[:, 1:], projected + sincos_line(126, 32), atol=1e-5, rtol=1e-5)


def test_without_a_learned_vector_a_constant_sound_begins_as_the_projection_of_its_frame():
    model, mel = small(), power(1)[:, :, :1].expand(1, 128, 126)
    model.class_vector.data.zero_()
    tokens = model.embed_frames(mel)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1] - sincos_line(126, 32)[0], atol=1e-5, rtol=1e-5)


def test_swapping_two_frames_swaps_their_tokens_up_to_positions_and_leaves_the_class_token():
    model, mel = small(), power(1)
    swapped = mel.clone()
    swapped[:, :, [3, 90]] = mel[:, :, [90, 3]]
    before, after = (model.embed_frames(each)[0] for each in (mel, swapped))
    torch.testing.assert_close(before[0], after[0], atol=1e-5, rtol=1e-5)
    moved = sincos_line(126, 32)[3] - sincos_line(126, 32)[90]
    torch.testing.assert_close(after[4], before[91] + moved, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(mel), model(swapped))  # positions matter after all


@given(st.floats(-20, 6), st.floats(10, 120))
def test_levels_lie_within_their_range_below_the_clips_own_peak(exponent, range_db):
    quiet_beside_loud = torch.stack([power(1)[0] * 10**exponent, 1e6 * power(1)[0]])
    alone, together = decibels(quiet_beside_loud[:1], range_db), decibels(quiet_beside_loud, range_db)
    assert torch.equal(alone, together[:1])
    assert (together.amax(dim=(1, 2)) - together.amin(dim=(1, 2)) <= range_db + 1e-4).all()


def test_levels_are_ten_times_the_logarithm_and_silence_is_a_constant():
    mel = torch.tensor([[[1.0, 100.0], [1e-3, 0.0]]])
    torch.testing.assert_close(decibels(mel, 100.0), torch.tensor([[[0.0, 20.0], [-30.0, -80.0]]]))
    assert decibels(torch.zeros(1, 2, 3), 100.0).eq(-100).all()


def test_moments_of_a_training_set_make_its_levels_standard():
    mels = [power(1, frames, seed)[0] for seed, frames in enumerate((50, 126, 7))]
    mean, deviation = decibel_moments(mels)
    levels = torch.cat([decibels(mel[None], 100.0).flatten() for mel in mels])
    assert (mean, deviation) == (
        pytest.approx(levels.mean().item(), abs=1e-3),
        pytest.approx(levels.std(correction=0).item(), abs=1e-3),
    )
    with pytest.raises(DataProblem, match="no spectrogram"):
        decibel_moments([])


def test_a_config_takes_from_its_training_set_what_it_was_not_given():
    mels = [power(1, seed=seed)[0] for seed in range(3)]
    mean, deviation = decibel_moments(mels)
    measured = Vit1dConfig().measured(mels)
    assert (measured.mean_db, measured.deviation_db) == (round(mean, 2), round(deviation, 2))
    assert replace(Vit1dConfig(), mean_db=-3.0).measured(mels).mean_db == -3.0
    given = Vit1dConfig(mean_db=-3.0, deviation_db=2.0)
    assert given.measured([]) is given
    assert Vit1dConfig().measured([torch.zeros(128, 9)]).deviation_db > 0  # of silence everything is equal


def test_readouts_are_of_the_class_token_of_frames_or_of_all():
    tokens = torch.tensor([[[9.0], [1.0], [2.0]]])
    found = {readout: read(tokens, readout)[0].tolist() for readout in READOUTS}
    assert found == {"cls": [9.0], "seq_mean": [1.5], "all_mean": [4.0], "cls+seq_mean": [9.0, 1.5]}


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("frames", [2, 126, 300])
def test_any_number_of_frames_gives_an_embedding_of_the_readouts_width(readout, frames):
    model = small(readout=readout)
    found = model(power(2, frames), patching="frame")
    assert found.shape == (2, model.pass_width) == (2, model.embedding_width)
    torch.testing.assert_close(found, read(model.hidden_states(power(2, frames))[-1], readout))


def test_a_hidden_frame_has_no_influence_and_hiding_none_equals_the_whole():
    model, mel = small(), power(1)
    elsewhere = mel.clone()
    elsewhere[:, :, 5:] = torch.nan
    keep = torch.tensor([[4, 0, 2]])
    assert torch.equal(model(mel, keep), model(elsewhere, keep))
    torch.testing.assert_close(model(mel, torch.randperm(126)[None]), model(mel), atol=1e-5, rtol=0)


def test_the_loss_has_gradients_for_patch_weights_and_none_for_the_final_frame_tokens():
    config = load("vit1d:base", "debug")
    objective = config.objective.build(config.model.build())
    final: list[Tensor] = []
    objective.model.transformer.register_forward_hook(lambda module, given, tokens: final.append(tokens))
    objective.model.transformer.register_forward_hook(lambda module, given, tokens: tokens.retain_grad())
    batch = Batch(torch.arange(4), torch.ones(4), (power(4, 63), power(4, 63, seed=1)), torch.zeros(4, 2).long())
    objective(batch)[0].backward()
    assert all(tokens.grad[:, 1:].eq(0).all() and tokens.grad[:, 0].ne(0).any() for tokens in final)
    assert objective.model.to_token.weight.grad.ne(0).any() and final


def test_initial_weights_are_a_truncated_normal_and_biases_zero():
    model = small(width=96)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert weight.eq(0).all()
        elif "norm" not in name and "net.0" not in name:
            assert weight.std().item() == pytest.approx(0.02, rel=0.25), name
    eps = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert eps == {1e-6}


@pytest.mark.parametrize("changes", [{"width": 31}, {"deviation_db": 0.0}, {"range_db": -1.0}])
def test_a_shape_that_cannot_be_built_is_refused_with_its_values(changes):
    ((name, value),) = changes.items()
    with pytest.raises(UsageProblem, match=f"{name}={value}"):
        Vit1dConfig(**changes)
