"""Latents of frozen codecs, a vector every 320 samples at 24 kHz; `codec` alone lists the contracts.

    sonograph build nsynth --root data/nsynth --out datasets/nsynth --features codec:linear codec:logpower
    sonograph add-feature DATASET codec:encodec_24khz@facebook/encodec_24khz

Of a network there are the latents as its decoder takes them, `_continuous` before they are quantised, `_codes`, and of
a DAC `_projected`: 96, 256 or 72 numbers a frame instead of 1024, before they are quantised, from which it decodes.

Stored as float16 frame by frame, or as int16 for codes. What has a closed form is computed in float64, so that rounding
is all of its error: 2^-11 of a value, and 2^-8 of a natural logarithm of power, a sixtieth of a decibel.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards.codecs.codec import CodecUnavailable, LatentCodec, hops
from shards.codecs.linear import HOP_SAMPLES, SAMPLE_RATE_HZ, Fit, Kind, LinearCodec, Moments, fitted, moments, open_fit
from shards.codecs.logpower import FLOOR, LogPowerCodec
from shards.codecs.neural import Latent, NeuralCodec, open_neural, read_shape
from shards.example import Clip
from shards.pretrained import Weights, WeightsMissing, resolve
from shards.problem import UsageProblem
from shards.spectrum import one_core_each
from shards.words import nearest

_HALF = np.finfo(np.float16)
_HALF_ERROR = {"relative_error": 2.0**-11, "absolute_error": 2.0**-25}  # below 2^-14 it is the second that holds
_LOG_LIMIT, _LOG_ERROR = 16.0, {"absolute_error": 2.0**-8}
_GPU_CLIPS = 16


@dataclass(frozen=True)
class Latents:
    """Latents of one codec. It carries how to open the codec, not the codec: workers open it once each."""

    name: str
    sample_rate_hz: int
    hop_samples: int
    parameters: Mapping[str, object]
    """What the contract says beside rate and hop."""
    opener: Callable[[str], LatentCodec] | None = field(compare=False)
    """The codec on a device; None: closed, since its weights are not given."""
    weights: Weights | None = None
    device: str = "cpu"
    suffix: str = "npy"

    @property
    def column(self) -> str:
        return f"codec-{self.name}"

    @property
    def word(self) -> str:
        return f"codec:{self.name}"

    @property
    def contract(self) -> Mapping[str, object]:
        return _contract(self, self.parameters, self.weights.stated if self.weights else None)

    def frames(self, samples: int) -> int:
        return hops(samples, self.hop_samples)

    def to(self, device: str) -> "Latents":
        """The same latents computed elsewhere: the same numbers but for rounding."""
        return replace(self, device=device)

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (dim, frames), frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip beyond what is stored, and UsageProblem when no weights were given.
        """
        return _stored(self, self.opened(), clips)

    def restore(self, stored: Tensor) -> Tensor:
        """Latents as stored -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """What the codec decodes; None when no weights were given."""
        return None if self.opener is None else _decoded(self.opened(), stored)

    def opened(self) -> LatentCodec:
        """The codec itself. Raises UsageProblem for a closed feature."""
        if self.opener is None:
            hub_id = _published(self.name)[0].hub_id
            raise UsageProblem(
                f"{self.word} needs weights and none were given, so nothing can be encoded or decoded. Pass a folder "
                f"with config.json and model.safetensors, or a hub id: {self.word}@{hub_id}. Without them there are "
                "codec:linear, which is fitted on the corpus, and codec:low128."
            )
        return self.opener(self.device)


@dataclass(frozen=True)
class LinearLatents:
    """Latents of the linear codec, which is fitted on the corpus that it encodes."""

    name: str = "linear"
    kind: Kind = "low96+klt32"
    compand: float = 1.0
    fit: Fit | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ
    suffix: str = "npy"

    @property
    def column(self) -> str:
        return f"codec-{self.name}"

    @property
    def word(self) -> str:
        return f"codec:{self.name}"

    @property
    def contract(self) -> Mapping[str, object]:
        weights = None
        if self.fit:
            source = f"fitted on {self.fit.clips} clips, {self.fit.frames} frames"
            weights = {"sha256": self.opened().fingerprint(), "source": source}
        return _contract(self, _linear_parameters(self.kind, self.compand), weights)

    @property
    def hop_samples(self) -> int:
        return HOP_SAMPLES

    @property
    def is_fitted(self) -> bool:
        return self.fit is not None

    def frames(self, samples: int) -> int:
        return hops(samples, HOP_SAMPLES)

    def to(self, device: str) -> "LinearLatents":
        """Itself: reading a clip takes longer than this on any device."""
        return self

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (dim, frames), float16, frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip beyond float16, and UsageProblem before the codec is fitted.
        """
        return _stored(self, self.opened(), clips)

    def restore(self, stored: Tensor) -> Tensor:
        """Latents, float16 -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """The adjoint's sound; None before the codec is fitted."""
        return _decoded(self.opened(), stored) if self.fit else None

    def moments(self, clips: Sequence[Clip]) -> Moments:
        """What some clips contribute to the fit; one clip after the other."""
        return moments((_mono(clip, self.sample_rate_hz) for clip in clips), self.kind)

    def fitted(self, parts: Sequence[Moments]) -> "LinearLatents":
        """The open feature. Raises DataProblem when all clips are silent."""
        return replace(self, fit=fitted(parts, self.kind))

    def save(self, path: Path) -> None:
        """Write the fit; `codec:linear@FILE.npz` opens it."""
        self.opened()
        assert self.fit is not None
        self.fit.save(path)

    def opened(self) -> LinearCodec:
        """The codec itself. Raises UsageProblem before it is fitted."""
        if self.fit is None:
            raise UsageProblem(
                f"{self.word} is not fitted yet, so nothing can be encoded or decoded. A build fits it on its training "
                f"split; or pass such a fit, {self.word}@FILE.npz, or take codec:low128, which needs none."
            )
        return LinearCodec(self.kind, self.fit, self.compand)


