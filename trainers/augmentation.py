"""What others do to sound so that two views of a recording differ: CLMR's chain, transposition alone, mixtures of mels.

Myna does none of it; these are what it is compared with. Every number that is drawn is a function of a view's 64 bits,
so no example depends on its batch or on who computes it; a mixture alone needs a second example of its batch.

CLMR takes pitch shift and reverb from sox. Ours are the same two methods, not its code: overlapping segments laid where
they fit, its segments' lengths, then an ideal resampling; and Freeverb's network of combs and allpasses, one channel.
The rest is as in CLMR's public code, filters in the frequency domain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from trainers.chance import normals, uniforms

SAMPLE_RATE_HZ = 16_000
_FIRST_DRAW = 1 << 40  # far behind the numbers that masks draw from the same bits
_DRAWS, _NOISE = 5, 1 << 10  # for each transform: one decides, the others are its parameters
_ROWS = 4  # filtered at a time: their spectra are in float64, and should stay in the cache
_BLOCK_STEP = 1024  # lengths that a fast transform divides well
_ALIAS = 1e-6  # of a filter's tail beyond the block
_SEGMENT_SAMPLES, _SEARCH_SAMPLES, _OVERLAP_SAMPLES = 1312, 234, 192  # 82, 14.68 and 12 ms: sox's
_COMB_SAMPLES = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)  # of Freeverb at 44.1 kHz
_ALLPASS_SAMPLES = (225, 341, 441, 556)
_WET_GAIN, _FREEVERB_RATE_HZ = 0.015, 44_100

Waveforms = Float[Tensor, "batch samples"]
Draws = Float[Tensor, "batch draws"]


@dataclass(frozen=True)
class Chain:
    """Probability of each transform, in their order; the defaults are CLMR's, for 16 kHz."""

    polarity: float = 0.8
    """x to -x: no power spectrum shows it."""
    noise: float = 0.01
    """White, deviation uniform in 1e-4 to 1e-2 of the waveform's."""
    gain: float = 0.3
    """Uniform in -20 to -1 dB, then clipped to 1."""
    filters: float = 0.8
    """High-pass from 200 to 1200 Hz or low-pass from 2200 to 4000 Hz, one in two."""
    delay: float = 0.3
    """200, 250, ..., 450 ms, at half the level; the sum is halved."""
    pitch: float = 0.6
    """Whole steps, uniform, up or down; the length stays."""
    reverb: float = 0.6
    """Reverberance, damping and size of the room, whole numbers from 0 to 99."""
    pitch_steps: int = 700
    """Most steps up or down."""
    step_cents: int = 1
    """Size of a step."""


def transposition(semitones: int) -> Chain:
    """A pitch shift by whole semitones alone, always, as many up or down: what it costs to lose the key."""
    return Chain(0.0, 0.0, 0.0, 0.0, 0.0, pitch=1.0, reverb=0.0, pitch_steps=semitones, step_cents=100)


def augmented(waveforms: Waveforms, seeds: Int[Tensor, " batch"], chain: Chain) -> Waveforms:
    """Waveforms of 16 kHz through the chain, each by its own 64 random bits."""
    transforms: list[tuple[float, Callable[[Waveforms, Draws, Tensor], Waveforms]]] = [
        (chain.polarity, lambda x, draws, seeds: -x),
        (chain.noise, noisy),
        (chain.gain, lambda x, draws, seeds: gained(x, -20 + 19 * draws[:, 0])),
        (chain.filters, lambda x, draws, seeds: _filtered(x, draws)),
        (chain.delay, lambda x, draws, seeds: delayed(x, (draws[:, 0] * 6).long() * 50 + 200)),
        (chain.pitch, lambda x, draws, seeds: shifted(x, _whole(draws[:, 0], chain.pitch_steps) * chain.step_cents)),
        (chain.reverb, lambda x, draws, seeds: reverberated(x, (draws[:, :3] * 100).long())),
    ]
    draws = uniforms(seeds, _DRAWS * len(transforms), first=_FIRST_DRAW).unflatten(1, (len(transforms), _DRAWS))
    waveforms = waveforms.clone()
    for number, (probability, transform) in enumerate(transforms):
        chosen = draws[:, number, 0] < probability
        if chosen.any():
            waveforms[chosen] = transform(waveforms[chosen], draws[chosen, number, 1:], seeds[chosen])
    return waveforms


