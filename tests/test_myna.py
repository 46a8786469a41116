"""Myna is SimpleViT with masking before the patch embedding; numbers are the specification's."""

import importlib.util
from dataclasses import replace
from importlib.metadata import distribution
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from shards.problem import UsageProblem
from trainers.config import SIZES
from trainers.config import load as load_config
from trainers.models.myna import Myna, MynaConfig, keep_tokens, sincos_positions
from trainers.objectives.contrastive import ContrastiveConfig

SMALL = MynaConfig(width=32, depth=2, heads=2, head_width=16, mlp_width=64)
VERTICAL = MynaConfig(patch_bands=128, patch_frames=2, frames=98)
any_seed = st.integers(-(2**63), 2**63 - 1)


def mel_power(batch: int, frames: int = 96, seed: int = 0) -> Tensor:
    """Positive values over the range of real mel power, 1e-6 to 1e4."""
    generator = torch.Generator().manual_seed(seed)
    return 10 ** torch.empty(batch, 128, frames).uniform_(-6, 4, generator=generator)


def small(**changes: object) -> Myna:
    torch.manual_seed(0)
    return MynaConfig(**{**vars(SMALL), **changes}).build().eval()


def hybrid() -> Myna:
    return small(second_patch=(128, 2))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def simple_vit() -> ModuleType:
    """vit-pytorch's module alone: its package would import torchvision, which has no build for every torch."""
    path = distribution("vit-pytorch").locate_file("vit_pytorch/simple_vit.py")
    spec = importlib.util.spec_from_file_location("simple_vit", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "count", "keys"),
    [
        ("myna:base", 21_375_872, 128),
        ("myna:vertical", 21_375_872, 128),
        ("myna:hybrid", 21_475_840, 134),
        ("myna:85m", 85_417_984, 134),
    ],
)
def test_an_encoder_has_the_parameters_and_keys_of_the_published_one(name, count, keys):
    with torch.device("meta"):
        model = load_config(name).model.build()
    assert (parameters(model), len(model.state_dict())) == (count, keys)
    assert not any("pos_embedding" in key for key in model.state_dict())


def test_encoder_and_default_projector_have_as_many_parameters_as_the_published_file():
    assert parameters(ContrastiveConfig().build(MynaConfig().build())) == 30_557_056


def test_the_state_dict_of_a_hybrid_has_the_published_names_and_shapes():
    """The table of the published files, written out."""
    expected = {"transformer.norm.weight": (32,), "transformer.norm.bias": (32,)}
    for tokeniser in ("to_patch_embedding", "to_patch_embedding_b"):
        for name, shape in {"1": (256,), "2": (32, 256), "3": (32,)}.items():
            expected |= {f"{tokeniser}.{name}.weight": shape, f"{tokeniser}.{name}.bias": shape[:1]}
    for block in range(2):
        parts = {"0.norm": (32,), "1.net.0": (32,), "1.net.1": (64, 32), "1.net.3": (32, 64)}
        for name, shape in parts.items():
            prefix = f"transformer.layers.{block}.{name}"
            expected |= {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}
        expected[f"transformer.layers.{block}.0.to_qkv.weight"] = (96, 32)
        expected[f"transformer.layers.{block}.0.to_out.weight"] = (32, 32)
    assert {name: tuple(weight.shape) for name, weight in hybrid().state_dict().items()} == expected


def test_weights_survive_a_round_trip_through_safetensors():
    ours, copy = small(), small(log1p=False)
    torch.nn.init.normal_(ours.to_patch_embedding[2].weight)
    copy.load_state_dict(load(save(ours.state_dict())))
    assert torch.equal(ours(mel_power(2)), copy(mel_power(2)))


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("myna:base", {"square": 48}),
        ("myna:vertical", {"vertical": 49}),
        ("myna:hybrid", {"square": 48, "vertical": 48}),
    ],
)
def test_a_window_has_the_published_number_of_tokens_and_keeps_five(name, tokens):
    config = load_config(name).model
    assert {patching: config.tokens_of(patching) for patching in config.patchings} == tokens
    for count in tokens.values():
        assert keep_tokens(torch.zeros(1, dtype=torch.int64), tokens=count, mask_ratio=0.9).shape == (1, 5)


@pytest.mark.parametrize(
    ("ratio", "kept"),
    [(0.5, 24), (0.75, 12), (0.8, 10), (0.85, 8), (0.9, 5), (0.95, 3)],
)
def test_the_mask_ratio_is_truncated_as_published(ratio, kept):
    assert keep_tokens(torch.arange(3), tokens=48, mask_ratio=ratio).shape == (3, kept)


