"""Codecs in closed form: published facts of the transform, of the linear codec's fit, and of log powers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.music.compose import compose
from pipelines.music.performance import play_score
from pipelines.music.synthesis import SOUNDFONT
from shards.codecs.klt import principal_axes, write_fit
from shards.codecs.linear import KINDS, Fit, Kind, LinearCodec, fitted, moments, open_fit
from shards.codecs.logpower import FLOOR, LogPowerCodec, add_powers, separated
from shards.codecs.mdct import dct4, inverse_mdct, mdct
from shards.decode import decode, resampled
from shards.problem import DataProblem

CPU = torch.device("cpu")
NOTES = 24
FEW = 1e-12


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sine(hertz: float) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(24_000, dtype=torch.float64) / 24_000)[None]


def si_sdr_db(sound: Tensor, estimate: Tensor) -> float:
    sound, estimate = (each - each.mean() for each in (sound, estimate))
    scaled = sound * (sound @ estimate) / (sound @ sound)
    return float(10 * torch.log10(scaled.square().sum() / (estimate - scaled).square().sum()))


@pytest.fixture(scope="module")
def notes(rendered_nsynth: Path) -> dict[str, np.ndarray]:
    """Rendered notes by name, mono at 24 kHz."""
    paths = sorted(rendered_nsynth.rglob("*.wav"))[::11][:NOTES]
    return {path.name: resampled(decode(path.read_bytes()), 24_000).waveform[0] for path in paths}


@pytest.fixture(scope="module")
def fit(notes: dict[str, np.ndarray]) -> Fit:
    return fitted([moments(notes.values(), "low96+klt32")], "low96+klt32")


def one_of(notes: dict[str, np.ndarray], family: str) -> np.ndarray:
    return next(wave for name, wave in notes.items() if name.startswith(family))


def drum_track(style: str) -> np.ndarray:
    """Five seconds of composed drums, mono at 24 kHz."""
    score = compose(style, seconds=5.0, seed=(0,))
    alone = replace(score, parts=tuple(part for part in score.parts if part.is_drum))
    return play_score(alone, sample_rate_hz=24_000, soundfont=SOUNDFONT).mean(axis=0)


def codec_of(kind: Kind, notes: dict[str, np.ndarray], compand: float = 1.0) -> LinearCodec:
    is_fitted = KINDS[kind][1] > 0
    return LinearCodec(kind, fitted([moments(notes.values(), kind)], kind) if is_fitted else None, compand)


# The transform


def test_the_published_coefficients_of_a_ramp_and_back():
    ramp = torch.arange(1.0, 9.0, dtype=torch.float64)[None]
    bands = mdct(ramp, 4)
    expected = [[2.641048, -1.132041, -0.427565, 0.013903], [12.081877, -5.139126, 3.688310, -3.094243]]
    torch.testing.assert_close(bands[0].T, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    assert bands.square().sum() == pytest.approx(204)
    torch.testing.assert_close(inverse_mdct(bands), ramp)


@pytest.mark.parametrize(
    "samples, expected",
    [
        ([1, 0, 0, 0, 0, 0, 0, 0], [[0.693520, 0.587938, 0.392847, 0.137950], [0, 0, 0, 0]]),
        (
            [0, 0, 0, 1, 0, 0, 0, 0],
            [[0.114701, -0.326641, 0.488852, -0.576641], [0.385299, 0.326641, 0.218254, 0.076641]],
        ),
        ([1] * 8, [[1.628176, -0.203293, -0.030074, 0.015700], [2.184079, -0.433086, 0.455289, -0.376180]]),
    ],
)
def test_the_published_coefficients_of_impulses_and_ones(samples: list[float], expected: list[list[float]]):
    bands = mdct(torch.tensor([samples], dtype=torch.float64), 4)[0].T
    torch.testing.assert_close(bands, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_dct_is_its_own_inverse():
    matrix = dct4(320, torch.float64, CPU)
    assert (matrix @ matrix - torch.eye(320)).abs().max() < FEW


def test_inner_frames_are_the_text_book_windowed_mdct_with_its_phase():
    hop, waveform = 320, noise(1, 2400)
    n, k = torch.arange(2 * hop, dtype=torch.float64), torch.arange(hop, dtype=torch.float64)
    kernel = torch.cos(torch.pi / hop * (n + 0.5 - hop / 2)[:, None] * (k + 0.5)) * (2 / hop) ** 0.5
    window = torch.sin(torch.pi * (n + 0.5) / (2 * hop))
    bands = mdct(waveform, hop)[0]
    for frame in range(1, 6):
        start = frame * hop - hop // 2
        expected = (window * waveform[0, start : start + 2 * hop]) @ kernel
        assert (bands[:, frame] - expected).abs().max() < FEW


@pytest.mark.parametrize("dtype, bound", [(torch.float64, FEW), (torch.float32, 1e-5)])
def test_seven_seconds_come_back_whole_with_their_energy(dtype: torch.dtype, bound: float):
    waveform = noise(1, 168_000).to(dtype)
    bands = mdct(waveform, 320)
    assert (inverse_mdct(bands) - waveform).abs().max() < bound
    assert bands.square().sum() == pytest.approx(float(waveform.square().sum()), rel=bound)


@given(st.integers(1, 3), st.integers(1, 2000), st.sampled_from([2, 4, 64, 320]), st.integers(0, 2**31))
def test_the_transform_is_orthogonal_for_any_length(batch: int, samples: int, hop: int, seed: int):
    waveform = noise(batch, samples, seed=seed)
    bands = mdct(waveform, hop)
    assert bands.shape == (batch, hop, -(-samples // hop))
    other = noise(*bands.shape, seed=seed + 1)
    sound = inverse_mdct(other)
    padded = torch.nn.functional.pad(waveform, (0, sound.shape[1] - samples))
    torch.testing.assert_close((bands * other).sum(), (padded * sound).sum())  # the inverse is the adjoint
    torch.testing.assert_close(inverse_mdct(bands), padded)
    torch.testing.assert_close(mdct(sound, hop), other)


# The linear codec


@pytest.mark.parametrize("samples, frames", [(1, 1), (319, 1), (320, 1), (321, 2), (24_000, 75), (168_000, 525)])
def test_the_published_frame_counts(samples: int, frames: int):
    assert LinearCodec().frames(samples) == frames == LinearCodec().encode(torch.zeros(1, samples)).shape[-1]


def test_sines_lie_in_the_published_bands():
    full = LinearCodec("full320")
    share = (energy := full.encode(sine(440))[0].square().sum(dim=1)) / energy.sum()
    assert share.argmax() == 11
    assert share[11] == pytest.approx(0.728, abs=1e-3) and share[12] == pytest.approx(0.246, abs=1e-3)
    high, middle = (full.encode(sine(hertz))[0].square().sum(dim=1) / 12_000 for hertz in (5_000.0, 3_581.25))
    assert high[:128].sum() < 0.001
    assert middle[:128].sum() == pytest.approx(0.9999, abs=1e-4)
    assert middle[:96].sum() == pytest.approx(0.901, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_a_mean_are_the_mean_of_latents(kind: Kind, notes: dict[str, np.ndarray]):
    codec = codec_of(kind, notes)
    one, two = noise(1, 9_000), noise(1, 9_000, seed=1)
    torch.testing.assert_close(
        codec.encode((one + two) / 2), (codec.encode(one) + codec.encode(two)) / 2, rtol=0, atol=1e-6
    )


def test_companding_ends_linearity_and_is_undone_exactly(notes: dict[str, np.ndarray]):
    plain, companded = codec_of("low96+klt32", notes), codec_of("low96+klt32", notes, compand=0.6)
    bass, mallet = (torch.from_numpy(one_of(notes, family)).double()[None] for family in ("bass", "mallet"))
    mixed, parts = companded.encode((bass + mallet) / 2), (companded.encode(bass) + companded.encode(mallet)) / 2
    assert (mixed - parts).norm() / mixed.norm() > 0.05
    torch.testing.assert_close(companded.decode(companded.encode(bass)), plain.decode(plain.encode(bass)))
    number = torch.tensor([[[-0.25]]], dtype=torch.float64).expand(1, 320, 1)
    low = LinearCodec("full320", compand=0.6)
    assert low.encode(low.decode(number.sign() * number.abs() ** 0.6))[0, 0, 0] == pytest.approx(-0.4352753, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_what_was_decoded_changes_nothing_and_keeps_energy(kind: Kind, notes: dict[str, np.ndarray]):
    codec = codec_of(kind, notes)
    latents = noise(2, codec.dim, 7)
    sound = codec.decode(latents)
    torch.testing.assert_close(codec.encode(sound), latents, rtol=0, atol=1e-5)
    assert sound.square().sum() == pytest.approx(float(latents.square().sum()), rel=1e-6)


@given(st.integers(1, 1500), st.sampled_from(["low128", "full320"]))
def test_decoding_gives_exactly_the_samples_that_were_encoded(samples: int, kind: Kind):
    codec, waveform = LinearCodec(kind), noise(1, samples).float()
    decoded = codec.decode(codec.encode(waveform), samples)
    assert decoded.shape == waveform.shape
    if kind == "full320":
        torch.testing.assert_close(decoded, waveform, rtol=0, atol=1e-5)


def test_more_samples_than_the_latents_hold_are_refused():
    codec = LinearCodec()
    with pytest.raises(ValueError, match="641 samples were asked"):
        codec.decode(codec.encode(torch.ones(1, 320)), 641)


def test_principal_axes_of_four_points():
    rows = np.array([[2, 1], [1, 2], [-2, -1], [-1, -2]], float)
    moment = rows.T @ rows / 4
    axes, eigenvalues = principal_axes(moment, 1)
    np.testing.assert_allclose(moment, [[2.5, 2], [2, 2.5]])
    np.testing.assert_allclose(eigenvalues, [4.5, 0.5])
    np.testing.assert_allclose(axes, [[0.7071068], [0.7071068]], atol=1e-7)
    assert eigenvalues[0] / eigenvalues.sum() == pytest.approx(0.9)


def test_the_largest_entry_of_an_axis_is_positive(fit: Fit):
    largest = np.abs(fit.axes).argmax(axis=0)
    assert (fit.axes[largest, range(32)] > 0).all()


def test_two_fits_of_one_corpus_have_one_fingerprint_and_the_same_file(notes: dict[str, np.ndarray], tmp_path: Path):
    listings = list(notes), list(reversed(notes))
    for number, listing in enumerate(listings):
        planned = sorted(listing)
        parts = [moments([notes[key] for key in planned[begin::4]], "low96+klt32") for begin in range(4)]
        write_fit(tmp_path / f"{number}.npz", fitted(parts, "low96+klt32"))
    first, second = (tmp_path / f"{number}.npz" for number in range(2))
    assert first.read_bytes() == second.read_bytes()
    prints = [LinearCodec("low96+klt32", open_fit(path)).fingerprint() for path in (first, second)]
    assert prints[0] == prints[1] and len(prints[0]) == 64


def test_how_clips_are_shared_out_among_parts_moves_the_fit_by_rounding_only(notes: dict[str, np.ndarray], fit: Fit):
    parts = [moments([wave], "low96+klt32") for wave in notes.values()]
    other = fitted(reversed(parts), "low96+klt32")
    np.testing.assert_allclose(other.axes @ other.axes.T, fit.axes @ fit.axes.T, atol=1e-4)
    np.testing.assert_allclose(other.eigenvalues, fit.eigenvalues, rtol=1e-6, atol=1e-9)
    assert (other.clips, other.frames) == (fit.clips, fit.frames)


def test_the_level_of_a_clip_has_no_weight_in_the_fit_and_silence_is_left_out(notes: dict[str, np.ndarray], fit: Fit):
    louder = [wave * np.float32(1 + 7 * (n % 2)) for n, wave in enumerate(notes.values())]
    other = fitted([moments([*louder, np.full(9_000, 1e-6, np.float32)], "low96+klt32")], "low96+klt32")
    np.testing.assert_allclose(other.axes @ other.axes.T, fit.axes @ fit.axes.T, atol=1e-4)
    assert (other.clips, other.silent) == (fit.clips, 1)


def test_a_corpus_of_silence_cannot_be_fitted():
    with pytest.raises(DataProblem, match="2 silent clips and no other"):
        fitted([moments([np.zeros(320, np.float32)] * 2, "klt128")], "klt128")


def test_on_drums_the_fit_reaches_the_published_quality_and_beats_the_lowest_bands():
    drums = [drum_track(style) for style in ("rock", "pop")]
    codecs = LinearCodec("low96+klt32", fitted([moments(drums, "low96+klt32")], "low96+klt32")), LinearCodec("low128")
    waveforms = [torch.from_numpy(track)[None] for track in drums]
    quality_db = [
        np.mean([si_sdr_db(wave[0], codec.decode(codec.encode(wave), wave.shape[1])[0]) for wave in waveforms])
        for codec in codecs
    ]
    assert quality_db[0] > 13.7 and quality_db[0] > quality_db[1] + 0.8


@pytest.mark.parametrize("harm", ["cut", "text", "kind", "axes", "object", "extra", "absent", "bomb"])
def test_what_is_no_fit_is_refused(harm: str, fit: Fit, tmp_path: Path):
    path = tmp_path / "fit.npz"
    write_fit(path, fit)
    whole, parts = path.read_bytes(), dict(vars(fit))
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "text":
        path.write_text("no archive")
    elif harm == "absent":
        path.unlink()
    else:
        changed = {
            "kind": {"kind": "low128"},
            "axes": {"axes": fit.axes * 2},
            "object": {"axes": np.array([{}], dtype=object)},
            "extra": {"more": 1},
            "bomb": {"eigenvalues": np.zeros(1 << 20)},
        }
        np.savez_compressed(path, **{**parts, **changed[harm]})
    with pytest.raises(DataProblem, match="is no fitted linear codec"):
        open_fit(path)


# Log powers


def test_log_powers_are_those_of_the_formula():
    waveform = noise(1, 3_200)
    bands = mdct(waveform, 320)[0]
    latents = LogPowerCodec().encode(waveform)[0]
    for band, below, above in ((0, None, 1), (5, 4, 6), (127, 126, 128)):
        left = bands[below] if below is not None else 0.0
        expected = (bands[band] ** 2 + (bands[above] - left) ** 2 + FLOOR).log()
        torch.testing.assert_close(latents[band], expected)
    assert latents.shape == (128, 10)


def test_powers_add():
    one, two = noise(1, 128, 4), noise(1, 128, 4, seed=1)
    torch.testing.assert_close(add_powers(torch.stack([one, two])), (one.exp() + two.exp()).log())


@pytest.mark.parametrize("dim", [128, 64, 200])
def test_separated_sources_sum_to_the_mixture_whatever_their_latents(dim: int):
    mixture = noise(2, 4_000)
    sources = separated(noise(3, 2, dim, 13, seed=1), mixture)
    assert sources.shape == (3, 2, 4_000)
    torch.testing.assert_close(sources.sum(dim=0), mixture)


def test_true_powers_as_masks_separate_two_tones():
    low, high = sine(300), sine(2_000)
    codec = LogPowerCodec()
    sources = separated(torch.stack([codec.encode(low), codec.encode(high)]), low + high)
    assert si_sdr_db(low[0], sources[0, 0]) > 30 and si_sdr_db(high[0], sources[1, 0]) > 30


def test_what_log_powers_decode_to_has_about_their_powers(notes: dict[str, np.ndarray]):
    codec = LogPowerCodec()
    waveform = torch.from_numpy(one_of(notes, "keyboard"))[None]
    latents = codec.encode(waveform)
    sound = codec.decode(latents, waveform.shape[1])
    assert sound.shape == waveform.shape
    torch.testing.assert_close(sound, codec.decode(latents, waveform.shape[1]), rtol=0, atol=0)
    powers = [(each.exp() - FLOOR).clamp(min=0) for each in (latents, codec.encode(sound))]
    assert 0.5 < powers[1].sum() / powers[0].sum() < 2
    correlation = np.corrcoef(*(each.sqrt().flatten() for each in powers))[0, 1]
    assert correlation > 0.8
