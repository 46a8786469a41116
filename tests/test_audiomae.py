"""AudioMAE: Kaldi's filter bank and the ViT against references written out here, weights that fit or are refused."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from shards.audiomae_vit import VIT_B, AudioMaeViT, ViTConfig, random_vit, trained_vit
from shards.example import Clip
from shards.feature import Feature, described, differences, fingerprint, load_feature
from shards.features.audiomae import AudioMae, normalised_log_mel, trained, with_random_weights
from shards.problem import DataProblem, UsageProblem
from shards.spectrum import kaldi_log_mel

TINY = ViTConfig(width=32, depth=4, heads=2, mlp_width=64)
RANDOM = with_random_weights(0, config=TINY)
SOURCE = "audiomae"


def clip_of(waveform: np.ndarray) -> Clip:
    return Clip(waveform.astype(np.float32)[None], 16_000)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder such as the timm port has, of a tiny encoder."""
    folder = tmp_path / SOURCE
    folder.mkdir()
    save_file(random_vit(TINY, 1).state_dict(), folder / "model.safetensors")
    return folder


def plain_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's filter bank from its definition, in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.fft.rfft(frames * np.hanning(400), n=512)
    points = np.linspace(*(1127 * math.log(1 + hertz / 700) for hertz in (20, 8_000)), 130)
    bins = 1127 * np.log1p(np.arange(256) * 16_000 / 512 / 700)[:, None]
    step = points[1] - points[0]
    filters = np.minimum((bins - points[:-2]) / step, (points[2:] - bins) / step).clip(min=0)
    return np.log(np.maximum(np.abs(spectrum[:, :256]) ** 2 @ filters, np.finfo(np.float32).eps))


@pytest.mark.parametrize("source", ["noise", "note", "silence"])
def test_the_filter_bank_is_kaldis(source: str):
    seconds = np.arange(64_000) / 16_000
    waveform = {"noise": noise(64_000), "note": 0.5 * np.sin(2764 * seconds), "silence": 0 * seconds}[source]
    ours = kaldi_log_mel(torch.from_numpy(waveform.astype(np.float32)), sample_rate_hz=16_000, bands=128)
    exact = plain_log_mel(waveform.astype(np.float32).astype(np.float64))
    assert ours.shape == (398, 128)
    assert np.abs(ours.numpy() - exact)[exact > -12].max(initial=0.0) < 1e-3
    assert (source == "silence") == bool((ours == math.log(torch.finfo(torch.float32).eps)).all())


def test_padding_is_zero_before_normalisation_and_the_clips_mean_is_removed():
    waveform = torch.from_numpy(noise(64_000).astype(np.float32))
    seen, shifted = (normalised_log_mel(each, VIT_B) for each in (waveform, waveform + 0.25))
    assert seen.shape == (1024, 128)
    assert seen[398:].unique().tolist() == pytest.approx([0.467032], abs=1e-6)
    assert (seen[:398] * 2 * 4.5689974 - 4.2677393).mean() == pytest.approx(
        plain_log_mel(waveform.numpy()).mean(), 1e-3
    )
    torch.testing.assert_close(seen, shifted, rtol=0, atol=1e-3)


def test_the_encoder_has_the_published_numbers_of_parameters():
    with torch.device("meta"):
        vit = AudioMaeViT(VIT_B)
    counted = {name: sum(each.numel() for each in part.parameters()) for name, part in vit.named_children()}
    assert sum(each.numel() for each in vit.parameters()) == 85_648_128
    assert counted == {"patch_embed": 197_376, "blocks": 12 * 7_087_872, "norm": 1_536}
    assert (vit.cls_token.numel(), tuple(vit.pos_embed.shape)) == (768, (1, 513, 768))