@dataclass(frozen=True)
class Published:
    """A codec whose weights are published, and what they must be."""

    hub_id: str
    sample_rate_hz: int
    hop_samples: int


_NEURAL = {
    "encodec_24khz": Published("facebook/encodec_24khz", 24_000, 320),
    "dac_16khz": Published("descript/dac_16khz", 16_000, 320),
    "dac_24khz": Published("descript/dac_24khz", 24_000, 320),
    "dac_44khz": Published("descript/dac_44khz", 44_100, 512),
}
_LATENTS: Mapping[str, Latent] = {"_codes": "codes", "_continuous": "continuous", "_projected": "projected"}
_FITTED = {"linear": LinearLatents(), "linear_c06": LinearLatents("linear_c06", compand=0.6)}
_CLOSED_FORM = ("logpower", "low128", "full320")
_KINDS = [(name, end) for end in _LATENTS for name in _NEURAL if name.startswith("dac") or end != "_projected"]
CONTRACTS = (*_FITTED, *_CLOSED_FORM, *_NEURAL, *(f"{name}{end}" for name, end in _KINDS))


def load(contract: str, weights: str | None = None, *, accept_licence: str = "") -> Latents | LinearLatents:
    """The codec of that name, closed when it needs weights and none are named; named ones are opened at once.

    Raises UsageProblem for another word, CodecUnavailable for weights that are not there, and what `resolve` raises.
    """
    if contract not in CONTRACTS:
        raise UsageProblem(
            f"codec has no contract '{contract}', so nothing was computed. "
            + (nearest(contract, CONTRACTS) if contract else f"Choose one: codec:{', codec:'.join(CONTRACTS)}.")
        )
    if contract in _FITTED:
        return _FITTED[contract] if weights is None else _linear(_FITTED[contract], Path(weights).expanduser())
    if contract not in _CLOSED_FORM:
        return _neural(contract, weights, accept_licence)
    if weights is not None:
        raise UsageProblem(f"codec:{contract} has no weights, so '@{weights}' means nothing. Pass codec:{contract}.")
    return _closed_form(contract)


def _closed_form(name: str) -> Latents:
    if name == "logpower":
        parameters = {"bands": 128, "floor": FLOOR, "stored": "ln(power + floor)", "dtype": "float16", **_LOG_ERROR}
        return Latents(name, SAMPLE_RATE_HZ, HOP_SAMPLES, parameters, partial(_on_any, LogPowerCodec()))
    codec = LinearCodec("low128" if name == "low128" else "full320")
    return Latents(name, SAMPLE_RATE_HZ, HOP_SAMPLES, _linear_parameters(codec.kind, 1.0), partial(_on_any, codec))


def _linear_parameters(kind: Kind, compand: float) -> dict[str, object]:
    return {"kind": kind, "compand": compand, "stored": "latents", "dtype": "float16", **_HALF_ERROR}


def _linear(closed: LinearLatents, path: Path) -> LinearLatents:
    fit = open_fit(path)
    if fit.kind != closed.kind:
        raise UsageProblem(
            f"{path} is a fit of kind {fit.kind}, and {closed.word} is {closed.kind}, so it does not serve here. Pass "
            "one that a build with that word wrote."
        )
    return replace(closed, fit=fit)


