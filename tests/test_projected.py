"""DAC's latents on fewer axes: fitted on a corpus, kept with its datasets, decoded through the transposed axes."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from shards.codecs.codec import LatentCodec
from shards.codecs.neural import NeuralCodec, open_neural
from shards.example import Clip
from shards.feature import Feature, Fitted, described, differences, fingerprint, load_feature
from shards.html.page import write_page
from shards.manifest import WEIGHTS, Manifest
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.verify import verify
from tests.building import build_here, everything_below
from tests.tiny_codecs import tiny_dac, write

RATE_HZ, AXES, DIM = 16_000, 16, 128
WORD = f"codec:dac_16khz,project={AXES}"


def sound(seed: int, samples: int = 6_400, level: float = 0.2) -> Clip:
    rng, time_s = np.random.default_rng(seed), np.arange(samples) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * rng.uniform(100, 4_000) * time_s) for _ in range(3))
    return Clip((level * tones[None]).astype(np.float32), RATE_HZ)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_dac(), tmp_path_factory.mktemp("dac"))


@pytest.fixture(scope="module")
def network(folder: Path) -> NeuralCodec:
    return open_neural(folder)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sound(seed, samples=3_200 + 640 * seed) for seed in range(8)]


@pytest.fixture(scope="module")
def fitted(folder: Path, clips: Sequence[Clip]) -> Feature:
    closed = load_feature(f"{WORD}@{folder}")
    return closed.fitted(closed.moments(clips[first : first + 3]) for first in range(0, 8, 3))


def latents_of(network: NeuralCodec, clip: Clip) -> np.ndarray:
    return network.encode(torch.from_numpy(clip.waveform))[0].double().numpy()


def test_the_axes_keep_most_of_the_energy_of_clips_that_count_alike(
    fitted: Feature, network: NeuralCodec, clips: Sequence[Clip]
):
    latents = [latents_of(network, clip) for clip in clips]
    alike = np.concatenate([each / np.sqrt(np.square(each).mean()) for each in latents], axis=1)
    left, sizes, _ = np.linalg.svd(alike, full_matrices=False)
    axes = fitted.fit.axes.astype(np.float64)
    np.testing.assert_allclose(axes @ axes.T, left[:, :AXES] @ left[:, :AXES].T, atol=1e-4)
    assert fitted.fit.kept_share == pytest.approx(np.square(sizes[:AXES]).sum() / np.square(sizes).sum(), rel=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), range(AXES)] > 0).all()


@torch.no_grad()
def test_what_is_stored_are_the_projections_and_they_decode_through_the_transposed_axes(
    fitted: Feature, network: NeuralCodec
):
    clip, axes = sound(20), fitted.fit.axes
    (stored,) = fitted([clip])
    latents = latents_of(network, clip)
    assert stored.shape == (AXES, 20) and stored.dtype == np.float16 and fitted.frames(6_400) == 20
    np.testing.assert_allclose(stored, axes.T @ latents, rtol=2**-10, atol=1e-4)
    lifted = torch.from_numpy(axes @ stored.astype(np.float32))[None]
    np.testing.assert_allclose(fitted.preview(stored).waveform, network.decode(lifted).numpy(), atol=1e-6)
    codec = fitted.opened()
    assert isinstance(codec, LatentCodec) and codec.dim == AXES
    assert codec.decode(codec.encode(torch.from_numpy(clip.waveform)), 6_399).shape == (1, 6_399)


def test_more_axes_lose_less_and_as_many_as_the_codebooks_have_dimensions_and_one_lose_nothing(
    folder: Path, network: NeuralCodec, clips: Sequence[Clip]
):
    counts = (2, 8, network.shape.codebooks * network.shape.codebook_dim + 1)
    features = [load_feature(f"codec:dac_16khz,project={count}@{folder}") for count in counts]
    part = features[0].moments(clips[:3])
    latents = np.concatenate([latents_of(network, clip) for clip in clips[:3]], axis=1)
    axes = [feature.fitted([part]).fit.axes for feature in features]
    lost = [np.linalg.norm(latents - each @ (each.T @ latents)) / np.linalg.norm(latents) for each in axes]
    assert lost[0] > lost[1] > 1e-3 and lost[2] < 1e-6


def test_the_loudness_of_a_clip_and_silence_decide_nothing(folder: Path):
    closed = load_feature(f"{WORD}@{folder}")
    silent = Clip(np.zeros((1, 3_200), np.float32), RATE_HZ)
    part = closed.moments([sound(0), silent])
    assert (part.clips, part.silent, part.frames) == (1, 1, 20)
    assert np.trace(part.products) == pytest.approx(DIM * 20)
    with pytest.raises(DataProblem, match="nothing to fit a codec on: 1 silent clips"):
        closed.fitted([closed.moments([silent])])


def test_a_fit_is_saved_and_opened_with_and_without_its_network(fitted: Feature, folder: Path, tmp_path: Path):
    kept = tmp_path / "axes.npz"
    fitted.save(kept)
    opened, closed = load_feature(f"{WORD}@{folder}@{kept}"), load_feature(f"{WORD}@{kept}")
    clip = sound(21)
    np.testing.assert_array_equal(opened([clip])[0], fitted([clip])[0])
    assert described(opened) == described(fitted)
    assert fingerprint(opened) == fingerprint(closed) != fingerprint(load_feature(WORD))
    assert opened.contract["weights"]["source"].startswith(f"{folder.name}, fitted on 8 clips, ")
    stored = opened([clip])[0]
    assert closed.preview(stored) is None and torch.equal(
        closed.restore(torch.from_numpy(stored)), torch.tensor(stored).float()
    )
    with pytest.raises(UsageProblem, match="dac_16khz needs weights"):
        closed([clip])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened))([clip])[0], stored)


def test_what_is_not_fitted_or_no_fit_or_of_other_weights_is_refused(fitted: Feature, folder: Path, tmp_path: Path):
    unfitted = load_feature(f"{WORD}@{folder}")
    assert isinstance(unfitted, Fitted) and not unfitted.is_fitted
    for use in (lambda: unfitted([sound(0)]), lambda: unfitted.save(tmp_path / "x.npz")):
        with pytest.raises(UsageProblem, match=r"is not fitted yet.*@WEIGHTS@FILE.npz"):
            use()
    fitted.save(tmp_path / "axes.npz")
    with pytest.raises(DataProblem, match="is no projection on 8 axes"):
        load_feature(f"codec:dac_16khz,project=8@{tmp_path / 'axes.npz'}")
    with pytest.raises(DataProblem, match="is no projection on 16 axes"):
        load_feature(f"{WORD}@{tmp_path / 'absent.npz'}")
    with pytest.raises(UsageProblem, match="fitted on latents of other weights"):
        load_feature(f"codec:dac_16khz_continuous,project={AXES}@{folder}@{tmp_path / 'axes.npz'}")


@pytest.mark.parametrize("count", ["0", "1024", "-1", "1.5", "many", "", "8,bands=2"])
def test_a_number_of_axes_that_is_none_is_refused_with_one_that_is(count: str):
    with pytest.raises(UsageProblem, match=r"is no number of axes.*codec:dac_44khz,project=128"):
        load_feature(f"codec:dac_44khz,project={count}")


def test_as_many_axes_as_the_network_has_numbers_are_refused(folder: Path):
    with pytest.raises(UsageProblem, match="has numbers a frame, 128"):
        load_feature(f"codec:dac_16khz,project=128@{folder}")


def test_a_build_fits_the_axes_once_and_keeps_them_with_each_split(folder: Path, tmp_path: Path):
    (tmp_path / "music").mkdir()
    for number in range(6):
        soundfile.write(tmp_path / "music" / f"{number}.wav", sound(number).waveform[0], RATE_HZ)
    words = ("folder", "--root", tmp_path / "music", "--valid-share", 0.3, "--test-share", 0, "--features")
    out = tmp_path / "out"
    build_here(*words, f"{WORD}@{folder}", "--out", out)
    column = f"codec-dac_16khz-project_{AXES}"
    splits = sorted(path.parent for path in out.glob("*/manifest.json"))
    assert len(splits) == 2 and len({(split / column / WEIGHTS).read_bytes() for split in splits}) == 1
    assert [line for split in splits for line in verify(split)] == []
    before = everything_below(out)
    build_here(*words, f"{WORD}@{folder}", "--out", out)
    assert everything_below(out) == before
    opened = load_feature(f"{WORD}@{folder}@{splits[0] / column / WEIGHTS}")
    for split in splits:
        assert differences(opened, Manifest.read(split).features[column]) == []
        assert Reader(split, column).read(0).shape == (AXES, 20)
    write_page(tmp_path / "page.html", splits, examples=2, seed=0, opened=[load_feature(f"{WORD}@{folder}")])
    assert f"decoded from {column}" in (tmp_path / "page.html").read_text()
