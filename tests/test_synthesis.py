"""Tones of the real SoundFont through the real fluidsynth, and the instruments made of them."""

import io
import itertools
import os
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.music.instruments import PRESETS, Preset, even_parts, instruments
from pipelines.music.synthesis import (
    SOUNDFONT,
    Timbre,
    Tone,
    check_soundfont,
    flac_of,
    fluidsynth_version,
    mp3_of,
    play,
    presets_of,
    wav_of,
)
from shards.problem import EnvironmentProblem, RunFailed
from tests.soundfont import Zone, zones

RATE_HZ = 16_000
ORGAN_FORTE, PIANO_FORTE = Tone(0, 19, 48, 127), Tone(0, 0, 36, 127)
SINE = Tone(8, 80, 69, 100)


def sound(*tones: Tone, soundfont: Path = SOUNDFONT) -> list[np.ndarray]:
    return play(tones, soundfont=soundfont, held_seconds=0.6, seconds=1.0, sample_rate_hz=RATE_HZ)


def pitch_hz(waveform: np.ndarray) -> float:
    """Frequency of the loudest partial, from a zero-padded spectrum: 0.03 Hz apart."""
    spectrum = np.abs(np.fft.rfft(waveform[2_000:8_000] * np.hanning(6_000), 1 << 19))
    return float(np.argmax(spectrum)) * RATE_HZ / (1 << 19)


def centroid_hz(waveform: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return float((power * np.fft.rfftfreq(len(waveform), 1 / RATE_HZ)).sum() / power.sum())


def test_a_tone_sounds_at_its_pitch_is_released_when_asked_and_is_as_long_as_asked():
    (waveform,) = sound(SINE)
    assert (waveform.shape, waveform.dtype) == ((RATE_HZ,), np.float32)
    assert pitch_hz(waveform) == pytest.approx(440, abs=2)
    held, released = waveform[4_000:9_600], waveform[14_000:]
    assert np.abs(released).max() < 0.05 * np.abs(held).max()


@pytest.mark.parametrize("quiet", [Tone(0, 73, 72, 25), Tone(0, 16, 96, 25), Tone(0, 11, 60, 25), Tone(8, 24, 70, 25)])
def test_a_tone_after_loud_ones_is_bit_for_bit_the_tone_alone(quiet: Tone):
    *_, after = sound(ORGAN_FORTE, PIANO_FORTE, quiet)
    (alone,) = sound(quiet)
    np.testing.assert_array_equal(after, alone)


def test_a_timbre_does_not_reach_the_next_tone_of_the_same_preset():
    dull = Timbre(cutoff_cents=-2400, attack_timecents=2400, tuning_cents=20, vibrato_cents=15)
    _, after = sound(Tone(0, 40, 69, 100, dull), Tone(0, 40, 69, 100))
    (alone,) = sound(Tone(0, 40, 69, 100))
    np.testing.assert_array_equal(after, alone)


@pytest.mark.parametrize("cents", [-20, 50])
def test_tuning_moves_the_pitch_by_as_many_cents(cents: int):
    plain, tuned = sound(SINE, Tone(8, 80, 69, 100, Timbre(tuning_cents=cents)))
    assert 1200 * np.log2(pitch_hz(tuned) / pitch_hz(plain)) == pytest.approx(cents, abs=1)


def test_a_lower_cutoff_darkens_and_a_longer_attack_slows_the_beginning():
    plain, dark, slow = sound(
        *(
            Tone(0, 81, 60, 100, timbre)
            for timbre in (Timbre(), Timbre(cutoff_cents=-3600), Timbre(attack_timecents=9000))
        )
    )
    assert centroid_hz(dark) < 0.8 * centroid_hz(plain)
    assert np.abs(slow[:1_600]).max() < 0.5 * np.abs(plain[:1_600]).max()


@pytest.mark.parametrize("name", [field.name for field in fields(Timbre)])
def test_every_shift_of_a_timbre_is_heard(name: str):
    shift = -1200 if name == "cutoff_cents" else 60 if name == "resonance_centibels" else 20
    timbre = Timbre(**{name: 1200 if name.endswith("timecents") else shift})
    plain, shifted = sound(Tone(0, 6, 60, 100), Tone(0, 6, 60, 100, timbre))
    assert np.abs(plain - shifted).max() > 0.01 * np.abs(plain).max()


def test_a_key_without_a_sample_is_an_error_and_not_a_silent_tone():
    with pytest.raises(RunFailed, match=r"pitch=94.* silent .*FluidR3"):
        sound(Tone(0, 40, 94, 100))


@given(
    arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(-4, 4, width=32)).filter(lambda wave: wave.any()),
    st.floats(0.1, 1.0),
)
def test_a_wav_keeps_the_shape_of_a_waveform_at_the_peak_asked_for(tmp_path: Path, waveform: np.ndarray, peak: float):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_of(waveform, peak=peak, sample_rate_hz=RATE_HZ))
    read, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(read, waveform / np.abs(waveform).max() * peak * 32767 / 32768, atol=0.6 / 32768)


