"""Codec latents as columns: contracts, what is stored and how exactly, what is closed, fitting, sound again."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.codecs.codec import CodecUnavailable
from shards.codecs.linear import LinearCodec
from shards.codecs.logpower import LogPowerCodec
from shards.example import Clip
from shards.feature import Feature, Fitted, described, differences, fingerprint, load_feature
from shards.features.codec import CONTRACTS, load
from shards.problem import DataProblem, UsageProblem
from tests.tiny_codecs import tiny_dac, tiny_encodec, write

HALF = {"relative_error": 2.0**-11, "absolute_error": 2.0**-25}
NEEDS_NO_WEIGHTS = ("low128", "full320", "logpower")


def clip(samples: int = 24_000, *, seed: int = 0, level: float = 0.1, rate_hz: int = 24_000) -> Clip:
    waveform = level * np.random.default_rng(seed).standard_normal((1, samples))
    return Clip(waveform.astype(np.float32), rate_hz)


@pytest.fixture(scope="module")
def encodec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_encodec(), tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def dac_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_dac(), tmp_path_factory.mktemp("dac"))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    closed = load_feature("codec:linear")
    return closed.fitted([closed.moments([clip(seed=n), clip(9_000, seed=n + 10)]) for n in range(3)])


def test_a_bare_codec_lists_the_contracts():
    with pytest.raises(UsageProblem, match=r"codec:linear, .*codec:logpower, .*codec:encodec_24khz"):
        load_feature("codec")
    with pytest.raises(UsageProblem, match="Did you mean encodec_24khz"):
        load_feature("codec:encodec_24k")


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_loads_closed_or_open_and_says_all_in_json(name: str):
    feature = load_feature(f"codec:{name}")
    assert isinstance(feature, Feature)
    assert (feature.word, feature.column, feature.suffix) == (f"codec:{name}", f"codec-{name}", "npy")
    assert json.loads(json.dumps(dict(feature.contract))) == dict(feature.contract)
    assert "weights" not in feature.contract
    assert fingerprint(feature) == fingerprint(load_feature(feature.word))
    assert feature.frames(feature.sample_rate_hz) == -(-feature.sample_rate_hz // feature.contract["hop_samples"])


def test_no_two_contracts_share_a_fingerprint():
    assert len({fingerprint(load_feature(f"codec:{name}")) for name in CONTRACTS}) == len(CONTRACTS)


@pytest.mark.parametrize("name", [name for name in CONTRACTS if name not in NEEDS_NO_WEIGHTS])
def test_a_closed_codec_restores_but_refuses_to_compute_and_names_the_way_out(name: str):
    feature = load_feature(f"codec:{name}")
    stored = torch.ones(4, 3, dtype=torch.float16)
    assert feature.restore(stored).dtype == torch.float32
    assert feature.preview(stored.numpy()) is None
    with pytest.raises(UsageProblem, match=rf"codec:{name}@.*codec:low128"):
        feature([clip(rate_hz=feature.sample_rate_hz)])


@given(st.integers(1, 5_000), st.sampled_from(NEEDS_NO_WEIGHTS))
def test_arrays_are_frame_major_halves_of_the_foretold_length(samples: int, name: str):
    feature = load_feature(f"codec:{name}")
    (array,) = feature([clip(samples)])
    assert array.shape[1] == feature.frames(samples) and array.dtype == np.float16
    assert array.T.flags.c_contiguous


@given(st.integers(0, 2**31), st.floats(1e-7, 10))
def test_what_is_stored_is_within_the_stated_error_of_float64(seed: int, level: float):
    sound = clip(3_000, seed=seed, level=level)
    exact = torch.from_numpy(sound.waveform).double()
    for name, codec in (("low128", LinearCodec()), ("full320", LinearCodec("full320"))):
        feature = load_feature(f"codec:{name}")
        assert {key: feature.contract[key] for key in HALF} == HALF
        wanted = codec.encode(exact)[0]
        error = (feature.restore(torch.from_numpy(feature([sound])[0])).double() - wanted).abs()
        assert (error <= HALF["relative_error"] * wanted.abs() + HALF["absolute_error"]).all()
    feature = load_feature("codec:logpower")
    wanted = LogPowerCodec().encode(exact)[0]
    error = (feature.restore(torch.from_numpy(feature([sound])[0])).double() - wanted).abs()
    assert error.max() <= feature.contract["absolute_error"] == 2.0**-8


def test_latents_do_not_depend_on_what_else_is_computed_with_them(encodec_folder: Path, fitted: Fitted):
    neural = load_feature(f"codec:encodec_24khz@{encodec_folder}")
    clips = [clip(4_000, seed=seed) for seed in range(3)]
    for feature in (neural, fitted, load_feature("codec:logpower")):
        for one, array in zip(clips, feature(clips), strict=True):
            np.testing.assert_array_equal(feature([one])[0], array)


def test_a_clip_too_loud_for_what_is_stored_is_refused_with_its_peak():
    loud = Clip(np.full((1, 640), 1e5, np.float32), 24_000)
    for name in NEEDS_NO_WEIGHTS:
        with pytest.raises(ValueError, match="too loud to be stored: its peak is 100,000 times"):
            load_feature(f"codec:{name}")([loud])


def test_the_exact_codec_gives_back_what_was_stored_as_sound():
    sound, feature = clip(3_200), load_feature("codec:full320")
    preview = feature.preview(feature([sound])[0])
    assert preview.sample_rate_hz == 24_000
    np.testing.assert_allclose(preview.waveform, sound.waveform, atol=1e-3)


@pytest.mark.parametrize("word", ["codec:low128", "codec:logpower"])
def test_previews_have_the_length_of_all_frames_and_about_the_level(word: str):
    tone = Clip(np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000).astype(np.float32)[None], 24_000)
    feature = load_feature(word)
    preview = feature.preview(feature([tone])[0])
    assert preview.waveform.shape == (1, 24_000) and preview.waveform.dtype == np.float32
    assert np.sqrt(np.mean(preview.waveform**2)) == pytest.approx(np.sqrt(0.5), rel=0.3)


# The fitted codec


def test_the_linear_codec_is_fitted_saved_and_opened_again(fitted: Fitted, tmp_path: Path):
    closed = load_feature("codec:linear")
    assert isinstance(closed, Fitted) and not closed.is_fitted and fitted.is_fitted
    fitted.save(tmp_path / "linear.npz")
    opened = load_feature(f"codec:linear@{tmp_path / 'linear.npz'}")
    assert described(opened) == described(fitted)
    assert opened.contract["weights"]["source"] == "fitted on 6 clips, 312 frames"
    assert differences(closed, described(opened)) == []
    np.testing.assert_array_equal(opened([clip()])[0], fitted([clip()])[0])
    preview = opened.preview(opened([clip()])[0])
    assert preview.waveform.shape == (1, 24_000)


def test_moments_and_open_features_travel_to_workers(fitted: Fitted):
    part = fitted.moments([clip()])
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.products, part.products)
    travelled = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(travelled([clip()])[0], fitted([clip()])[0])


def test_companded_latents_share_the_fit_but_not_the_contract(fitted: Fitted, tmp_path: Path):
    fitted.save(tmp_path / "linear.npz")
    companded = load_feature(f"codec:linear_c06@{tmp_path / 'linear.npz'}")
    assert companded.contract["compand"] == 0.6 and fingerprint(companded) != fingerprint(fitted)
    plain, bent = (feature([clip()])[0].astype(float) for feature in (fitted, companded))
    np.testing.assert_allclose(np.sign(bent) * np.abs(bent) ** (1 / 0.6), plain, rtol=4e-3, atol=1e-6)


def test_an_unfitted_codec_cannot_be_saved(tmp_path: Path):
    with pytest.raises(UsageProblem, match="codec:linear is not fitted yet"):
        load_feature("codec:linear").save(tmp_path / "linear.npz")


@pytest.mark.parametrize("word", ["codec:linear@{}/absent.npz", "codec:linear@{}"])
def test_a_fit_that_is_not_there_is_named(word: str, tmp_path: Path):
    with pytest.raises(DataProblem, match="is no fitted linear codec"):
        load_feature(word.format(tmp_path))


def test_weights_for_a_codec_that_has_none_are_refused():
    with pytest.raises(UsageProblem, match="codec:logpower has no weights"):
        load_feature("codec:logpower@somewhere")


# Networks


def test_encodec_latents_are_stored_as_halves_with_the_digest_of_their_weights(encodec_folder: Path):
    feature = load_feature(f"codec:encodec_24khz@{encodec_folder}")
    sound = clip(3_201)
    (array,) = feature([sound])
    exact = feature.opened().encode(torch.from_numpy(sound.waveform))[0]
    assert array.shape == (16, 11) and array.dtype == np.float16
    error = (feature.restore(torch.from_numpy(array)) - exact).abs()
    assert (error <= HALF["relative_error"] * exact.abs() + HALF["absolute_error"]).all()
    stated = feature.contract["weights"]
    assert len(stated["sha256"]) == 64 and stated["source"] == encodec_folder.name
    assert differences(load_feature("codec:encodec_24khz"), described(feature)) == []
    assert feature.preview(array).waveform.shape == (1, 11 * 320)


def test_codes_are_stored_as_they_are(dac_folder: Path):
    codes = load_feature(f"codec:dac_16khz_codes@{dac_folder}")
    latents = load_feature(f"codec:dac_16khz@{dac_folder}")
    sound = clip(3_200, rate_hz=16_000)
    (array,) = codes([sound])
    assert array.dtype == np.int16 and array.shape == (4, 10) and codes.contract["absolute_error"] == 0.0
    restored = codes.restore(torch.from_numpy(array))
    assert torch.equal(restored.long(), codes.opened().codes(torch.from_numpy(sound.waveform))[0])
    np.testing.assert_allclose(codes.preview(array).waveform, latents.preview(latents([sound])[0]).waveform, atol=1e-3)


def test_an_open_network_travels_to_workers_as_a_path(encodec_folder: Path):
    feature = load_feature(f"codec:encodec_24khz@{encodec_folder}")
    sent = pickle.dumps(feature)
    assert len(sent) < 4_000
    np.testing.assert_array_equal(pickle.loads(sent)([clip(3_200)])[0], feature([clip(3_200)])[0])


def test_weights_of_another_codec_are_refused(dac_folder: Path):
    with pytest.raises(UsageProblem, match="16,000 Hz and 320 samples a frame, but codec:encodec_24khz has 24,000"):
        load_feature(f"codec:encodec_24khz@{dac_folder}")


def test_missing_weights_name_what_needs_none(tmp_path: Path):
    with pytest.raises(CodecUnavailable, match=r"absent does not exist.*codec:linear.*codec:low128"):
        load_feature(f"codec:encodec_24khz@{tmp_path / 'absent'}")


def test_a_licence_that_excludes_commercial_use_is_agreed_to_by_name(tmp_path: Path):
    folder = write(tiny_encodec(), tmp_path)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(UsageProblem, match="cc-by-nc-4.0: they may not be used commercially"):
        load("encodec_24khz", str(folder))
    opened = load("encodec_24khz", str(folder), accept_licence="cc-by-nc-4.0")
    assert opened.contract["weights"]["licence"] == "cc-by-nc-4.0"
