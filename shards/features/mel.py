"""Power mel spectrograms; `mel` alone means the contract `mel:myna`, and `mel:hop_samples=240,bands=64` changes it.

Stored as float16 of the square root of the power, frame by frame: power overflows float16 at a peak of 1.65, its root
never does, and squaring on load costs a relative error of at most 2^-10 in the normal range of float16. On a CPU each
clip by itself, since what several take at once leaves the processor's cache; on a GPU clips of one length together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shards.example import Clip
from shards.problem import UsageProblem
from shards.spectrum import MelFilters, griffin_lim, linear_power, mel_basis, one_core_each, power_mel
from shards.store import digest_of
from shards.words import nearest

_GPU_CLIPS = 64
_COLUMN_LETTERS = 64  # a plain tar has 100 for the whole name of a member
_LARGEST_ROOT = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Mel:
    """Parameters of a mel spectrogram; rates in Hz, windows and hops in samples of that rate."""

    sample_rate_hz: int = 16_000
    fft_samples: int = 2048
    hop_samples: int = 512
    bands: int = 128
    low_hz: float = 0.0
    high_hz: float = 8_000.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney", "none"] = "slaney"
    last_frame: Literal["kept", "dropped"] = "kept"
    name: str = "myna"
    suffix: str = "npy"
    device: str = field(default="cpu", compare=False)

    @property
    def word(self) -> str:
        return f"mel:{self.name}"

    @property
    def column(self) -> str:
        """`mel` for Myna's, else with the contract's name in letters that are safe in every file name."""
        if self.name == "myna":
            return "mel"
        safe = f"mel-{self.name}".replace("=", "_").replace(",", "-").replace(".", "p")
        return safe if len(safe) <= _COLUMN_LETTERS else f"mel-{digest_of(dict(self.contract))[:16]}"

    @property
    def contract(self) -> Mapping[str, object]:
        parameters = {name: getattr(self, name) for name in _RANGES | _CHOICES}
        if self.last_frame == "kept":
            del parameters["last_frame"]  # unsaid: columns older than this choice keep their fingerprint
        return {
            "feature": "mel",
            **parameters,
            "window": "hann, periodic",
            "centre": "reflect",
            "power": 2.0,
            "channels": "mean",
            "array": "(bands, frames), frame-major",
            "stored": "sqrt(power)",
            "dtype": "float16",
            "relative_error": 2.0**-10,
        }

    @property
    def filters(self) -> MelFilters:
        return MelFilters(
            self.sample_rate_hz, self.fft_samples, self.bands, self.low_hz, self.high_hz, self.mel_scale, self.norm
        )

    def frames(self, samples: int) -> int:
        return 1 + samples // self.hop_samples - (self.last_frame == "dropped")

    def to(self, device: str) -> "Mel":
        """The same mel computed elsewhere: `cuda` gives the same numbers but for float32's rounding."""
        return replace(self, device=device)

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (bands, frames), float16 of sqrt(power), frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip no longer than half a window, which cannot be padded by reflection, and for one
        whose root of power is beyond float16, some hundred times full scale.
        """
        if self.device == "cpu":  # any other name, even cpu:0, takes clips together
            return one_core_each(lambda clip: self._stored([clip])[0], clips)
        return [array for together in _alike(clips) for array in self._stored(together)]

    def restore(self, stored: Tensor) -> Tensor:
        """sqrt(power), float16 -> power, float32."""
        return stored.float().square_()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """Sound of about this mel: pseudo-inverse filters, then Griffin-Lim.

        None where windows hardly overlap, and of so few frames that their sound could not be padded by reflection.
        """
        assert isinstance(stored, np.ndarray)
        samples = (stored.shape[1] - 1) * self.hop_samples
        if 2 * self.hop_samples > self.fft_samples or samples <= self.fft_samples // 2:
            return None
        power = linear_power(self.restore(torch.from_numpy(np.array(stored))), self.filters)
        waveform = griffin_lim(power, self.fft_samples, self.hop_samples)
        return Clip(waveform.numpy()[None], self.sample_rate_hz)

    def power(self, waveform: Tensor) -> Tensor:
        """(channels, samples) at the contract's rate -> mel power (channels, frames, bands), before storage."""
        samples = waveform.shape[1]
        if samples <= self.fft_samples // 2 or self.frames(samples) < 1:
            raise ValueError(f"it is too short for a mel: no longer than half a window of {self.fft_samples} samples")
        return power_mel(waveform, self.filters, hop_samples=self.hop_samples)[:, : self.frames(samples)]

    def _stored(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        assert all(clip.sample_rate_hz == self.sample_rate_hz and len(clip.waveform) == 1 for clip in clips)
        each = [torch.from_numpy(clip.waveform) for clip in clips]
        waveforms = torch.cat(each) if len(each) > 1 else each[0]
        roots = self.power(waveforms.to(self.device)).sqrt_()
        if not roots.amax() <= _LARGEST_ROOT:
            raise ValueError(f"it is too loud for a mel: its peak is {waveforms.abs().amax():,.0f} times full scale")
        return [array.T for array in roots.half().cpu().numpy()]


def _alike(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    """Neighbours of one length, to be computed together."""
    for _, same in groupby(clips, key=lambda clip: clip.waveform.shape[1]):
        alike = list(same)
        yield from (alike[begin : begin + _GPU_CLIPS] for begin in range(0, len(alike), _GPU_CLIPS))


_RANGES: dict[str, tuple[float, float]] = {
    "sample_rate_hz": (1_000, 384_000),
    "fft_samples": (16, 65_536),
    "hop_samples": (1, 65_536),
    "bands": (1, 1_024),
    "low_hz": (0.0, 192_000.0),
    "high_hz": (1.0, 192_000.0),
}
_CHOICES = {"mel_scale": ("slaney", "htk"), "norm": ("slaney", "none"), "last_frame": ("kept", "dropped")}

MYNA = Mel()  # Myna's published preprocessing, see the README's table of contracts
VIT1D = Mel(fft_samples=1024, norm="none", name="vit1d")  # high_hz is half the rate: 11,025 Hz would leave bands empty
MUSICFM = Mel(
    sample_rate_hz=24_000,
    hop_samples=240,
    high_hz=12_000.0,
    mel_scale="htk",
    norm="none",
    last_frame="dropped",  # 100 frames a second
    name="musicfm",
)
_CONTRACTS = {mel.name: mel for mel in (MYNA, VIT1D, MUSICFM)}


def load(contract: str, weights: str | None = None) -> Mel:
    """`myna` (also when empty), `vit1d`, `musicfm`, or one of them changed: `bands=64`, `vit1d,bands=64,low_hz=20`.

    Raises UsageProblem for unknown words, values out of range, parameters that do not fit together, and weights.
    """
    if weights is not None:
        word = f"mel:{contract or 'myna'}"
        raise UsageProblem(f"A mel has no weights, so '@{weights}' means nothing. Nothing was computed; pass {word}")
    first, *rest = contract.split(",")
    named, changes = ("", [first, *rest]) if "=" in first else (first, rest)
    mel = _named(named or "myna")
    changed: dict[str, Any] = {name: value for name, value in map(_parsed, changes) if value != getattr(mel, name)}
    if not changed:
        return mel
    spelled = [f"{name}={_spelled(changed[name])}" for name in sorted(changed)]
    return _checked(replace(mel, **changed, name=",".join([named] * (mel is not MYNA) + spelled)))


def _named(name: str) -> Mel:
    try:
        return _CONTRACTS[name]
    except KeyError:
        raise UsageProblem(
            f"mel has no contract '{name}', so no spectrogram can be computed. {nearest(name, _CONTRACTS)} "
            f"Or change one: mel:bands=64"
        ) from None


def _parsed(change: str) -> tuple[str, int | float | str]:
    """`bands=64` -> its name and value, of the right type and in its range."""
    name, _, text = change.partition("=")
    if name not in _RANGES | _CHOICES:
        raise UsageProblem(
            f"mel has no parameter '{name}', so no spectrogram can be computed. {nearest(name, _RANGES | _CHOICES)}"
        )
    if name in _CHOICES:
        if text in _CHOICES[name]:
            return name, text
        raise UsageProblem(f"{name}={text} is no choice, so no mel can be computed. {nearest(text, _CHOICES[name])}")
    low, high = _RANGES[name]
    try:
        value = type(low)(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        kind = "a number" if isinstance(low, float) else "a whole number"
        raise UsageProblem(
            f"{name}={text} is out of range, so no mel can be computed. Give {kind} from {low:,.0f} to {high:,.0f}."
        )
    return name, value


def _spelled(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _checked(mel: Mel) -> Mel:
    """Itself when its parameters fit together."""
    if mel.fft_samples % 2:
        raise _unfit(mel, f"a window of {mel.fft_samples} samples has no middle", "an even fft_samples")
    if mel.hop_samples > mel.fft_samples:
        raise _unfit(mel, "samples between two windows would be in none", f"hop_samples up to {mel.fft_samples}")
    nyquist_hz = mel.sample_rate_hz / 2
    if not mel.low_hz < mel.high_hz <= nyquist_hz:
        edges = f"from {mel.low_hz:g} to {mel.high_hz:g} Hz there is no band at a rate of {mel.sample_rate_hz:,} Hz"
        raise _unfit(mel, edges, f"low_hz below high_hz, and high_hz up to {nyquist_hz:g}")
    if empty := int((mel_basis(mel.filters).amax(dim=0) == 0).sum()):
        fallen = f"{empty} of {mel.bands} bands would fall between two bins and stay empty"
        raise _unfit(mel, fallen, "fewer bands, more fft_samples or a higher low_hz")
    return mel


def _unfit(mel: Mel, cause: str, remedy: str) -> UsageProblem:
    return UsageProblem(f"{mel.word} cannot be computed: {cause}. Choose {remedy}.")