waveforms = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 2), st.integers(1, 3_000)), elements=st.floats(-1, 1, width=32)
)
sixteen_bits = arrays.arrays(np.int16, st.tuples(st.integers(1, 2), st.integers(1, 3_000)))


@given(sixteen_bits)
def test_a_flac_keeps_16_bit_samples_exactly(waveform: np.ndarray):
    read, rate_hz = soundfile.read(io.BytesIO(flac_of(waveform, sample_rate_hz=RATE_HZ)), dtype="int16", always_2d=True)
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(read.T, waveform)


@given(waveforms)
def test_a_flac_keeps_a_waveform_at_its_level_within_half_a_step(waveform: np.ndarray):
    read, _ = soundfile.read(io.BytesIO(flac_of(waveform, sample_rate_hz=RATE_HZ)), dtype="float32", always_2d=True)
    np.testing.assert_allclose(read.T, np.minimum(waveform, 32767 / 32768), atol=0.51 / 32768)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100])
def test_an_mp3_sounds_like_its_waveform_is_as_long_and_has_the_same_bytes_each_time(channels: int, rate_hz: int):
    seconds = np.arange(3 * rate_hz) / rate_hz
    hertz = np.array([[440.0], [660.0]])[:channels]
    waveform = (0.5 * np.sin(2 * np.pi * hertz * seconds)).astype(np.float32)
    encoded = mp3_of(waveform, sample_rate_hz=rate_hz)
    assert {mp3_of(waveform, sample_rate_hz=rate_hz) for _ in range(4)} == {encoded}
    assert mp3_of(np.round(waveform * 32768).astype(np.int16), sample_rate_hz=rate_hz) == encoded
    read, read_rate_hz = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    assert (read.shape, read_rate_hz) == (waveform.T.shape, rate_hz)
    middle = slice(rate_hz // 2, -rate_hz // 2)
    assert np.abs(read.T[:, middle] - 0.95 * waveform[:, middle]).max() < 0.01


@pytest.mark.parametrize("encode", [flac_of, mp3_of])
@pytest.mark.parametrize("amplitude", [1.001, -2.0, np.nan])
def test_what_would_be_clipped_is_not_encoded(encode: Callable, amplitude: float):
    with pytest.raises(ValueError, match="beyond full scale"):
        encode(np.full((1, 100), amplitude, np.float32), sample_rate_hz=RATE_HZ)


def test_the_presets_of_the_soundfont_are_read_from_its_headers():
    assert presets_of(SOUNDFONT) >= {(0, 0), (8, 80), (128, 0)}
    assert (0, 128) not in presets_of(SOUNDFONT)


def test_a_missing_soundfont_names_the_packages_to_install(tmp_path: Path):
    with pytest.raises(EnvironmentProblem, match="apt-get install fluidsynth fluid-soundfont-gm"):
        check_soundfont(tmp_path / "absent.sf2", {(8, 80)})


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a SoundFont at all", b"RIFF\x04\0\0\0WAVE" + bytes(40)])
def test_a_file_that_is_no_soundfont_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "broken.sf2").write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="is no SoundFont 2 file"):
        check_soundfont(tmp_path / "broken.sf2", {(8, 80)})