def test_positions_of_the_base_grid_are_the_published_sines_and_cosines():
    positions = sincos_positions(8, 6, 384)
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat_interleave(96)
    assert torch.equal(positions[0], expected)
    torch.testing.assert_close(positions[1, [0, 96, 192, 288]], torch.tensor([0.841471, 0.540302, 0.0, 1.0]))
    torch.testing.assert_close(positions[6, [192, 287]], torch.tensor([0.841471, 1e-4]))
    assert positions.sum().item() == pytest.approx(9134.262, abs=0.01)


def test_positions_of_a_narrow_grid_are_the_published_ones():
    expected = torch.tensor([0.841471, 1e-4, 0.540302, 1.0, 0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(sincos_positions(2, 3, 8)[1], expected)


@pytest.mark.parametrize(("name", "width"), [("myna:base", 384), ("myna:hybrid", 768), ("myna:85m", 1536)])
def test_masked_and_whole_windows_give_embeddings_of_the_same_width(name, width):
    model = replace(load_config(name).model, depth=1).build()
    keep = keep_tokens(torch.arange(2), tokens=48, mask_ratio=0.9)
    assert model(mel_power(2)).shape == model(mel_power(2), keep).shape == (2, width)
    assert (model.embedding_width, model.pass_width * len(model.patchings)) == (width, width)


def test_a_hybrid_embeds_by_squares_then_by_verticals_with_one_transformer():
    model, mel = hybrid(), mel_power(2)
    by_squares, by_verticals = (model(mel, patching=name) for name in ("square", "vertical"))
    assert torch.equal(model(mel), torch.cat([by_squares, by_verticals], dim=1))
    alone = small(patch_bands=128, patch_frames=2)
    alone.transformer, alone.to_patch_embedding = model.transformer, model.to_patch_embedding_b
    assert torch.equal(alone(mel), by_verticals) and not torch.allclose(by_squares, by_verticals)


def test_each_pass_of_a_hybrid_trains_its_own_tokeniser_and_the_shared_blocks():
    model = hybrid()
    model(mel_power(2), patching="vertical").square().sum().backward()
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"to_patch_embedding_b", "transformer"}


def test_hidden_states_lead_from_the_tokens_to_the_embedding():
    model, mel = small(), mel_power(2)
    states = model.hidden_states(mel)
    assert [tuple(state.shape) for state in states] == [(2, 48, 32)] * 4
    assert torch.equal(states[0], model.embed_patches(mel))
    torch.testing.assert_close(states[1], model.transformer.layers[0](states[0]))
    torch.testing.assert_close(model.transformer.norm(states[2]), states[3])
    torch.testing.assert_close(states[3].mean(dim=1), model(mel))


def test_attention_maps_sum_to_one_and_lead_to_what_the_fused_kernel_computes():
    model, mel = hybrid(), mel_power(2)
    maps = model.attention_maps(mel, patching="vertical")
    assert [tuple(each.shape) for each in maps] == [(2, 2, 48, 48)] * 2
    torch.testing.assert_close(maps[1].sum(dim=-1), torch.ones(2, 2, 48), atol=1e-5, rtol=0)
    tokens = model.hidden_states(mel, patching="vertical")[1]
    explicit, weights = model.transformer.layers[1].explicit(tokens)
    torch.testing.assert_close(explicit, model.transformer.layers[1](tokens), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, maps[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("patching", [None, "round"])
def test_a_hybrid_does_not_guess_whose_tokens_are_meant(patching):
    with pytest.raises(UsageProblem, match="square or vertical"):
        hybrid().hidden_states(mel_power(1), patching=patching)


def test_the_order_of_kept_tokens_does_not_change_the_embedding():
    model, mel = small(), mel_power(4)
    keep = keep_tokens(torch.arange(4), tokens=48, mask_ratio=0.9)
    torch.testing.assert_close(model(mel, keep), model(mel, keep.flip(1)), atol=1e-5, rtol=0)


def test_masking_nothing_equals_the_unmasked_encoder():
    model, mel = small(), mel_power(4)
    keep = keep_tokens(torch.arange(4), tokens=48, mask_ratio=0.0)
    torch.testing.assert_close(model(mel, keep), model(mel), atol=1e-5, rtol=0)


def test_a_hidden_patch_has_no_influence_at_all():
    model, mel = small(), mel_power(1)
    keep = torch.tensor([[0, 7, 47]])
    elsewhere = mel.clone()
    elsewhere[:, :16, 16:] = torch.nan  # row 0 of the grid without token 0
    assert torch.equal(model(mel, keep), model(elsewhere, keep))


def test_the_numbering_of_tokens_starts_at_the_lowest_bands_and_runs_along_time():
    model, mel = small(), mel_power(1)
    changed = mel.clone()
    changed[:, 16:32, 80:96] *= 2 * mel_power(1, 16)[:, :16]  # grid row 1, last of 6 columns: token 11
    for token in range(48):
        keep = torch.tensor([[token]])
        assert torch.equal(model(mel, keep), model(changed, keep)) == (token != 11)


@pytest.mark.parametrize(("patch_bands", "patch_frames"), [(16, 16), (128, 2)], ids=["square", "vertical"])
def test_the_encoder_computes_what_vit_pytorchs_simple_vit_computes_from_the_same_weights(patch_bands, patch_frames):
    ours = small(patch_bands=patch_bands, patch_frames=patch_frames)
    shape = {
        "image_size": (128, 96),
        "patch_size": (patch_bands, patch_frames),
        "channels": 1,
        "num_classes": 1,
    }
    theirs = simple_vit().SimpleViT(**shape, dim=32, depth=2, heads=2, mlp_dim=64, dim_head=16)
    theirs.linear_head = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    mel = mel_power(3)
    torch.testing.assert_close(ours(mel), theirs(mel[:, None]), atol=1e-5, rtol=1e-5)


def test_log1p_compresses_power_before_anything_else():
    plain, compressed = small(), small(log1p=True)
    assert torch.equal(compressed(mel_power(2)), plain(mel_power(2).log1p()))


@pytest.mark.parametrize("frames", [16, 96, 192])
def test_more_or_fewer_frames_than_in_training_only_need_whole_patches(frames):
    assert hybrid()(mel_power(1, frames=frames)).shape == (1, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_encoder_hears_power_that_float16_cannot_hold(dtype):
    mel = 100 * mel_power(8)  # up to 1e6; float16 ends at 65,504
    cosine = torch.cosine_similarity(small()(mel), small().to(dtype)(mel).float(), dim=-1)
    assert cosine.min() > 0.999


@given(st.lists(any_seed, min_size=1, max_size=6), st.integers(1, 60), st.floats(0, 0.99))
def test_a_mask_depends_on_its_rows_seed_alone(seeds, tokens, ratio):
    together = keep_tokens(torch.tensor(seeds), tokens=tokens, mask_ratio=ratio)
    alone = [keep_tokens(torch.tensor([seed]), tokens=tokens, mask_ratio=ratio) for seed in seeds]
    assert torch.equal(together, torch.cat(alone))
    assert all(len(set(row)) == len(row) and set(row) <= set(range(tokens)) for row in together.tolist())


@given(any_seed)
def test_tokens_are_sorted_by_splitmix64_of_seed_and_token(seed):
    hashes = [signed(splitmix64((seed + token * 0x9E3779B97F4A7C15) % 2**64)) for token in range(48)]
    expected = sorted(range(48), key=hashes.__getitem__)[43:]
    assert keep_tokens(torch.tensor([seed]), tokens=48, mask_ratio=0.9)[0].tolist() == expected


def splitmix64(state: int) -> int:
    """The generator's next output, as Vigna's reference code has it."""
    bits = (state + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


def signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def test_every_token_is_kept_equally_often_even_from_consecutive_seeds():
    keep = keep_tokens(torch.arange(20_000), tokens=48, mask_ratio=0.9)
    expected = 20_000 * 5 / 48
    chi_square = ((torch.bincount(keep.flatten(), minlength=48) - expected) ** 2 / expected).sum()
    assert chi_square < 82.7  # 99.9 % point of 47 degrees of freedom


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_on_a_gpu_are_those_of_the_cpu():
    seeds = torch.arange(1000) * 0x123456789ABCDEF
    on_cpu = keep_tokens(seeds, tokens=48, mask_ratio=0.9)
    assert torch.equal(keep_tokens(seeds.cuda(), tokens=48, mask_ratio=0.9).cpu(), on_cpu)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_bands": 17}, "17"),
        ({"patch_frames": 7}, "7"),
        ({"width": 30}, "30"),
        ({"width": 4}, "4"),
        ({"second_patch": (128, 7)}, "128 bands x 7"),
        ({"second_patch": (128,)}, "no patch"),
        ({"second_patch": (32, 32)}, "both kinds of patch are square"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_with_its_values(changes, said):
    with pytest.raises(UsageProblem, match=said):
        MynaConfig(**changes)


@pytest.mark.parametrize("size", SIZES)
def test_variants_of_a_size_can_be_compared_since_they_have_one_budget(size):
    base, *others = (load_config(f"myna:{variant}", size) for variant in ("base", "vertical", "hybrid"))
    assert all(
        (c.data.batch_examples, c.epochs, c.optimizer) == (base.data.batch_examples, base.epochs, base.optimizer)
        for c in others
    )


def test_the_wide_hybrid_has_its_published_recipe():
    config = load_config("myna:85m")
    recipe = (config.data.batch_examples, config.optimizer.lr, config.optimizer.weight_decay)
    assert recipe == (6144, pytest.approx(1.5e-4), 2.5e-6)
