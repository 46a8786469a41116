"""One ShardTask -> one shard: read, decode, compute, write, with a reason for everything that is left out."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xxhash

from pipelines.corpus import Kind
from pipelines.isolation import PIECE_SECONDS, each, mark_of
from pipelines.plan import Span, Work
from pipelines.recording import Event, Label, Recording
from pipelines.source import Tree, paths_of, read_source
from shards.decode import FULL_SCALE, SILENT_PEAK, DecodeError, clipped_share, decode, probe, resampled
from shards.example import Clip, Example
from shards.feature import Feature, described
from shards.manifest import Rejected, ShardRecord, index_path, read_record, read_table
from shards.problem import DataProblem
from shards.writer import write_column, write_shard

_KEPT_SOURCES, _KEPT_BYTES = 32, 256 << 20  # of which the next span may be a piece: the stems of a track


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


def build_shard(work: Work, *, recipe: Recipe) -> ShardRecord:
    """Decode, compute and write one shard, or columns that it lacks.

    Every example is made on one thread, so that the bytes do not depend on who does it. A recording whose decoder kills
    or hangs its process is rejected for it when Ray runs the task again. Raises DataProblem when columns are to be
    added and a recording is not what it was.
    """
    recipe = replace(recipe, features=tuple(one for one in recipe.features if one.column in work.columns))
    task, columns = work.task, {feature.column: described(feature) for feature in recipe.features}
    if work.has_index:
        return _add_columns(work, recipe, columns)
    outcomes = _made(work, task.spans, ExampleMaker(recipe), recipe)
    return write_shard(
        work.folder,
        task.number,
        task=task.digest,
        columns=columns,
        labels=recipe.labels,
        events=recipe.events,
        examples=[outcome for outcome in outcomes if isinstance(outcome, Example)],
        rejected=[outcome for outcome in outcomes if isinstance(outcome, Rejected)],
    )


def _add_columns(work: Work, recipe: Recipe, columns: Mapping[str, Mapping[str, object]]) -> ShardRecord:
    """Columns for exactly the examples that the index lists; one of which a feature makes nothing gets no frames."""
    folder, task = work.folder, work.task
    index = read_table(folder / index_path(task.number), ["index", "source_digest"]).to_pylist()
    digests = {row["index"]: row["source_digest"] for row in index}
    planned = [span for span in task.spans if span.index in digests]
    outcomes = _made(work, planned, ExampleMaker(recipe, has_rows=True), recipe)
    for outcome in outcomes:
        if isinstance(outcome, Rejected):
            raise DataProblem(_changed(outcome.path, outcome.reason, folder))
        if outcome.source_digest != digests[outcome.index]:
            raise DataProblem(_changed(outcome.source_path, "its bytes are others", folder))
    for column, entry in columns.items():
        write_column(folder, task.number, column, task=task.digest, entry=entry, examples=outcomes)  # type: ignore[arg-type]
    record = read_record(folder, task.number)
    assert record is not None
    return record


def _changed(path: str, how: str, folder: Path) -> str:
    return (
        f"{path} is not what it was when {folder} was built: {how}. A column of it would belong to another sound than "
        "the columns beside it, so this shard got none. Restore the recording, or build the dataset again in another "
        "folder."
    )


def _made(work: Work, planned: Sequence[Span], maker: "ExampleMaker", recipe: Recipe) -> list[Example | Rejected]:
    """An outcome for each span, in the order of their indices."""
    tree = Tree(recipe.root, recipe.indexes)
    outcomes = each(
        maker,
        sorted(planned, key=lambda span: tree.order(span.recording.path)),
        mark=mark_of(work.folder, f"{work.task.number:06d}"),
        given_up=lambda span, why: Rejected(span.index, span.recording.path, "decode", why),
        piece_seconds=recipe.piece_seconds,
    )
    return sorted(outcomes, key=lambda outcome: outcome.index)


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
        recording = self.recipe.annotated(span.recording) if self.recipe.annotated else span.recording
        rejected = partial(Rejected, span.index, recording.path)
        if recording.problem:
            return rejected("listing", recording.problem)
        try:
            sources = [self._read(path) for path in paths_of(recording)]
        except OSError as error:
            return rejected("read", f"{error.strerror}")
        except DataProblem as problem:
            return rejected("read", str(problem))
        try:
            clip = _mean(_decoded(source, span) for source in sources)
            _check_clip(clip, self.recipe)
            return self._example(replace(span, recording=recording), clip, sources)
        except DecodeError as error:
            return rejected("decode", str(error))
        except ValueError as error:
            return rejected("feature", str(error))

    def _example(self, span: Span, clip: Clip, sources: Sequence[bytes]) -> Example:
        recording = span.recording
        first_sample = f"@{round(span.start_seconds * clip.sample_rate_hz)}" if span.is_piece else ""
        return Example(
            index=span.index,
            key=f"{recording.recording_id}{first_sample}",
            source_path=recording.path,
            source_digest=_digest(sources),
            start_seconds=span.start_seconds,
            seconds=clip.seconds,
            labels={**recording.labels, **(self.recipe.measure(clip) if self.recipe.measure else {})},
            events=_events_within(recording, span.start_seconds, clip.seconds),
            clipped_share=clipped_share(clip) if _peak(clip) >= FULL_SCALE else 0.0,
            arrays={feature.column: self._stored(feature, clip) for feature in self.recipe.features},
        )

    def _stored(self, feature: Feature, clip: Clip) -> np.ndarray | bytes:
        """What the feature makes of a clip, alone: a batch would make the bytes depend on its other members."""
        rate_hz = feature.sample_rate_hz
        try:
            return feature([clip if rate_hz is None else resampled(clip, rate_hz)])[0]
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


def _check_clip(clip: Clip, recipe: Recipe) -> None:
    wanted_hz = recipe.sample_rate_hz
    if wanted_hz is not None and clip.sample_rate_hz != wanted_hz:
        raise DecodeError(f"its rate is {clip.sample_rate_hz:,} Hz where the corpus has {wanted_hz:,} Hz")
    if not _peak(clip) >= SILENT_PEAK:
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
