"""Latents of frozen codecs, a vector every 320 samples at 24 kHz; `codec` alone lists the contracts.

    sonograph build nsynth --root data/nsynth --out datasets/nsynth --features codec:linear codec:logpower
    sonograph add-feature DATASET codec:encodec_24khz@facebook/encodec_24khz

Of a network there are the latents as its decoder takes them, `_continuous` before they are quantised, `_codes`, and of
a DAC `_projected`: 96, 256 or 72 numbers a frame instead of 1024, before they are quantised, from which it decodes; and
`codec:dac_44khz,project=128@WEIGHTS` keeps 128 axes, fitted on the corpus, of its latents.

Stored as float16 frame by frame, or as int16 for codes. What has a closed form is computed in float64, so that rounding
is all of its error: 2^-11 of a value, and 2^-8 of a natural logarithm of power, a sixtieth of a decibel.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from shards.codecs import projection
from shards.codecs.codec import CodecUnavailable, LatentCodec, hops
from shards.codecs.klt import Moments, write_fit
from shards.codecs.linear import HOP_SAMPLES, SAMPLE_RATE_HZ, LinearCodec
from shards.codecs.linear_latents import LinearLatents, linear_parameters
from shards.codecs.logpower import FLOOR, LogPowerCodec
from shards.codecs.neural import Latent, NeuralCodec, open_neural, read_shape
from shards.codecs.projection import ProjectedCodec, Projection
from shards.codecs.storage import HALF_ERROR, decoded, mono, stated, stored
from shards.example import Clip
from shards.pretrained import Weights, WeightsMissing, resolve
from shards.problem import UsageProblem
from shards.words import nearest

_LOG_ERROR = {"absolute_error": 2.0**-8}


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
        weights = self.weights.stated if self.weights else None
        return stated(self.name, self.sample_rate_hz, self.hop_samples, self.parameters, weights)

    def frames(self, samples: int) -> int:
        return hops(samples, self.hop_samples)

    def to(self, device: str) -> "Latents":
        """The same latents computed elsewhere: the same numbers but for rounding."""
        return replace(self, device=device)

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (dim, frames), frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip beyond what is stored, and UsageProblem when no weights were given.
        """
        return stored(self.opened(), clips)

    def restore(self, stored: Tensor) -> Tensor:
        """Latents as stored -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """What the codec decodes; None when no weights were given."""
        return None if self.opener is None else decoded(self.opened(), stored)

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
class ProjectedLatents:
    """Latents of a DAC on `count` axes, which are fitted on the corpus that is encoded."""

    network: Latents
    """Of the DAC itself; closed where only what is fitted is given, which restores but neither encodes nor decodes."""
    count: int
    sample_rate_hz: int
    fit: Projection | None = None
    suffix: str = "npy"
    most_clips: int = (
        512  # some hundred thousand frames, of which there must be many more than the latents have numbers
    )

    @property
    def column(self) -> str:
        return f"{self.network.column}-project_{self.count}"

    @property
    def word(self) -> str:
        return f"{self.network.word},project={self.count}"

    @property
    def contract(self) -> Mapping[str, object]:
        name, hop = self.word.partition(":")[2], self.network.hop_samples
        parameters = {**self.network.parameters, "project": self.count}
        return stated(name, self.sample_rate_hz, hop, parameters, self._weights())

    @property
    def is_fitted(self) -> bool:
        return self.fit is not None

    def frames(self, samples: int) -> int:
        return self.network.frames(samples)

    def to(self, device: str) -> "ProjectedLatents":
        """The same latents computed elsewhere: the same numbers but for rounding."""
        return replace(self, network=self.network.to(device))

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Arrays (count, frames), float16, frame-major. Clips must have the contract's rate.

        Raises ValueError for a clip beyond float16, and UsageProblem without weights or before it is fitted.
        """
        return stored(self.opened(), clips)

    def restore(self, stored: Tensor) -> Tensor:
        """Latents on the axes, float16 -> float32."""
        return stored.float()

    def preview(self, stored: np.ndarray | bytes) -> Clip | None:
        """What the network decodes of them; None where it or the fit is not given."""
        return None if self.network.opener is None or self.fit is None else decoded(self.opened(), stored)

    def moments(self, clips: Sequence[Clip]) -> Moments:
        """What some clips contribute to the fit; one clip after the other."""
        return projection.moments((mono(clip, self.sample_rate_hz) for clip in clips), self._opened_network())

    def fitted(self, parts: Iterable[Moments]) -> "ProjectedLatents":
        """The open feature. Raises DataProblem when all clips are silent."""
        return replace(self, fit=projection.fitted(parts, self._opened_network(), self.count))

    def with_fit(self, path: Path) -> "ProjectedLatents":
        """The feature by what was saved. Raises DataProblem when that is none, UsageProblem when of other weights."""
        fit = projection.open_projection(path, self.count)
        if self.network.opener is not None and fit.network != self._opened_network().fingerprint():
            raise UsageProblem(
                f"{path} was fitted on latents of other weights than those given for {self.word}, so it does not serve "
                "here. Pass the weights of the build that wrote it."
            )
        return replace(self, fit=fit)

    def save(self, path: Path) -> None:
        """Write the fit; `WORD@WEIGHTS@FILE.npz` opens it."""
        self._require_fit()
        write_fit(path, self.fit)

    def opened(self) -> ProjectedCodec:
        """The codec itself. Raises UsageProblem for one without weights, or that is not fitted."""
        network = self._opened_network()
        return ProjectedCodec(network, self._require_fit())

    def _opened_network(self) -> NeuralCodec:
        network = self.network.opened()
        assert isinstance(network, NeuralCodec)
        return network

    def _require_fit(self) -> Projection:
        if self.fit is None:
            raise UsageProblem(
                f"{self.word} is not fitted yet, so nothing can be encoded or decoded. A build fits it on its training "
                f"split; or pass such a fit behind the weights, {self.word}@WEIGHTS@FILE.npz."
            )
        return self.fit

    def _weights(self) -> Mapping[str, object] | None:
        if self.fit is None:
            return None
        network = self.network.weights.stated if self.network.weights else {"source": "a network"}
        fitted_on = f"fitted on {self.fit.clips} clips, {self.fit.frames} frames, {self.fit.kept_share:.2%} of energy"
        return {**network, "sha256": self.fit.fingerprint(), "source": f"{network['source']}, {fitted_on}"}


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
_PROJECTED = tuple(f"{name}{end}" for end in ("_continuous", "") for name in _NEURAL if name.startswith("dac"))
_MOST_AXES = 1024  # numbers of a frame of each DAC
CONTRACTS = (*_FITTED, *_CLOSED_FORM, *_NEURAL, *(f"{name}{end}" for name, end in _KINDS))


