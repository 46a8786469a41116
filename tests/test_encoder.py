"""Encoders: which windows they see, what their controls are, and what they refuse to hear."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.problem import UsageProblem
from shards.reader import Reader
from tests.bumps import write_bumps, write_split
from tests.tiny_run import write_run
from trainers.checkpoint import open_model
from trainers.encoder import ContractMismatch, cut_windows, open_encoder


@pytest.fixture(scope="module")
def bumps(tmp_path_factory) -> Path:
    """Train, valid and test of 200 frames: two windows and a remainder."""
    sizes = {"train": 24, "valid": 8, "test": 10}
    return write_bumps(tmp_path_factory.mktemp("bumps"), examples=sizes, frames=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory, bumps) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", bumps)


def power_of(reader: Reader, row: int) -> np.ndarray:
    return reader.read(row).astype(np.float64) ** 2


@given(frames=st.integers(1, 300), window_frames=st.integers(1, 100))
def test_windows_lie_side_by_side_from_frame_zero_and_leave_the_remainder_out(frames, window_frames):
    mel = torch.arange(1.0, 2 * frames + 1).reshape(2, frames)
    windows = cut_windows(mel, window_frames)
    whole = max(1, frames // window_frames)
    assert windows.shape == (whole, 2, window_frames)
    side_by_side = torch.cat(list(windows), dim=1)[:, :frames]
    assert torch.equal(side_by_side, mel[:, : whole * window_frames])


@given(frames=st.integers(1, 95))
def test_what_is_shorter_than_a_window_is_followed_by_silence(frames):
    (window,) = cut_windows(torch.ones(2, frames), 96)
    assert window[:, :frames].eq(1).all() and window[:, frames:].eq(0).all()


def test_an_embedding_is_the_mean_over_windows_of_the_unmasked_model(bumps):
    encoder, reader = open_encoder("random:myna:base", size="debug"), Reader(bumps / "test")
    mel = torch.from_numpy(power_of(reader, 3)).float()
    with torch.no_grad():
        expected = (encoder.model(mel[None, :, :96]) + encoder.model(mel[None, :, 96:192])) / 2
    np.testing.assert_allclose(encoder.embed(reader)[3], expected[0].numpy(), rtol=1e-4, atol=1e-5)


def test_rows_keep_their_order_and_do_not_depend_on_the_batch(bumps):
    encoder, reader = open_encoder("random:myna:base", size="debug"), Reader(bumps / "test")
    together, apart = encoder.embed(reader, batch_examples=7), encoder.embed(reader, batch_examples=1)
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
    assert len(together) == len(reader) and together.dtype == np.float32


def test_examples_of_different_lengths_share_a_batch(tmp_path):
    powers = [np.full((128, frames), 1.0, dtype=np.float32) for frames in (20, 96, 250)]
    reader = Reader(write_split(tmp_path / "train", powers, {"pitch": [1, 2, 3]}))
    embedded = open_encoder("random:myna:base", size="debug").embed(reader)
    np.testing.assert_allclose(embedded[1], embedded[2], rtol=1e-4, atol=1e-5)  # every whole window is the same
    assert not np.allclose(embedded[0], embedded[1], atol=1e-2)  # silence follows the short one


def test_the_column_control_is_the_mean_log_power_over_all_frames(bumps):
    reader = Reader(bumps / "test")
    expected = [np.log1p(power_of(reader, row)).mean(axis=1) for row in range(len(reader))]
    np.testing.assert_allclose(open_encoder("column:mel").embed(reader), expected, rtol=1e-4)


def test_random_weights_follow_from_their_seed_and_leave_the_global_generator_alone(bumps):
    reader, state = Reader(bumps / "test"), torch.get_rng_state()
    first, again, other = (open_encoder("random:myna:base", size="debug", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first.embed(reader), again.embed(reader))
    assert first.about == again.about != other.about
    assert not np.allclose(first.embed(reader), other.embed(reader), atol=1e-3)


def test_the_size_decides_the_width_of_a_random_encoder(bumps):
    widths = [open_encoder("random:myna:base", size=size).model.embedding_width for size in ("debug", "laptop")]
    assert widths[0] < widths[1]


def test_a_run_folder_is_its_best_checkpoint(run, bumps):
    encoder, step_2 = open_encoder(str(run)), open_encoder(str(run / "checkpoints" / "step-00000002"))
    assert (encoder.step, encoder.run, step_2.step, step_2.run) == (1, run, 2, run)
    trained, _ = open_model(run / "checkpoints" / "step-00000001")
    mel = torch.rand(1, 128, 96)
    with torch.no_grad():
        assert torch.equal(encoder.model(mel), trained(mel))
    assert encoder.about != step_2.about


def test_random_weights_of_a_run_have_its_architecture_and_its_contract_but_not_its_weights(run, bumps):
    trained, fresh = open_encoder(str(run)), open_encoder(f"random:{run}")
    shapes = [{name: weight.shape for name, weight in e.model.state_dict().items()} for e in (trained, fresh)]
    assert shapes[0] == shapes[1]
    assert fresh.contract == trained.contract is not None
    reader = Reader(bumps / "test")
    assert not np.allclose(trained.embed(reader), fresh.embed(reader), atol=1e-3)


@pytest.mark.parametrize("control", ["", "random:"])
def test_a_dataset_of_another_contract_is_refused_field_by_field(run, tmp_path, control):
    other = {"fingerprint": "f" * 64, "hop_samples": 160, "bands": 64}
    folder = write_split(tmp_path / "test", [np.ones((128, 96), np.float32)], {"pitch": [60]}, contract=other)
    with pytest.raises(ContractMismatch) as refused:
        open_encoder(f"{control}{run}").embed(Reader(folder))
    message = str(refused.value)
    assert "hop_samples: 160 there, 512 in training" in message and "bands: 64 there, 128 in training" in message
    assert "sample_rate_hz" not in message
    assert "--features mel:myna" in message


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{parent}/tinny", "Did you mean {parent}/tiny?"),
        ("{parent}", "holds no checkpoint"),
        ("random:{parent}/tinny", "Did you mean {parent}/tiny?"),
        ("random:mina:base", "Did you mean myna?"),
        ("random:myna:bass", "Did you mean base?"),
        ("column:", "Write column:mel."),
        ("pca:", "Write pca:mel."),
    ],
)
def test_a_reference_that_leads_nowhere_names_what_is_near(run, reference, said):
    with pytest.raises(UsageProblem) as refused:
        open_encoder(reference.format(parent=run.parent))
    assert said.format(parent=run.parent) in str(refused.value)