def plain_vit(state: dict[str, Tensor], log_mel: Tensor, heads: int) -> Tensor:
    """The encoder's formulas over a timm state dict, one clip, in float64: tokens after every block, normalised."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    kernel = state["patch_embed.proj.weight"].flatten(1)
    patches = [log_mel[t : t + 16, m : m + 16].flatten() for t in range(0, 1024, 16) for m in range(0, 128, 16)]
    x = torch.stack(patches).double() @ kernel.T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"][0], x]) + state["pos_embed"][0]
    outputs = []
    for block in (f"blocks.{depth}" for depth in range(TINY.depth)):
        packed = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=-1)
        heard = []
        for query, key, value in zip(*(each.chunk(heads, dim=-1) for each in packed), strict=True):
            heard.append((query @ key.T / query.shape[1] ** 0.5).softmax(dim=-1) @ value)
        x = x + linear(f"{block}.attn.proj", torch.cat(heard, dim=-1))
        hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
        x = x + linear(f"{block}.mlp.fc2", hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))
        outputs.append(norm("norm", x))
    return torch.stack(outputs)


def test_the_encoder_is_the_formula_over_the_ports_tensors():
    vit = random_vit(TINY, 0)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    log_mel = torch.randn(1024, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = vit(log_mel[None], last_blocks=3)[0]
    exact = plain_vit(vit.state_dict(), log_mel, TINY.heads)[-3:, 1:].mean(dim=0)
    assert ours.shape == (512, TINY.width)
    assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize(("samples", "steps"), [(64_000, 25), (400, 1), (399, 0), (160_000, 63), (999_999, 64)])
def test_the_published_numbers_of_time_steps(samples: int, steps: int):
    assert RANDOM.frames(samples) == steps
    assert with_random_weights(0, pooled="patches").frames(samples) == 8 * steps


@given(st.integers(400, 200_000), st.sampled_from(["steps", "patches"]))
def test_audiomae_knows_its_frame_count_without_running(samples: int, pooled: str):
    feature = with_random_weights(0, pooled=pooled, config=ViTConfig(width=8, depth=1, heads=1, mlp_width=8))
    (array,) = feature([clip_of(noise(samples))])
    assert array.shape == (8, feature.frames(samples))
    assert array.dtype == np.float16 and array.T.flags.c_contiguous


def test_a_step_is_the_mean_of_its_patches():
    clip = clip_of(noise(64_000))
    (steps,), (patches,) = RANDOM([clip]), with_random_weights(0, pooled="patches", config=TINY)([clip])
    means = patches.astype(np.float32).reshape(TINY.width, 25, 8).mean(axis=2)
    np.testing.assert_allclose(steps, means, atol=2e-3)


def test_storage_is_within_the_contracts_bound_of_the_latents():
    clip = clip_of(noise(64_000))
    with torch.inference_mode():
        seen = normalised_log_mel(torch.from_numpy(clip.waveform[0]), TINY)[None]
        exact = RANDOM.opened()(seen, last_blocks=3)[0].unflatten(0, (64, 8)).mean(dim=1)[:25].T
    restored = RANDOM.restore(torch.from_numpy(RANDOM([clip])[0].copy()))
    normal = exact.abs() >= torch.finfo(torch.float16).smallest_normal
    assert restored.dtype == torch.float32 and normal.float().mean() > 0.99
    assert ((restored - exact).abs() / exact.abs())[normal].max() <= RANDOM.contract["relative_error"]


def test_latents_do_not_depend_on_what_else_is_computed_with_them():
    clips = [clip_of(noise(samples, samples)) for samples in (64_000, 8_000, 64_000)]
    for clip, array in zip(clips, RANDOM(clips), strict=True):
        np.testing.assert_array_equal(RANDOM([clip])[0], array)


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_clips_computed_together_have_the_same_latents_but_for_rounding(device: str):
    clips = [clip_of(noise(samples, samples)) for samples in (64_000, 8_000, 170_000)]
    for ours, theirs in zip(RANDOM(clips), RANDOM.to(device)(clips), strict=True):
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=5e-3)


def test_too_short_a_clip_is_refused():
    with pytest.raises(ValueError, match="too short for AudioMAE"):
        RANDOM([clip_of(noise(399))])


def test_weights_of_a_folder_or_a_file_are_opened_and_stated(weights: Path):
    folder, file = trained(str(weights), config=TINY), trained(str(weights / "model.safetensors"), config=TINY)
    clip = clip_of(noise(16_000))
    np.testing.assert_array_equal(folder([clip])[0], with_random_weights(1, config=TINY)([clip])[0])
    assert folder.contract["weights"] == file.contract["weights"]
    assert folder.contract["weights"]["source"] == SOURCE
    assert fingerprint(folder) != fingerprint(RANDOM)


def test_the_port_may_call_its_last_norm_fc_norm_and_be_in_half_precision(weights: Path):
    state = {
        name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor.half()
        for name, tensor in random_vit(TINY, 1).state_dict().items()
    }
    save_file(state, weights / "model.safetensors")
    assert "fc_norm.weight" in state
    opened = trained(str(weights), config=TINY).opened()
    assert opened.norm.weight.dtype == torch.float32
    assert torch.equal(opened.pos_embed, state["pos_embed"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.2.attn.qkv.bias"), "blocks.2.attn.qkv.bias is missing"),
        (lambda state: state.update({"head.weight": torch.zeros(3)}), "head.weight has no place"),
        (lambda state: state.update(pos_embed=torch.zeros(1, 512, 32)), r"pos_embed is \(1, 512, 32\) in place of"),
        (lambda state: state.update(cls_token=torch.zeros(1, 1, 32, dtype=torch.int64)), "cls_token is torch.int64"),
        (lambda state: state.clear() or state.update(x=torch.zeros(1)), "x has no place, .* and 51 more"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "another model"],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message: str, weights: Path):
    state = random_vit(TINY, 1).state_dict()
    change(state)
    save_file(state, weights / "model.safetensors")
    with pytest.raises(DataProblem, match=message):
        trained(str(weights), config=TINY)


def test_weights_of_another_size_a_cut_file_and_an_empty_folder_are_refused(weights: Path, tmp_path: Path):
    with pytest.raises(DataProblem, match="holds another model than AudioMAE's encoder: blocks.10"):
        load_feature(f"audiomae@{weights}")
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataProblem):
        load_feature(f"audiomae@{weights}")
    with pytest.raises(DataProblem, match="cannot be read as weights"):
        trained_vit(TINY, [file])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataProblem):
        load_feature(f"audiomae@{tmp_path / 'empty'}")


def test_workers_get_the_place_of_the_weights_and_notice_that_they_changed(weights: Path):
    feature = trained(str(weights), config=TINY)
    sent = pickle.dumps(feature)
    save_file(random_vit(TINY, 2).state_dict(), weights / "model.safetensors")
    assert len(sent) < 10_000
    with pytest.raises(DataProblem, match="weights"):
        pickle.loads(sent).to("cpu:0").opened()


def test_a_closed_feature_names_its_column_and_restores_but_does_not_compute():
    closed = load_feature("audiomae")
    assert isinstance(closed, Feature) and (closed.column, closed.word) == ("audiomae", "audiomae")
    assert "weights" not in closed.contract
    assert closed.frames(64_000) == 25
    assert closed.restore(torch.ones(2, 2, dtype=torch.float16)).dtype == torch.float32
    assert closed.preview(np.ones((768, 25), np.float16)) is None
    with pytest.raises(UsageProblem, match="audiomae@FOLDER.*logmel_stats"):
        closed([clip_of(noise(16_000))])


def test_a_closed_feature_agrees_with_columns_of_its_contract_and_says_what_differs():
    assert differences(AudioMae(config=TINY), described(RANDOM)) == []
    assert described(RANDOM)["weights"] == {"random_seed": 0}
    assert "pooled" in differences(AudioMae("patches", TINY), described(RANDOM))


def test_words_load_the_contract_and_wrong_ones_name_the_nearest():
    patches = load_feature("audiomae:patches")
    assert (patches.column, patches.word) == ("audiomae-patches", "audiomae:patches")
    with pytest.raises(UsageProblem, match="Did you mean patches"):
        load_feature("audiomae:patch")


def test_latents_of_trained_size_have_the_right_shape_on_a_real_second():
    (array,) = with_random_weights(0)([clip_of(F.pad(torch.from_numpy(noise(15_000)), (0, 1_000)).numpy())])
    assert array.shape == (768, 7) and np.isfinite(array).all()
