"""A planned span -> an example: read, decode, compute, with a reason for everything that is left out."""

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xxhash

from pipelines.corpus import Kind
from pipelines.isolation import PIECE_SECONDS
from pipelines.recording import Event, Label, Recording
from pipelines.source import paths_of, read_source
from pipelines.span import Span
from shards.decode import FULL_SCALE, SILENT_PEAK, DecodeError, clipped_share, decode, probe, resampled
from shards.example import Clip, Example
from shards.feature import Feature
from shards.manifest import Rejected
from shards.problem import DataProblem, EnvironmentProblem

_KEPT_SOURCES, _KEPT_BYTES = 32, 256 << 20  # of which the next span may be a piece: the stems of a track

_OUT_OF_REACH = {errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
_TOO_LARGE = "it needs more memory than there is: pass --span-seconds, fewer --workers, or a machine with more"


@dataclass(frozen=True)
class Recipe:
    """How the spans of a dataset become examples; the same for all its tasks."""

    root: Path
    """Folder of the corpus."""
    labels: Mapping[str, Kind]
    events: Mapping[str, Kind]
    features: tuple[Feature, ...] = ()
    sample_rate_hz: int | None = None
    """The rate that every file must have."""
    annotated: Callable[[Recording], Recording] | None = None
    """Adds events that the listing leaves out, or a problem."""
    measure: Callable[[Clip], Mapping[str, Label]] | None = None
    """Labels that the example's own sound gives."""
    silence_db: float | None = None
    indexes: Path | None = None
    """Folder of what is known of archives."""
    piece_seconds: float = PIECE_SECONDS
    """Time in which a recording must be done."""

    def for_columns(self, columns: Sequence[str]) -> "Recipe":
        """The same with only the features of these columns."""
        return replace(self, features=tuple(one for one in self.features if one.column in columns))


@dataclass(frozen=True)
class Heard:
    """A span as it sounds: mono, at the rate of its source."""

    span: Span
    clip: Clip
    peak: float
    source_digest: str


@dataclass
class ExampleMaker:
    """Spans, one after the other, as examples; keeps the last sources, of which the next span may be another piece."""

    recipe: Recipe
    has_rows: bool = False
    """Whether the examples exist already, so that none can be rejected for what a feature cannot do."""
    _sources: OrderedDict[str, bytes] = field(default_factory=OrderedDict)

    def __call__(self, span: Span) -> Example | Rejected:
        """One span as an example with an array for each feature, or the reason why it is none."""
        torch.set_num_threads(1)
        heard = self.hear(span)
        return heard if isinstance(heard, Rejected) else self.example(heard)

    def hear(self, span: Span) -> Heard | Rejected:
        """A span decoded and checked, or the reason why it cannot be used."""
        recording = self.recipe.annotated(span.recording) if self.recipe.annotated else span.recording
        rejected = partial(Rejected, span.index, recording.path)
        if recording.problem:
            return rejected("listing", recording.problem)
        try:
            sources = [self._read(path) for path in paths_of(recording)]
        except OSError as error:
            _require_reachable(self.recipe.root, error)
            return rejected("read", f"{error.strerror}")
        except DataProblem as problem:
            return rejected("read", str(problem))
        try:
            clip = _mean(_decoded(source, span) for source in sources)
            peak = _peak(clip)
            _check_clip(clip, peak, self.recipe)
        except DecodeError as error:
            return rejected("decode", str(error))
        except MemoryError:
            return rejected("decode", _TOO_LARGE)
        return Heard(replace(span, recording=recording), clip, peak, _digest(sources))

    def example(self, heard: Heard) -> Example | Rejected:
        """What the features make of it, one after the other, or the reason why one makes nothing."""
        try:
            return self.row(heard, {one.column: self.stored(one, heard.clip) for one in self.recipe.features})
        except ValueError as error:
            return Rejected(heard.span.index, heard.span.recording.path, "feature", str(error))
        except MemoryError:
            return Rejected(heard.span.index, heard.span.recording.path, "feature", _TOO_LARGE)

    def row(self, heard: Heard, arrays: Mapping[str, np.ndarray | bytes]) -> Example:
        span, clip, recording = heard.span, heard.clip, heard.span.recording
        first_sample = f"@{round(span.start_seconds * clip.sample_rate_hz)}" if span.is_piece else ""
        return Example(
            index=span.index,
            key=f"{recording.recording_id}{first_sample}",
            source_path=recording.path,
            source_digest=heard.source_digest,
            start_seconds=span.start_seconds,
            seconds=clip.seconds,
            labels={**recording.labels, **(self.recipe.measure(clip) if self.recipe.measure else {})},
            events=_events_within(recording, span.start_seconds, clip.seconds),
            clipped_share=clipped_share(clip) if heard.peak >= FULL_SCALE else 0.0,
            arrays=arrays,
        )

    def stored(self, feature: Feature, clip: Clip) -> np.ndarray | bytes:
        """What the feature makes of a clip, alone: a batch would make the bytes depend on its other members.

        Raises ValueError when it makes nothing of it and the example need not be.
        """
        try:
            return feature([at_rate_of(feature, clip)])[0]
        except ValueError:
            if not self.has_rows:
                raise
            return _nothing(feature)

    def _read(self, path: str) -> bytes:
        if path not in self._sources:
            self._sources[path] = read_source(self.recipe.root, path, self.recipe.indexes)
            while len(self._sources) > 1 and self._is_too_much():
                self._sources.popitem(last=False)
        self._sources.move_to_end(path)
        return self._sources[path]

    def _is_too_much(self) -> bool:
        return len(self._sources) > _KEPT_SOURCES or sum(map(len, self._sources.values())) > _KEPT_BYTES


def _require_reachable(root: Path, error: OSError) -> None:
    """A recording that cannot be read is rejected for good; not so when all of them are out of reach.

    Raises EnvironmentProblem then, which ends the build.
    """
    if error.errno in _OUT_OF_REACH or not (root.is_file() or (root.is_dir() and any(root.iterdir()))):
        raise EnvironmentProblem(
            f"{root} is out of reach while its recordings are read ({error.strerror}), so none of them was rejected "
            "for it. See to the folder, its mount or the limit of open files, on every machine that builds; then "
            "repeat the same command: it continues."
        ) from error


def at_rate_of(feature: Feature, clip: Clip) -> Clip:
    """The clip as the feature wants it."""
    return clip if feature.sample_rate_hz is None else resampled(clip, feature.sample_rate_hz)


def _nothing(feature: Feature) -> np.ndarray | bytes:
    """An array of no frames, in the feature's own shape and dtype."""
    rate_hz = feature.sample_rate_hz or 16_000
    noise = np.random.default_rng(0).standard_normal((1, rate_hz)).astype(np.float32)
    stored = feature([Clip(noise, rate_hz)])[0]
    return stored[..., :0] if isinstance(stored, np.ndarray) else b""


def _decoded(source: bytes, span: Span) -> Clip:
    """The span's piece of a source; where that is a whole video, counted from the segment's start."""
    start, seconds = span.start_seconds, span.seconds
    if (segment := span.recording.segment) and span.recording.is_piece_of(
        probe(source).seconds or decode(source).seconds
    ):
        start, seconds = segment[0] + start, segment[1] - segment[0] if seconds is None else seconds
    return decode(source, start_seconds=start, seconds=seconds)


def _mean(clips: Iterator[Clip]) -> Clip:
    """The mean of the parts of a recording, of which only two are in memory at a time."""
    first = next(clips)
    total, count = first.waveform, 1
    for clip in clips:
        if (clip.waveform.shape, clip.sample_rate_hz) != (first.waveform.shape, first.sample_rate_hz):
            raise DecodeError(
                f"its parts have different lengths or rates: {first.seconds:.3f} s at {first.sample_rate_hz:,} Hz and "
                f"{clip.seconds:.3f} s at {clip.sample_rate_hz:,} Hz"
            )
        total, count = total + clip.waveform, count + 1
    return first if count == 1 else Clip(total / np.float32(count), first.sample_rate_hz)


def _check_clip(clip: Clip, peak: float, recipe: Recipe) -> None:
    wanted_hz = recipe.sample_rate_hz
    if wanted_hz is not None and clip.sample_rate_hz != wanted_hz:
        raise DecodeError(f"its rate is {clip.sample_rate_hz:,} Hz where the corpus has {wanted_hz:,} Hz")
    if not peak >= SILENT_PEAK:
        raise DecodeError(f"it is silent: no amplitude reaches {SILENT_PEAK}")
    if recipe.silence_db is not None:
        rms = float(np.sqrt(np.mean(np.square(clip.waveform, dtype=np.float64))))
        if rms < 10 ** (recipe.silence_db / 20):
            raise DecodeError(f"it is quieter than {recipe.silence_db:g} dB of full scale")


def _peak(clip: Clip) -> float:
    return float(np.maximum(clip.waveform.max(initial=0.0), -clip.waveform.min(initial=0.0)))


def _digest(sources: Sequence[bytes]) -> str:
    digest = xxhash.xxh3_128()
    for source in sources:
        digest.update(source)
    return digest.hexdigest()


def _events_within(recording: Recording, start_seconds: float, seconds: float) -> Mapping[str, list[Event]]:
    end_seconds = start_seconds + seconds
    return {name: list(_cut(events, start_seconds, end_seconds)) for name, events in recording.events.items()}


def _cut(events: Sequence[Event], start_seconds: float, end_seconds: float) -> Iterator[Event]:
    """What happens between two times, relative to the first and ending at the second."""
    for start, end, value in sorted(events, key=lambda event: event[:2]):
        is_instant_inside = start == end and start_seconds <= start < end_seconds
        if is_instant_inside or (start < end_seconds and end > start_seconds and end > start):
            yield max(start, start_seconds) - start_seconds, min(end, end_seconds) - start_seconds, value
