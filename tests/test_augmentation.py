"""What each transform does to sound, and that every draw is a function of a view's own bits."""

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from trainers.augmentation import (
    SAMPLE_RATE_HZ,
    Chain,
    augmented,
    delayed,
    gained,
    mixed,
    noisy,
    passed,
    reverberated,
    shifted,
    transposition,
)
from trainers.chance import normals, uniforms

SAMPLES = SAMPLE_RATE_HZ
NOTHING = Chain(*[0.0] * 7)


def sine(hz: float, samples: int = SAMPLES) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(samples) / SAMPLE_RATE_HZ)[None]


def click(samples: int = 2 * SAMPLES) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([0]), samples).float()


def peak_hz(waveform: Tensor) -> float:
    """The strongest frequency, to a small part of a bin."""
    window = torch.hann_window(waveform.shape[-1], dtype=torch.float64)
    power = torch.fft.rfft(waveform.double() * window, 16 * waveform.shape[-1]).abs()
    return power.argmax().item() * SAMPLE_RATE_HZ / (16 * waveform.shape[-1])


def seeds_of(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int64) * 7919 - 12


def level(waveform: Tensor) -> float:
    return waveform.square().mean().sqrt().item()


def only(name: str) -> Chain:
    return Chain(**{field.name: float(field.name == name) for field in fields(Chain)[:7]})


def test_no_transform_is_no_change():
    waveforms = torch.randn(4, SAMPLES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmented(waveforms, seeds_of(4), NOTHING), waveforms)


def test_polarity_turns_a_waveform_over():
    assert torch.equal(augmented(sine(440), seeds_of(1), only("polarity")), -sine(440))


