"""The mel contracts: published facts, three reference implementations, the bound of storage, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.example import Clip
from shards.feature import Feature, fingerprint, load_feature
from shards.features.mel import MUSICFM, MYNA, VIT1D, Mel
from shards.problem import UsageProblem
from shards.spectrum import _import_functional, mel_basis

FFT, HOP = 2048, 512
BASIS = mel_basis(MYNA.filters)
TOLERANCE = {"torchaudio": 1e-6, "nnAudio": 5e-6, "librosa": 2e-5}  # librosa finds the filters' edges in float64
CONTRACTS = pytest.mark.parametrize("mel", [MYNA, VIT1D, MUSICFM], ids=lambda mel: mel.name)


def tensor(waveform: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(waveform.astype(np.float32))[None]


def clip_of(waveform: np.ndarray, mel: Mel = MYNA) -> Clip:
    return Clip(waveform.astype(np.float32)[None], mel.sample_rate_hz)


def power(waveform: np.ndarray, mel: Mel = MYNA) -> torch.Tensor:
    """Power mel (bands, frames) before storage."""
    return mel.power(tensor(waveform))[0].T


def sine(samples: int, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000)


@pytest.mark.parametrize("samples, frames", [(48_000, 94), (50_000, 98), (100_000, 196), (160_000, 313)])
def test_the_published_frame_counts(samples: int, frames: int):
    assert MYNA.frames(samples) == frames == power(sine(samples)).shape[1]


@CONTRACTS
@given(st.integers(1025, 40_000))
def test_the_mel_knows_its_frame_count_without_running(mel: Mel, samples: int):
    (array,) = mel([clip_of(np.zeros(samples), mel)])
    assert array.shape == (128, mel.frames(samples))
    assert array.T.flags.c_contiguous


def test_musicfm_has_100_frames_a_second_and_vit1d_126_in_four_seconds():
    assert MUSICFM.frames(30 * 24_000) == 3000
    assert MUSICFM.frames(24_000) == 100
    assert VIT1D.frames(64_000) == 126


def test_a_sine_of_440_hz_has_the_published_values():
    frame = power(sine(50_000))[:, 50]
    assert frame.argmax() == 18
    assert frame[18] == pytest.approx(13_134.4, abs=1)
    assert frame.sum() == pytest.approx(16_816.5, abs=2)


def test_the_basis_is_librosas_slaney_basis_and_has_no_empty_band():
    reference = librosa.filters.mel(sr=16_000, n_fft=FFT, n_mels=128, htk=False, norm="slaney")
    assert BASIS.shape == (1025, 128)
    assert np.abs(BASIS.numpy().T - reference).max() < 1e-6
    assert (BASIS.sum(0) > 0).all()
    other = librosa.filters.mel(sr=16_000, n_fft=FFT, n_mels=128, htk=False, norm=1)
    assert np.abs(other - reference).max() == pytest.approx(
        0.29, abs=0.01
    )  # the trap: librosa's norm=1 is another scaling


def references(waveform: np.ndarray, mel: Mel) -> dict[str, np.ndarray]:
    """Mel power by nnAudio (Myna's own front end), torchaudio (MusicFM's) and librosa."""
    _import_functional()
    from nnAudio.features.mel import MelSpectrogram as NNAudio
    from torchaudio.transforms import MelSpectrogram as TorchAudio

    sizes = {"n_fft": mel.fft_samples, "hop_length": mel.hop_samples, "n_mels": mel.bands}
    norm = None if mel.norm == "none" else mel.norm
    theirs, rate_hz = {}, mel.sample_rate_hz
    if norm:  # nnAudio cannot leave the area norm out
        theirs["nnAudio"] = NNAudio(sr=rate_hz, htk=mel.mel_scale == "htk", verbose=False, **sizes)(tensor(waveform))[0]
    transform = TorchAudio(sample_rate=rate_hz, norm=norm, mel_scale=mel.mel_scale, **sizes)
    theirs["torchaudio"] = transform(tensor(waveform))[0]
    options = {"norm": norm, "htk": mel.mel_scale == "htk", "pad_mode": "reflect"}
    theirs["librosa"] = librosa.feature.melspectrogram(y=waveform, sr=rate_hz, **sizes, **options)
    return {name: np.asarray(array)[:, : mel.frames(len(waveform))] for name, array in theirs.items()}


@pytest.mark.filterwarnings("ignore")
@CONTRACTS
@pytest.mark.parametrize("source", ["noise", "note"])
def test_power_equals_nnaudio_torchaudio_and_librosa(mel: Mel, source: str, rng: np.random.Generator):
    harmonics = sum(sine(64_000, 220 * partial) / partial for partial in range(1, 12))
    waveform = 0.1 * (
        rng.standard_normal(64_000) if source == "noise" else harmonics * np.exp(-np.arange(64_000) / 20_000)
    )
    ours = power(waveform, mel).numpy()
    theirs = references(waveform, mel)
    assert len(theirs) == (3 if mel is MYNA else 2)
    for name, array in theirs.items():
        error = np.abs(ours - array).max() / array.max()
        assert ours.shape == array.shape
        assert error < TOLERANCE[name], f"{name} differs by {error} of the peak"


@CONTRACTS
def test_float32_is_within_a_millionth_of_the_peak_of_float64(mel: Mel, rng: np.random.Generator):
    waveform = (0.1 * rng.standard_normal(20_000)).astype(np.float32).astype(np.float64)
    padded = np.pad(waveform, mel.fft_samples // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.fft_samples) / mel.fft_samples)
    frames = np.lib.stride_tricks.sliding_window_view(padded, mel.fft_samples)[:: mel.hop_samples] * window
    exact = (np.abs(np.fft.rfft(frames)) ** 2 @ mel_basis(mel.filters).numpy()).T[:, : mel.frames(len(waveform))]
    assert np.abs(power(waveform, mel).numpy() - exact).max() < 1e-6 * exact.max()


@CONTRACTS
@given(seed=st.integers(0, 2**32 - 1), level=st.floats(1e-3, 1.0))
def test_storage_keeps_power_within_the_contracts_bound(mel: Mel, seed: int, level: float):
    waveform = level * np.random.default_rng(seed).standard_normal(8192)
    exact = power(waveform, mel).double()
    (stored,) = mel([clip_of(waveform, mel)])
    restored = mel.restore(torch.from_numpy(stored.copy())).double()
    normal = exact.sqrt() >= torch.finfo(torch.float16).smallest_normal
    error = ((restored - exact).abs() / exact)[normal].max()
    assert stored.dtype == np.float16
    assert error <= mel.contract["relative_error"] * (1 + 2**-10)


@CONTRACTS
def test_full_scale_input_does_not_overflow(mel: Mel):
    assert np.isfinite(mel([clip_of(np.sign(sine(64_000, 110)), mel)])[0]).all()


def test_a_wave_in_units_of_integers_is_refused_not_stored_as_infinity():
    with pytest.raises(ValueError, match="too loud for a mel: its peak is 32,767 times full scale"):
        MYNA([clip_of(32_767 * np.sign(sine(16_000, 110)))])


@pytest.mark.parametrize("samples", [0, 1, 1024])
def test_a_clip_without_room_for_reflection_is_refused(samples: int):
    with pytest.raises(ValueError, match="too short for a mel"):
        MYNA([clip_of(np.zeros(samples))])


def test_frames_cropped_from_the_whole_equal_the_mel_of_just_their_samples(rng: np.random.Generator):
    waveform = rng.standard_normal(100_000).astype(np.float32)
    first = 40
    start = HOP * first - FFT // 2
    frames = torch.from_numpy(waveform[start : start + 50_688]).unfold(0, FFT, HOP) * torch.hann_window(FFT)
    alone = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1) @ BASIS
    torch.testing.assert_close(power(waveform)[:, first : first + 96].T, alone, rtol=1e-5, atol=1e-5)


def test_a_long_clip_equals_its_own_pieces(rng: np.random.Generator):
    """Frames are computed in blocks: nothing may be lost or doubled where two of them meet."""
    waveform = 0.1 * rng.standard_normal(300 * HOP)
    centred = librosa.feature.melspectrogram(y=waveform, sr=16_000, n_fft=FFT, hop_length=HOP, n_mels=128)
    assert power(waveform).shape[1] == 301 > 2 * 128
    np.testing.assert_allclose(power(waveform)[:, 3:-3], centred[:, 3:-3], rtol=1e-3, atol=1e-5)


@pytest.fixture
def clips(rng: np.random.Generator) -> list[Clip]:
    return [clip_of(0.1 * rng.standard_normal(samples)) for samples in (64_000, 64_000, 3_000, 90_000, 64_000)]


def test_a_mel_does_not_depend_on_what_else_is_computed_with_it(clips: list[Clip]):
    for clip, array in zip(clips, MYNA(clips), strict=True):
        np.testing.assert_array_equal(MYNA([clip])[0], array)


@CONTRACTS
def test_the_bits_do_not_depend_on_threads_and_torchs_number_of_them_is_left_alone(mel: Mel, clips: list[Clip]):
    clips = [replace(clip, sample_rate_hz=mel.sample_rate_hz) for clip in clips]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mel(clips)
        torch.set_num_threads(3)
        together = mel(clips)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
@CONTRACTS
def test_clips_computed_together_have_the_same_mels_but_for_rounding(mel: Mel, device: str, clips: list[Clip]):
    clips = [replace(clip, sample_rate_hz=mel.sample_rate_hz) for clip in clips]
    for ours, theirs in zip(mel(clips), mel.to(device)(clips), strict=True):
        assert ours.shape == theirs.shape
        assert theirs.T.flags.c_contiguous
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), rtol=2e-3, atol=1e-3)


def test_another_device_is_the_same_feature():
    assert MYNA.to("cuda") == MYNA
    assert fingerprint(MYNA.to("cuda")) == fingerprint(MYNA)


@CONTRACTS
def test_the_preview_sounds_at_the_pitch_and_level_of_the_clip(mel: Mel):
    rate_hz = mel.sample_rate_hz
    wave = 0.5 * np.sin(2 * np.pi * 880 * np.arange(rate_hz) / rate_hz)
    heard = mel.preview(mel([clip_of(wave, mel)])[0])
    middle = heard.waveform[0, rate_hz // 4 : 3 * rate_hz // 4]
    loudest_hz = np.abs(np.fft.rfft(middle)).argmax() * 2
    assert heard.sample_rate_hz == rate_hz
    assert heard.waveform.shape == (1, (mel.frames(rate_hz) - 1) * mel.hop_samples)
    assert loudest_hz == pytest.approx(880, rel=0.03)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / 2**0.5, rel=0.3)


def test_a_preview_has_the_mel_that_it_was_made_from(rng: np.random.Generator):
    (stored,) = MYNA([clip_of(0.1 * rng.standard_normal(32_000))])
    first, second = MYNA.preview(stored), MYNA.preview(stored)
    again = MYNA([first])[0][:, 3:-3].astype(np.float32)
    wanted = stored[:, 3 : again.shape[1] + 3].astype(np.float32)
    np.testing.assert_array_equal(first.waveform, second.waveform)
    assert np.linalg.norm(again - wanted) < 0.25 * np.linalg.norm(wanted)


def test_there_is_no_preview_where_windows_hardly_overlap():
    assert load_feature("mel:hop_samples=2000").preview(np.ones((128, 9), np.float16)) is None


@CONTRACTS
def test_few_frames_have_a_preview_or_none_and_none_only_where_a_clip_could_not_be_padded(mel: Mel):
    for frames in range(8):
        heard, samples = mel.preview(np.ones((mel.bands, frames), np.float16)), (frames - 1) * mel.hop_samples
        assert (heard is None) == (samples <= mel.fft_samples // 2)
        assert heard is None or heard.waveform.shape == (1, samples)


def test_words_load_the_contract_and_wrong_ones_name_the_nearest():
    assert load_feature("mel") is load_feature("mel:myna") is MYNA
    assert load_feature("mel:vit1d") is VIT1D and VIT1D.column == "mel-vit1d"
    assert load_feature("mel:musicfm") is MUSICFM and MUSICFM.column == "mel-musicfm"
    with pytest.raises(UsageProblem, match="Did you mean mel"):
        load_feature("mell")
    with pytest.raises(UsageProblem, match="Did you mean myna"):
        load_feature("mel:mina")


def test_the_fingerprint_of_columns_that_people_have_stays():
    assert fingerprint(MYNA) == "b52c57fb7b73377fa883d608682d7a15a5d6ac7481ecaf483181f33627ded23f"
    assert len({fingerprint(mel) for mel in (MYNA, VIT1D, MUSICFM)}) == 3


def test_parameters_change_a_contract_in_any_order_and_give_one_safe_column():
    mel, same = load_feature("mel:hop_samples=240,bands=64"), load_feature("mel:bands=64,hop_samples=240")
    assert mel == same and isinstance(mel, Feature)
    assert mel.column == "mel-bands_64-hop_samples_240"
    assert load_feature(mel.word) == mel
    assert mel([clip_of(np.zeros(16_000))])[0].shape == (64, 67)
    assert load_feature("mel:low_hz=27.5").column == "mel-low_hz_27p5"
    assert load_feature("mel:vit1d,bands=64").column == "mel-vit1d-bands_64"


def test_parameters_that_change_nothing_are_the_contract_itself():
    assert load_feature("mel:hop_samples=512,high_hz=8000") is MYNA
    assert load_feature("mel:vit1d,norm=none") is VIT1D


def test_free_parameters_equal_to_a_contracts_have_its_fingerprint():
    spelled = "fft_samples=2048,sample_rate_hz=24000,hop_samples=240,high_hz=12000,mel_scale=htk,norm=none"
    mel = load_feature(f"mel:{spelled},last_frame=dropped")
    assert fingerprint(mel) == fingerprint(MUSICFM)
    assert len(mel.column) < 64 and mel.column != load_feature(f"mel:{spelled}").column
    assert load_feature(mel.word) == mel


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "bands": st.integers(1, 40),
            "hop_samples": st.integers(1, 2048),
            "low_hz": st.floats(0, 500).map(lambda hertz: round(hertz, 3)),
            "mel_scale": st.sampled_from(["slaney", "htk"]),
            "norm": st.sampled_from(["slaney", "none"]),
        },
    )
)
def test_every_accepted_word_loads_what_it_says_and_names_a_safe_column(changes: dict[str, object]):
    mel = load_feature("mel:" + ",".join(f"{name}={value}" for name, value in changes.items()))
    assert load_feature(mel.word) == mel
    assert all(getattr(mel, name) == value for name, value in changes.items())
    assert set(mel.column) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hop_sample=3", "no parameter 'hop_sample'.*Did you mean hop_samples"),
        ("vit1d,foo", "no parameter 'foo'"),
        ("bands=many", "bands=many is out of range.*a whole number from 1 to 1,024"),
        ("bands=64.5", "bands=64.5 is out of range"),
        ("bands=0", "bands=0 is out of range"),
        ("low_hz=nan", "low_hz=nan is out of range.*a number from 0 to"),
        ("norm=slany", "norm=slany is no choice.*Did you mean slaney"),
        ("sample_rate_hz=8000", "high_hz up to 4000"),
        ("high_hz=11025", "from 0 to 11025 Hz there is no band at a rate of 16,000 Hz"),
        ("low_hz=9000", "Choose low_hz below high_hz"),
        ("fft_samples=256", "Choose hop_samples up to 256"),
        ("fft_samples=1025", "Choose an even fft_samples"),
        ("bands=1000", "of 1000 bands would fall between two bins and stay empty. Choose fewer bands"),
        ("bands=64@weights", "has no weights, so '@weights' means nothing.*pass mel:bands=64"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_a_remedy(word: str, message: str):
    with pytest.raises(UsageProblem, match=message):
        load_feature(f"mel:{word}")