def _neural(name: str, weights: str | None, accept_licence: str) -> Latents:
    published, latent = _published(name)
    stored = {"dtype": "int16", "absolute_error": 0.0} if latent == "codes" else {"dtype": "float16", **_HALF_ERROR}
    rate_hz, hop = published.sample_rate_hz, published.hop_samples
    closed = Latents(name, rate_hz, hop, {"latent": latent, "stored": "latents", **stored}, opener=None)
    if weights is None:
        return closed
    try:
        found = resolve(weights, accept_licence=accept_licence)
    except WeightsMissing as error:
        raise CodecUnavailable(
            f"{error} Without weights there are codec:linear, which is fitted on the corpus, and codec:low128."
        ) from error
    shape = read_shape(found.folder)
    if (shape.sample_rate_hz, shape.hop_samples) != (rate_hz, hop):
        raise UsageProblem(
            f"{found.folder} holds a codec of {shape.sample_rate_hz:,} Hz and {shape.hop_samples} samples a frame, but "
            f"{closed.word} has {rate_hz:,} Hz and {hop}. Nothing was computed; pass weights like {published.hub_id}."
        )
    _network_on(found, "cpu")
    return replace(closed, weights=found, opener=partial(_neural_codec, found, latent))


def _published(name: str) -> tuple[Published, Latent]:
    """The codec of a contract, and what is kept of it."""
    end = next((end for end in _LATENTS if name.endswith(end)), "")
    return _NEURAL[name.removesuffix(end)], _LATENTS.get(end, "dequantised")


def _neural_codec(weights: Weights, latent: Latent, device: str) -> LatentCodec:
    return replace(_network_on(weights, device), latent=latent)


@lru_cache(maxsize=2)
def _network_on(weights: Weights, device: str) -> NeuralCodec:
    weights.check()
    return open_neural(weights).to(device)


def _on_any(codec: LatentCodec, device: str) -> LatentCodec:
    return codec.to(device)


# What all have in common


def _contract(
    feature: Latents | LinearLatents, parameters: Mapping[str, object], weights: Mapping[str, object] | None
) -> Mapping[str, object]:
    return {
        "feature": "codec",
        "codec": feature.name,
        "sample_rate_hz": feature.sample_rate_hz,
        "hop_samples": feature.hop_samples,
        "channels": "mean",
        "array": "(dim, frames), frame-major",
        **parameters,
        **({} if weights is None else {"weights": weights}),
    }


def _stored(feature: Latents | LinearLatents, codec: LatentCodec, clips: Sequence[Clip]) -> list[np.ndarray]:
    """One after the other on a CPU, where no batch may decide the last bits; on a GPU clips of one length together."""
    waveforms = [_mono(clip, feature.sample_rate_hz) for clip in clips]
    if isinstance(codec, NeuralCodec) and codec.device != "cpu":
        return [array for alike in _alike(waveforms) for array in _encoded(codec, alike)]
    return one_core_each(lambda waveform: _encoded(codec, [waveform])[0], waveforms)


def _mono(clip: Clip, sample_rate_hz: int) -> np.ndarray:
    assert clip.sample_rate_hz == sample_rate_hz and len(clip.waveform) == 1
    return clip.waveform[0]


def _alike(waveforms: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for _, same in groupby(waveforms, key=len):
        alike = list(same)
        yield from (alike[begin : begin + _GPU_CLIPS] for begin in range(0, len(alike), _GPU_CLIPS))


def _encoded(codec: LatentCodec, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    batch = torch.from_numpy(np.stack(waveforms))
    latents = codec.encode(batch if isinstance(codec, NeuralCodec) else batch.double())
    dtype, limit = _storage(codec)
    if not latents.abs().amax() <= limit:
        raise ValueError(f"it is too loud to be stored: its peak is {batch.abs().amax():,.0f} times full scale")
    # numpy rounds float64 once, where torch goes through float32 and so leaves the bound by a hair.
    return [array.T for array in latents.mT.contiguous().cpu().numpy().astype(dtype)]


def _storage(codec: LatentCodec) -> tuple[type[np.generic], float]:
    """The stored type and the largest size within its error bound."""
    if isinstance(codec, NeuralCodec) and codec.latent == "codes":
        return np.int16, float(np.iinfo(np.int16).max)
    return np.float16, _LOG_LIMIT if isinstance(codec, LogPowerCodec) else float(_HALF.max)


def _decoded(codec: LatentCodec, stored: np.ndarray | bytes) -> Clip:
    assert isinstance(stored, np.ndarray)
    waveform = codec.decode(torch.from_numpy(np.ascontiguousarray(stored)).float()[None])
    return Clip(waveform.cpu().numpy(), codec.sample_rate_hz)
