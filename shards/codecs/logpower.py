"""Log-power latents: the power of the 128 lowest MDCT bands, without the signs that jump from frame to frame.

Powers of sources add, so that what combines latents is `add_powers`. Separated latents become sound as masks on the
mixture's own MDCT (`separated`), whose parts sum to the mixture. Latents alone have no phase: `decode` finds one by
Griffin-Lim, for listening. Precision is that of the waveform; bands are `sample_rate_hz / 640` apart, up to 4.8 kHz.
"""

import hashlib
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from shards.codecs.codec import cut, hops
from shards.codecs.linear import HOP_SAMPLES, SAMPLE_RATE_HZ
from shards.codecs.mdct import inverse_mdct, mdct
from shards.spectrum import griffin_lim

BANDS = 128
FLOOR = 1e-6
# Ratio of the power of a Hann window's spectrum to that of the pseudo-spectrum, so that what is decoded is as loud as
# what was encoded: measured on rendered music.
_STFT_POWER = 105.0


@dataclass(frozen=True)
class LogPowerCodec:
    """A LatentCodec whose `decode` is a preview: right in power, not in phase, and nothing above 4.8 kHz."""

    name: str = "logpower"
    sample_rate_hz: int = SAMPLE_RATE_HZ
    hop_samples: int = HOP_SAMPLES
    dim: int = BANDS

    def frames(self, samples: int) -> int:
        return hops(samples, self.hop_samples)

    def encode(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """ln(X[k]^2 + (X[k+1] - X[k-1])^2 + FLOOR): a pseudo-spectrum, in which a steady tone hardly beats."""
        bands = mdct(waveform, self.hop_samples)[:, : self.dim + 1]
        below = torch.nn.functional.pad(bands[:, : self.dim - 1], (0, 0, 1, 0))
        power = bands[:, : self.dim].square() + (bands[:, 1:] - below).square()
        return (power + FLOOR).log()

    def decode(
        self, latents: Float[Tensor, "batch dim frames"], samples: int | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Sound of about these powers, always the same for the same latents."""
        waveform = torch.stack([self._sound(each) for each in latents.float()])
        return waveform if samples is None else cut(waveform, samples, hop_samples=self.hop_samples)

    def fingerprint(self) -> str:
        """SHA-256 of the parameters."""
        parameters = f"logpower {self.sample_rate_hz} {self.hop_samples} {self.dim} {FLOOR}"
        return hashlib.sha256(parameters.encode()).hexdigest()

    def to(self, device: torch.device | str) -> "LogPowerCodec":
        """Itself: it computes where the waveform is."""
        return self

    def _sound(self, latents: Float[Tensor, "dim frames"]) -> Float[Tensor, " samples"]:
        """Griffin-Lim at twice the frames, since it needs more overlap than an MDCT has.

        Bin b of a window of two hops lies between bands b - 1 and b, window j of half a hop between or on two frames.
        """
        bins = _between(latents, 0)
        halfway = _between(bins, 1)
        pairs = rearrange([halfway[:, :-1], bins], "two bins frames -> bins (frames two)")
        power = (torch.cat([pairs, halfway[:, -1:]], 1).exp() - FLOOR).clamp_min_(0) * _STFT_POWER
        power = torch.nn.functional.pad(power, (0, 0, 0, self.hop_samples - self.dim))
        return griffin_lim(power, n_fft=2 * self.hop_samples, hop=self.hop_samples // 2)


def add_powers(latents: Float[Tensor, "sources batch dim frames"]) -> Float[Tensor, "batch dim frames"]:
    """The composition operator `power`: latents of sources, not standardised, -> about those of their sum."""
    return latents.logsumexp(dim=0)


def separated(
    latents: Float[Tensor, "sources batch dim frames"], mixture: Float[Tensor, "batch samples"]
) -> Float[Tensor, "sources batch samples"]:
    """Waveforms of the sources with these latents, not standardised, which sum to the mixture.

    Each takes its share of the power from every band of the mixture, and keeps the mixture's phase. Latents of another
    width are stretched over the same range of bands; above it the highest band's shares hold.
    """
    bands = mdct(mixture, HOP_SAMPLES)
    masked = _shares(latents) * bands
    flat = inverse_mdct(rearrange(masked, "sources batch bands frames -> (sources batch) bands frames"))
    waveforms = rearrange(flat, "(sources batch) samples -> sources batch samples", sources=len(latents))
    return waveforms[..., : mixture.shape[-1]]


def _shares(latents: Float[Tensor, "sources batch dim frames"]) -> Float[Tensor, "sources batch bands frames"]:
    shares = rearrange(latents.softmax(dim=0), "sources batch dim frames -> (sources batch) frames dim")
    if shares.shape[-1] != BANDS:
        shares = torch.nn.functional.interpolate(shares, size=BANDS, mode="linear")
    shares = torch.nn.functional.pad(shares, (0, HOP_SAMPLES - BANDS), mode="replicate")
    return rearrange(shares, "(sources batch) frames bands -> sources batch bands frames", sources=len(latents))


def _between(values: Float[Tensor, "dim frames"], axis: int) -> Float[Tensor, "more_dim more_frames"]:
    """Means of neighbours along an axis, the ends kept: one more than there were."""
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
    return (torch.cat([first, values], axis) + torch.cat([values, last], axis)) / 2