def test_noise_has_a_small_part_of_the_waveforms_deviation():
    waveforms = sine(440).expand(64, -1)
    noise = noisy(waveforms, uniforms(seeds_of(64), 1), seeds_of(64)) - waveforms
    parts = noise.std(dim=1) / waveforms.std(dim=1)
    assert 1e-4 <= parts.min() < 2e-3 and 8e-3 < parts.max() <= 1.05e-2
    assert abs(torch.corrcoef(noise[:2])[0, 1]) < 0.05
    spectrum = torch.fft.rfft(noise[0]).abs().square()
    assert (spectrum[: SAMPLES // 4].mean() / spectrum[SAMPLES // 4 :].mean()).item() == pytest.approx(1, abs=0.1)


def test_gain_changes_the_level_and_clips_to_full_scale():
    assert level(gained(sine(440), torch.tensor([-20.0]))) == pytest.approx(level(sine(440)) / 10, rel=1e-5)
    assert gained(3 * sine(440), torch.tensor([-1.0])).abs().max() == 1
    drawn = augmented(sine(440).expand(256, -1), seeds_of(256), only("gain")).abs().amax(dim=1) / 0.5
    decibels = 20 * drawn.log10()
    assert decibels.min() == pytest.approx(-20, abs=0.5) and decibels.max() == pytest.approx(-1, abs=0.5)


@pytest.mark.parametrize(("hz", "high", "decibels"), [(200, True, -24.1), (800, True, -3.01), (3200, True, 0.0)])
def test_filters_have_the_slope_of_second_order(hz, high, decibels):
    def change(waveform: Tensor, cutoff: float, high: bool) -> float:
        found = passed(waveform, torch.tensor([cutoff]), torch.tensor([high]))[:, 4000:12000]
        return 20 * math.log10(level(found) / level(waveform))

    assert change(sine(hz), 800.0, high) == pytest.approx(decibels, abs=0.2)
    # The mirror image around the cutoff, as far as the bilinear transform keeps it.
    assert change(sine(800 * 800 / hz), 800.0, not high) == pytest.approx(decibels, abs=2.5)


def test_a_filter_is_the_recursion_that_its_coefficients_name():
    waveform = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    angle = 2 * math.pi * 1000 / SAMPLE_RATE_HZ
    alpha, cosine = math.sin(angle) * 0.5**0.5, math.cos(angle)
    b, a = [(1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2], [1 + alpha, -2 * cosine, 1 - alpha]
    x, expected = waveform[0].double().tolist(), [0.0, 0.0]
    for n in range(len(x)):
        given = sum(b[k] * x[n - k] for k in range(3) if n >= k)
        expected.append((given - a[1] * expected[-1] - a[2] * expected[-2]) / a[0])
    found = passed(waveform, torch.tensor([1000.0]), torch.tensor([False]))
    torch.testing.assert_close(found[0], torch.tensor(expected[2:], dtype=torch.float32), atol=1e-5, rtol=1e-4)


def test_a_delay_gives_one_echo_at_half_the_level():
    found = delayed(click(), torch.tensor([250]))
    assert found.nonzero()[:, 1].tolist() == [0, 4000] and found[0, [0, 4000]].tolist() == [0.5, 0.25]
    echoes = augmented(click().expand(64, -1), seeds_of(64), only("delay")).nonzero()[1::2, 1]
    assert set(echoes.tolist()) == {milliseconds * 16 for milliseconds in range(200, 500, 50)}


@pytest.mark.parametrize("cents", [-700, -100, 3, 250, 700])
def test_a_pitch_shift_moves_a_tone_by_its_cents_and_keeps_length_and_level(cents):
    found = shifted(sine(440), torch.tensor([cents]))
    assert found.shape == (1, SAMPLES)
    assert 1200 * math.log2(peak_hz(found[:, 2000:-2000]) / 440) == pytest.approx(cents, abs=3)
    assert level(found[:, 2000:-2000]) == pytest.approx(level(sine(440)), rel=0.1)


def test_a_pitch_shift_leaves_events_where_they_are_within_a_few_hundredths_of_a_second():
    burst = sine(600) * ((torch.arange(SAMPLES) >= 8000) & (torch.arange(SAMPLES) < 12000))
    found = shifted(burst, torch.tensor([-500])).square()[0]
    centre = (found * torch.arange(SAMPLES)).sum() / found.sum()
    assert centre.item() == pytest.approx(10000, abs=400)


def test_transposition_moves_by_whole_semitones_alone():
    found = augmented(sine(440).expand(24, -1), seeds_of(24), transposition(2))
    semitones = [12 * math.log2(peak_hz(row[2000:-2000]) / 440) for row in found]
    assert {round(value) for value in semitones} == {-2, -1, 0, 1, 2}
    assert all(abs(value - round(value)) < 0.05 for value in semitones)


def decay(settings: list[int], begin: int, end: int) -> float:
    return level(reverberated(click(), torch.tensor([settings]))[:, begin:end])


def test_reverb_keeps_the_dry_sound_and_adds_a_tail_that_dies_away():
    tail = reverberated(click(), torch.tensor([[50, 50, 99]]))
    assert tail[0, 0] == pytest.approx(1, abs=1e-4)
    assert decay([50, 50, 99], 1000, 4000) > 3 * decay([50, 50, 99], 12000, 16000) > 0


def test_reverberance_damping_and_size_do_what_they_name():
    late = (16000, 24000)
    assert decay([90, 50, 99], *late) > 10 * decay([30, 50, 99], *late)

    def brightness(damping: int) -> float:
        spectrum = torch.fft.rfft(reverberated(click(), torch.tensor([[80, damping, 80]]))[0, 4000:]).abs().square()
        return (spectrum[len(spectrum) // 2 :].sum() / spectrum.sum()).item()

    assert brightness(0) > brightness(99)

    def first_echo(size: int) -> int:
        return int(reverberated(click(), torch.tensor([[50, 50, size]]))[0].abs()[1:].gt(1e-3).nonzero()[0]) + 1

    assert first_echo(99) > 2 * first_echo(20)


def test_a_reverb_is_the_network_of_delay_lines():
    found = reverberated(click(3000), torch.tensor([[50, 50, 50]]))[0]
    size, feedback, damping = 0.9 * 0.5 + 0.1, 1 - 0.7 * (0.02 / 0.7) ** 0.5, 0.3 * 0.5 + 0.2

    def line(length: int) -> int:
        return round(length * size * 16000 / 44100)

    wet = torch.zeros(3000, dtype=torch.float64)
    for length in (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617):
        memory, store = [0.0] * line(length), 0.0
        for n in range(3000):
            output = memory[n % len(memory)]
            store = output * (1 - damping) + store * damping
            memory[n % len(memory)] = float(n == 0) + store * feedback
            wet[n] += output
    for length in (225, 341, 441, 556):
        memory = [0.0] * line(length)
        for n in range(3000):
            output = memory[n % len(memory)]
            memory[n % len(memory)] = wet[n].item() + 0.5 * output
            wet[n] = output - wet[n]
    torch.testing.assert_close(found[1:], (0.015 * wet[1:]).float(), atol=1e-5, rtol=1e-3)


def test_a_view_does_not_depend_on_its_batch():
    waveforms = torch.randn(40, 4000, generator=torch.Generator().manual_seed(0)) / 4
    whole = augmented(waveforms, seeds_of(40), Chain())
    for rows in (slice(0, 1), slice(7, 30), slice(39, 40)):
        torch.testing.assert_close(augmented(waveforms[rows], seeds_of(40)[rows], Chain()), whole[rows])
    assert whole.isfinite().all() and whole.shape == waveforms.shape


@pytest.mark.parametrize("name", ["polarity", "noise", "gain", "filters", "delay", "pitch", "reverb"])
def test_transforms_come_as_often_as_their_probability_says(name):
    probability = 0.3
    waveforms = sine(1500, 4096).expand(400, -1)
    chain = Chain(**{field.name: probability * (field.name == name) for field in fields(Chain)[:7]})
    changed = (augmented(waveforms, seeds_of(400), chain) != waveforms).any(dim=1).float().mean()
    assert changed.item() == pytest.approx(probability, abs=0.07)


def test_numbers_of_one_seed_look_independent_and_have_their_distribution():
    drawn = uniforms(seeds_of(2000), 2)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02) and (drawn >= 0).all() and (drawn < 1).all()
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.07
    normal = normals(seeds_of(2000), 5).flatten()
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(1, abs=0.03)


def test_a_mixture_is_mostly_ones_own_mel_and_never_padding():
    mels = torch.eye(3).repeat_interleave(400, dim=0)[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    real = torch.arange(1200) % 5 > 0
    mels[~real] = torch.nan
    found = mixed(mels[:, :, None], seeds_of(1200), real)[real, :, 0]
    torch.testing.assert_close(found.sum(dim=1), torch.ones(int(real.sum())))
    other = (mels[real] * mels[real].roll(-1, dims=0)).sum(dim=1) == 0
    parts = (found * mels[real]).sum(dim=1)[other]
    # Beta(5, 2): mean 5/7, variance 10/392.
    assert parts.mean().item() == pytest.approx(5 / 7, abs=0.02)
    assert parts.var().item() == pytest.approx(10 / 392, rel=0.15)