def test_a_soundfont_without_a_wanted_preset_is_refused_before_another_sounds_in_its_place(tmp_path: Path):
    headers = b"".join(struct.pack("<20sHH14x", b"name", program, 0) for program in (5, 6, 0))
    presets = struct.pack("<4sI4s4sI", b"LIST", 12 + len(headers), b"pdta", b"phdr", len(headers)) + headers
    (tmp_path / "small.sf2").write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(presets), b"sfbk") + presets)
    check_soundfont(tmp_path / "small.sf2", {(0, 5), (0, 6)})
    with pytest.raises(EnvironmentProblem, match="lacks 1 presets that are wanted, such as bank 8 program 80"):
        check_soundfont(tmp_path / "small.sf2", {(8, 80), (0, 5)})


def test_a_missing_synthesiser_names_the_packages_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="apt-get install fluidsynth"):
        sound(SINE)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a fluidsynth on the PATH that only does what a line of shell says."""

    def install(line: str) -> None:
        (tmp_path / "fluidsynth").write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "fluidsynth").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    return install


@pytest.mark.parametrize(
    "line, said",
    [
        ("echo no space >&2; exit 3", "exit code 3, it said: no space"),
        ("exit 0", "0 of .* bytes, it said: nothing"),
        ("kill -9 $$", "exit code -9"),
    ],
)
def test_a_synthesiser_that_fails_is_an_error_with_its_last_words(failing: Callable, line: str, said: str):
    failing(line)
    with pytest.raises(RunFailed, match=f"fluidsynth failed: {said}.* repeat the command"):
        sound(SINE)


@pytest.mark.parametrize("line", ["exit 1", "echo something else"])
def test_a_synthesiser_without_a_version_is_not_trusted(failing: Callable, line: str):
    failing(line)
    with pytest.raises(EnvironmentProblem, match="no version, so it cannot be trusted"):
        fluidsynth_version()


@pytest.fixture(scope="module")
def soundfont_zones() -> dict[tuple[int, int], list[Zone]]:
    return zones(SOUNDFONT)


def test_presets_of_different_splits_share_no_sample(soundfont_zones: dict[tuple[int, int], list[Zone]]):
    samples = {preset: {zone.sample for zone in soundfont_zones[preset.bank, preset.program]} for preset in PRESETS}
    apart = [pair for pair in itertools.combinations(PRESETS, 2) if pair[0].split != pair[1].split]
    assert [pair for pair in apart if samples[pair[0]] & samples[pair[1]]] == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: f"{preset.bank}:{preset.program}")
def test_a_preset_has_a_sample_for_every_pitch_and_velocity_at_which_it_is_heard(
    preset: Preset, soundfont_zones: dict[tuple[int, int], list[Zone]]
):
    assert 21 <= preset.low_pitch < preset.high_pitch <= 108
    own = soundfont_zones[preset.bank, preset.program]
    keys = itertools.product(range(preset.low_pitch, preset.high_pitch + 1), (25, 50, 75, 100, 127))
    assert [key for key in keys if not any(zone.answers(*key) for zone in own)] == []


def test_no_preset_is_listed_twice():
    assert len({(preset.bank, preset.program) for preset in PRESETS}) == len(PRESETS)


@given(st.integers(0, 5_000), st.integers(1, 60))
def test_even_parts_add_up_and_differ_by_one_at_most(total: int, parts: int):
    sizes = even_parts(total, parts)
    assert (sum(sizes), len(sizes)) == (total, parts)
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 400), st.integers(0, 2**32))
def test_instruments_play_as_many_different_notes_as_asked_within_their_ranges(notes: int, seed: int):
    made = list(instruments("keyboard", "test", notes=notes, velocities=(25, 127), rng=np.random.default_rng(seed)))
    assert sum(len(instrument.keys) for instrument in made) == notes
    for instrument in made:
        assert len(set(instrument.keys)) == len(instrument.keys)
        low, high = instrument.preset.low_pitch, instrument.preset.high_pitch
        assert all(low <= pitch <= high and velocity in (25, 127) for pitch, velocity in instrument.keys)


def test_every_preset_is_heard_as_it_is_before_one_is_varied():
    made = list(instruments("keyboard", "test", notes=80, velocities=(25, 127), rng=np.random.default_rng(0)))
    presets = [preset for preset in PRESETS if (preset.family, preset.split) == ("keyboard", "test")]
    assert [instrument.preset for instrument in made[: len(presets)]] == presets
    assert [instrument.timbre == Timbre() for instrument in made] == [True] * len(presets) + [False] * (
        10 - len(presets)
    )