def mixed(
    mels: Float[Tensor, "batch bands frames"], seeds: Int[Tensor, " batch"], real: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch bands frames"]:
    """Each mel plus a little of the next real one of the batch: lambda and 1 - lambda, lambda from Beta(5, 2)."""
    # The fifth smallest of six uniform numbers has that distribution.
    parts = uniforms(seeds[real], 6, first=_FIRST_DRAW).sort(dim=1).values[:, 4, None, None].to(mels)
    mels = mels.clone()
    mels[real] = parts * mels[real] + (1 - parts) * mels[real].roll(-1, dims=0)
    return mels


def noisy(waveforms: Waveforms, draws: Draws, seeds: Int[Tensor, " batch"]) -> Waveforms:
    """White noise of 1e-4 to 1e-2 of each waveform's deviation, by the first draw."""
    levels = (1e-4 + (1e-2 - 1e-4) * draws[:, :1]) * waveforms.std(dim=1, keepdim=True)
    noise = normals(seeds, waveforms.shape[1], first=_FIRST_DRAW + _NOISE)
    return waveforms + (levels * noise).to(waveforms)


def gained(waveforms: Waveforms, decibels: Float[Tensor, " batch"]) -> Waveforms:
    """Another level, clipped to full scale."""
    return (waveforms * 10 ** (decibels[:, None] / 20)).clamp(-1, 1).to(waveforms)


def delayed(waveforms: Waveforms, milliseconds: Int[Tensor, " batch"]) -> Waveforms:
    """The mean of a waveform and half of itself some time before."""
    places = torch.arange(waveforms.shape[1], device=waveforms.device) - _samples(milliseconds)[:, None]
    before = waveforms.gather(1, places.clamp(min=0)) * (places >= 0)
    return (waveforms + 0.5 * before) / 2


def passed(waveforms: Waveforms, cutoff_hz: Float[Tensor, " batch"], high: Bool[Tensor, " batch"]) -> Waveforms:
    """Butterworth filters of second order: what lies above the cutoff where `high`, elsewhere what lies below.

    The bilinear transform of Bristow-Johnson's cookbook at Q = 1/sqrt(2), as sox and torchaudio have it.
    """
    angle = 2 * math.pi * cutoff_hz.double() / SAMPLE_RATE_HZ
    alpha, cosine, sign = angle.sin() * 0.5**0.5, angle.cos(), torch.where(high, -1.0, 1.0)

    def response(back: Callable[[Tensor], Tensor], rows: slice) -> Tensor:
        a, c, s = alpha[rows, None], cosine[rows, None], sign[rows, None]
        once, twice = (back(torch.full_like(a, samples, dtype=torch.long)) for samples in (1, 2))
        return (1 - s * c) / 2 * (1 + 2 * s * once + twice) / (1 + a - 2 * c * once + (1 - a) * twice)

    return _convolved(waveforms, response)


def shifted(waveforms: Waveforms, cents: Int[Tensor, " batch"]) -> Waveforms:
    """Another pitch at the same length: time is stretched first, and the resampling that takes it back moves pitch."""
    ratios = 2 ** (cents.double() / 1200)
    lengths = (waveforms.shape[1] * ratios).round().long().tolist()
    stretched = _stretched(waveforms, ratios)
    rows = [_resampled(row[:length], waveforms.shape[1]) for row, length in zip(stretched, lengths, strict=True)]
    return torch.stack(rows)


def reverberated(waveforms: Waveforms, settings: Int[Tensor, "batch 3"]) -> Waveforms:
    """A waveform with the echoes of a room, for reverberance, damping of high frequencies and size, each 0 to 99.

    Eight combs side by side, then four allpasses in a row; sox's scales of the three. Its output is the dry sound plus
    one channel of its two.
    """
    share = settings.double() / 100
    # Reverberance r from 0 to 100 raises the feedback from 0.3 to 0.98, evenly in the logarithm of what is lost.
    feedback = 1 - 0.7 * (0.02 / 0.7) ** share[:, 0]
    damping, size = 0.3 * share[:, 1] + 0.2, 0.9 * share[:, 2] + 0.1
    scale = size * SAMPLE_RATE_HZ / _FREEVERB_RATE_HZ

    def response(back: Callable[[Tensor], Tensor], rows: slice) -> Tensor:
        f, d, s = feedback[rows, None], damping[rows, None], scale[rows, None]
        loop = f * (1 - d) / (1 - d * back(torch.ones_like(s, dtype=torch.long)))
        wet = torch.zeros_like(loop)
        for length in _COMB_SAMPLES:
            echo = back((s * length).round().long())
            wet += echo / (1 - loop * echo)
        for length in _ALLPASS_SAMPLES:
            echo = back((s * length).round().long())
            wet *= (1.5 * echo - 1) / (1 - 0.5 * echo)
        return 1 + _WET_GAIN * wet

    return _convolved(waveforms, response)


def _filtered(waveforms: Waveforms, draws: Draws) -> Waveforms:
    high = draws[:, 0] < 0.5
    return passed(waveforms, torch.where(high, 200 + 1000 * draws[:, 1], 2200 + 1800 * draws[:, 1]), high)


def _whole(draws: Float[Tensor, " batch"], most: int) -> Int[Tensor, " batch"]:
    """Whole numbers in [-most, most]."""
    return (draws * (2 * most + 1)).long() - most


def _samples(milliseconds: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    return milliseconds * SAMPLE_RATE_HZ // 1000


def _convolved(
    waveforms: Waveforms, response: Callable[[Callable[[Tensor], Tensor], slice], Complex[Tensor, "rows bins"]]
) -> Waveforms:
    """Apply a filter that is known by its transfer function of 1/z, rows at a time; silence before and after.

    `response` is given (delays of some rows, (rows, 1)) -> z to the minus each of them, at every bin. What is longer
    than the block would come round to its beginning; evaluated slightly inside the unit circle, the function is that
    of the tail with an exponential decay, which is then undone.
    """
    samples, device = waveforms.shape[1], waveforms.device
    block = -(-samples // _BLOCK_STEP) * _BLOCK_STEP
    decay = torch.arange(block, dtype=torch.float64, device=device).mul(math.log(_ALIAS) / block).exp()
    angles = torch.arange(block, dtype=torch.float64, device=device) * (-2 * math.pi / block)
    roots, bins = torch.polar(torch.ones_like(angles), angles), torch.arange(block // 2 + 1, device=device)

    def back(delays: Int[Tensor, "rows 1"]) -> Complex[Tensor, "rows bins"]:
        return roots[bins * delays % block] * decay[1] ** delays  # a power of each bin would take ten times as long

    parts = []
    for first in range(0, len(waveforms), _ROWS):
        rows = slice(first, first + _ROWS)
        spectrum = torch.fft.rfft(waveforms[rows] * decay[:samples], block) * response(back, rows)
        parts.append((torch.fft.irfft(spectrum, block)[:, :samples] / decay[:samples]).to(waveforms))
    return torch.cat(parts)


def _stretched(waveforms: Waveforms, ratios: Float[Tensor, " batch"]) -> Float[Tensor, "batch stretched"]:
    """At least `ratios` times as long at the same pitch (WSOLA, Verhelst & Roelands 1993).

    Segments are laid one after the other, each taken near its place where it best continues the last one.
    """
    hop = _SEGMENT_SAMPLES - _OVERLAP_SAMPLES
    segments = math.ceil(waveforms.shape[1] * float(ratios.max()) / hop)
    padded = torch.nn.functional.pad(waveforms, (_SEARCH_SAMPLES // 2, _SEARCH_SAMPLES + _SEGMENT_SAMPLES))
    fade = torch.linspace(0, 1, _OVERLAP_SAMPLES + 2, device=waveforms.device)[1:-1]
    offsets = torch.full(ratios.shape, _SEARCH_SAMPLES // 2, device=waveforms.device)
    parts, tail = [], waveforms.new_zeros(len(waveforms), _OVERLAP_SAMPLES)
    for number in range(segments):
        starts = (number * hop / ratios).long().clamp(max=waveforms.shape[1])  # rows that have ended take silence
        if number:
            near = _windows(padded, starts, _SEARCH_SAMPLES + _OVERLAP_SAMPLES).unfold(1, _OVERLAP_SAMPLES, 1)
            offsets = (near - tail[:, None]).square().sum(dim=2).argmin(dim=1)
        segment = _windows(padded, starts + offsets, _SEGMENT_SAMPLES)
        head, body, next_tail = segment.split([_OVERLAP_SAMPLES, hop - _OVERLAP_SAMPLES, _OVERLAP_SAMPLES], dim=1)
        parts += [torch.lerp(tail, head, fade.expand_as(head)) if number else head, body]
        tail = next_tail
    return torch.cat(parts, dim=1)


def _windows(waveforms: Waveforms, starts: Int[Tensor, " batch"], samples: int) -> Float[Tensor, "batch window"]:
    return waveforms.gather(1, starts[:, None] + torch.arange(samples, device=waveforms.device))


def _resampled(waveform: Float[Tensor, " x"], samples: int) -> Float[Tensor, " y"]:
    """The same band-limited curve at so many points: frequencies are cut off, or zeros added, above."""
    bins = torch.fft.rfft(waveform)
    kept = bins.new_zeros(samples // 2 + 1)
    shared = min(len(bins), len(kept))
    kept[:shared] = bins[:shared]
    return torch.fft.irfft(kept, samples) * (samples / len(waveform))
