"""Scores played by the real fluidsynth: when, where, how loud; and the mastering, on generated sounds too."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.music.performance import LOUDNESS_LUFS, PEAK, _limit, _loudness_lufs, play_score, play_stems
from pipelines.music.score import Note, Part, Score
from pipelines.music.synthesis import SOUNDFONT
from shards.problem import RunFailed

RATE_HZ = 44_100
WOODBLOCK, TRUMPET, STRINGS, PIANO = 115, 56, 48, 0


def part(program: int, *notes: Note, is_drum: bool = False, pan: float = 0.0, gain_db: float = 0.0) -> Part:
    return Part(f"part {program}", program, is_drum, "Piano", notes, pan, gain_db)


def score(*parts: Part, seconds: float = 2.0) -> Score:
    return Score("any", "C major", 120.0, 4, seconds, parts, (), (), (), ())


def every(step_seconds: float, seconds: float, pitch: int = 60) -> list[Note]:
    return [Note(float(start), step_seconds / 2, pitch, 90) for start in np.arange(0.25, seconds - 0.2, step_seconds)]


def played(piece: Score, sample_rate_hz: int = RATE_HZ) -> np.ndarray:
    return play_score(piece, sample_rate_hz=sample_rate_hz, soundfont=SOUNDFONT)


def stems(piece: Score, sample_rate_hz: int = RATE_HZ) -> list[np.ndarray]:
    return play_stems(piece, sample_rate_hz=sample_rate_hz, soundfont=SOUNDFONT)


def decibels(ratio: float) -> float:
    return float(20 * np.log10(ratio))


def rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


TRIO = score(
    part(PIANO, *every(0.5, 3.0), pan=-0.5),
    part(STRINGS, Note(0.0, 2.9, 55, 80), Note(0.0, 2.9, 67, 70), pan=0.5, gain_db=-6.0),
    part(0, *every(0.25, 3.0, pitch=38), is_drum=True),
    seconds=3.0,
)


@pytest.mark.parametrize("sample_rate_hz", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.71828])
def test_a_piece_is_as_long_as_its_score_says_to_the_sample(sample_rate_hz: int, seconds: float):
    sound = played(score(part(PIANO, Note(0.0, 0.2, 60, 90)), seconds=seconds), sample_rate_hz)
    assert (sound.shape, sound.dtype) == ((2, round(seconds * sample_rate_hz)), np.float32)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() <= PEAK + 1e-6


def test_the_same_score_gives_the_same_samples_and_another_note_another_room():
    first, second = played(TRIO), played(TRIO)
    np.testing.assert_array_equal(first, second)
    other = replace(TRIO, parts=(*TRIO.parts[:2], part(0, *every(0.25, 2.9, pitch=38), is_drum=True)))
    before = round(2.5 * RATE_HZ)  # the scores agree until here, so that only the room tells them apart
    assert np.abs(played(other)[:, :before] - first[:, :before]).max() > 1e-3


def test_a_piece_is_as_loud_as_all_pieces():
    assert pyloudnorm.Meter(RATE_HZ).integrated_loudness(played(TRIO).T) == pytest.approx(LOUDNESS_LUFS, abs=0.3)


def test_every_note_is_heard_when_the_score_says_to_the_end_of_a_minute():
    notes = [Note(start, 0.1, 76, 110) for start in (0.0, 0.5, 1.037, 7.7771, 29.9993, 59.6)]
    (sound,) = stems(score(part(WOODBLOCK, *notes), seconds=60.0))
    for note in notes:
        start = round(note.start_seconds * RATE_HZ)
        around = np.abs(sound[max(0, start - 2_000) : start + 2_000])
        onset = np.flatnonzero(around > 0.1 * around.max())[0] - min(start, 2_000)
        assert 0.0 <= onset / RATE_HZ <= 0.007, note  # three of them in the sample itself


def test_a_note_ends_when_the_score_says():
    (sound,) = stems(score(part(16, Note(0.0, 1.0, 60, 100)), seconds=3.0), 16_000)  # an organ holds its level
    held, gone = sound[8_000:15_000], sound[24_000:]
    assert rms(gone) < 0.05 * rms(held)


@pytest.mark.parametrize("pan, quieter", [(-1.0, 1), (1.0, 0)])
def test_a_part_is_heard_where_it_stands(pan: float, quieter: int):
    sound = played(score(part(TRUMPET, Note(0.0, 1.5, 72, 90), pan=pan)))
    assert rms(sound[quieter]) < 0.4 * rms(sound[1 - quieter])


@pytest.mark.parametrize("gain_db", [-3.0, -12.0])
def test_the_gain_of_a_part_is_heard_in_decibels(gain_db: float):
    notes = (Note(0.0, 1.5, 60, 90),)
    loud, soft = stems(score(part(PIANO, *notes), part(PIANO, *notes, gain_db=gain_db)))
    assert decibels(rms(soft) / rms(loud)) == pytest.approx(gain_db, abs=0.3)


def test_stems_come_in_order_and_add_up_to_the_piece_played_at_once():
    centred = replace(TRIO, parts=tuple(replace(part, pan=0.0) for part in TRIO.parts))
    apart = stems(centred)
    assert [(stem.shape, stem.dtype) for stem in apart] == [((3 * RATE_HZ,), np.float32)] * 3
    mix, at_once = sum(apart), played(centred).mean(axis=0)
    unit = [sound / rms(sound) for sound in (mix, at_once)]
    assert decibels(rms(unit[0] - unit[1])) < -45
    assert max(np.abs(sound).max() for sound in (mix, *apart)) <= PEAK + 1e-6
    assert np.argmax([rms(stem[: RATE_HZ // 5]) for stem in apart]) == 1  # only the strings begin at once


def test_more_parts_than_midi_has_channels_are_all_heard():
    pitches = range(50, 92, 2)
    piece = score(*(part(79, Note(0.1, 1.8, pitch, 90)) for pitch in pitches))  # ocarinas: nearly sines
    spectrum = np.abs(np.fft.rfft(played(piece).mean(axis=0) * np.hanning(2 * RATE_HZ)))
    for pitch in pitches:
        bin_of = round(2 * 440 * 2 ** ((pitch - 69) / 12))
        peak, beside = spectrum[bin_of - 2 : bin_of + 3].max(), spectrum[round(bin_of * 1.03)]
        assert peak > 5 * beside, pitch


def test_two_drum_kits_are_both_heard():
    kits = [part(0, Note(start, 0.1, 38, 100), is_drum=True) for start in (0.2, 1.2)]
    sound = played(score(*kits))[0]
    assert rms(sound[round(1.2 * RATE_HZ) : round(1.4 * RATE_HZ)]) == pytest.approx(
        rms(sound[round(0.2 * RATE_HZ) : round(0.4 * RATE_HZ)]), rel=0.5
    )


def test_a_part_that_rests_is_a_silent_stem_and_a_score_of_rests_is_an_error():
    resting = part(STRINGS)
    silent, sounding = stems(score(resting, part(PIANO, Note(0.0, 1.0, 60, 90))))
    assert np.abs(silent).max() < 1e-4 < np.abs(sounding).max()
    for play in (played, stems):
        with pytest.raises(RunFailed, match="came out silent"):
            play(score(resting))


def test_a_low_rate_loses_the_treble_and_adds_nothing():
    high, low = played(TRIO), played(TRIO, 22_050)
    spectra = [np.abs(np.fft.rfft(sound[0])) / len(sound[0]) for sound in (high, low)]
    below = 3 * 9_000  # bins of 1/3 Hz, up to 9 kHz
    gain = rms(spectra[1][:below]) / rms(spectra[0][:below])
    assert decibels(rms(spectra[1][:below] / gain - spectra[0][:below]) / rms(spectra[0][:below])) < -40


def test_memory_beyond_the_sound_itself_does_not_grow_with_the_piece():
    extra = []
    for seconds in (60.0, 120.0):
        piece = score(part(PIANO, *every(1.0, seconds)), seconds=seconds)
        tracemalloc.start()
        sound = played(piece, 16_000)
        extra.append(tracemalloc.get_traced_memory()[1] - sound.nbytes)
        tracemalloc.stop()
    assert extra[1] < 1.2 * extra[0]


sounds = arrays.arrays(
    np.float32, st.tuples(st.just(2), st.integers(1, 5_000)), elements=st.floats(-4, 4, width=32), fill=st.floats(-1, 1)
)


@given(sounds)
def test_a_limited_sound_never_exceeds_its_peak_and_keeps_both_channels_in_proportion(sound: np.ndarray):
    limited = sound.copy()
    _limit(limited)
    assert np.abs(limited).max() <= PEAK + 1e-6
    gain = np.divide(limited, sound, out=np.ones_like(sound), where=np.abs(sound) > 1e-3)
    assert (gain <= 1 + 1e-6).all()
    both = (np.abs(sound) > 1e-3).all(axis=0)
    np.testing.assert_allclose(gain[0, both], gain[1, both], rtol=1e-3)


def test_a_sound_below_the_peak_is_left_alone_and_a_click_is_turned_down_only_near_it():
    rng = np.random.default_rng(0)
    quiet = (0.1 * rng.standard_normal((2, RATE_HZ))).astype(np.float32)
    same = quiet.copy()
    _limit(same)
    np.testing.assert_array_equal(same, quiet)
    clicked = quiet.copy()
    clicked[0, 20_000] = 3.0
    limited = clicked.copy()
    _limit(limited)
    np.testing.assert_array_equal(limited[:, :15_000], clicked[:, :15_000])
    np.testing.assert_array_equal(limited[:, 25_000:], clicked[:, 25_000:])


@pytest.mark.parametrize("seconds", [0.2, 5.0, 150.0])
def test_loudness_is_that_of_the_standard_however_long_the_sound(seconds: float):
    rng = np.random.default_rng(1)
    swells = np.repeat(rng.uniform(0.001, 0.3, round(seconds * 5)), 3_200)
    sound = (swells * rng.standard_normal((2, len(swells)))).astype(np.float32)
    whole = np.pad(sound, ((0, 0), (0, max(0, 6_401 - len(swells)))))
    assert _loudness_lufs(sound, 16_000) == pytest.approx(
        pyloudnorm.Meter(16_000).integrated_loudness(whole.T.astype(np.float64)), abs=0.05
    )


def test_without_its_soundfont_no_other_is_played(tmp_path: Path):
    with pytest.raises(RunFailed, match="came out silent"):
        play_score(TRIO, sample_rate_hz=RATE_HZ, soundfont=tmp_path / "absent.sf2")