def load(
    contract: str, weights: str | None = None, *, accept_licence: str = ""
) -> Latents | LinearLatents | ProjectedLatents:
    """The codec of that name, closed when it needs weights and none are named; named ones are opened at once.

    Raises UsageProblem for another word, CodecUnavailable for weights that are not there, and what `resolve` raises.
    """
    name, comma, count = contract.partition(",project=")
    if comma and name in _PROJECTED:
        return _on_axes(name, count, weights, accept_licence)
    if contract not in CONTRACTS:
        raise UsageProblem(
            f"codec has no contract '{contract}', so nothing was computed. "
            + (nearest(contract, CONTRACTS) if contract else f"Choose one: codec:{', codec:'.join(CONTRACTS)}.")
            + f" Fewer numbers of a DAC: codec:{_PROJECTED[-1]},project=128."
        )
    if contract in _FITTED:
        return _FITTED[contract] if weights is None else _FITTED[contract].with_fit(Path(weights).expanduser())
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
    return Latents(name, SAMPLE_RATE_HZ, HOP_SAMPLES, linear_parameters(codec.kind, 1.0), partial(_on_any, codec))


def _neural(name: str, weights: str | None, accept_licence: str) -> Latents:
    published, latent = _published(name)
    stored = {"dtype": "int16", "absolute_error": 0.0} if latent == "codes" else {"dtype": "float16", **HALF_ERROR}
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


def _on_axes(name: str, count: str, weights: str | None, accept_licence: str) -> ProjectedLatents:
    """Behind the weights of the network, or in their place, may stand a fit: FILE.npz."""
    if not (count.isascii() and count.isdigit() and 0 < int(count) < _MOST_AXES):
        raise UsageProblem(
            f"codec:{name},project={count} is no number of axes, so nothing was computed. Give one from 1 to "
            f"{_MOST_AXES - 1:,}, the network having {_MOST_AXES:,} numbers a frame: codec:{name},project=128."
        )
    given, _, fit = (weights or "").rpartition("@") if (weights or "").endswith(".npz") else (weights, "", "")
    network = _neural(name, given or None, accept_licence)
    opened = ProjectedLatents(network, int(count), network.sample_rate_hz)
    if network.opener is not None and (dim := network.opened().dim) <= opened.count:
        raise UsageProblem(
            f"{opened.word} asks for as many axes as the network of {given} has numbers a frame, {dim}, so nothing was "
            f"computed. Ask for fewer, or take codec:{name}."
        )
    return opened.with_fit(Path(fit).expanduser()) if fit else opened


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
