"""One ShardTask -> one shard: read, decode, compute, write, with a reason for everything that is left out."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import xxhash

from pipelines.plan import ShardTask, Span
from shards.decode import DecodeError, decode, resampled
from shards.example import Clip, Example
from shards.feature import Feature
from shards.manifest import Rejected, ShardRecord
from shards.words import module_named
from shards.writer import write_shard

SILENT_PEAK = 1e-4  # below it a clip is one constant to the network (Myna's preprocessing contract)


def build_shard(target: tuple[Path, ShardTask], *, root: Path, corpus: str, features: Sequence[Feature]) -> ShardRecord:
    """Decode, compute and write one shard, in plan order on one thread: so the bytes do not depend on who does it."""
    folder, task = target
    torch.set_num_threads(1)
    layout = module_named(*corpus.rsplit(".", 1))
    outcomes = [build_example(span, root=root, layout=layout, features=features) for span in task.spans]
    made = [outcome for outcome in outcomes if isinstance(outcome, Example)]
    rejected = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    columns = [feature.column for feature in features]
    return write_shard(
        folder, task.number, task=task.digest, columns=columns, labels=layout.LABELS, examples=made, rejected=rejected
    )


def build_example(span: Span, *, root: Path, layout: ModuleType, features: Sequence[Feature]) -> Example | Rejected:
    """One span as an example with an array for each feature, or the reason why it is none."""
    recording = span.recording
    rejected = partial(Rejected, span.index, recording.path)
    if recording.problem:
        return rejected("listing", recording.problem)
    try:
        source = (root / recording.path).read_bytes()
    except OSError as error:
        return rejected("read", f"{error.strerror}")
    try:
        clip = decode(source, start_seconds=span.start_seconds, seconds=span.seconds)
        _check_clip(clip, getattr(layout, "SAMPLE_RATE_HZ", None))
    except DecodeError as error:
        return rejected("decode", str(error))
    return Example(
        index=span.index,
        key=recording.recording_id,
        source_path=recording.path,
        source_digest=xxhash.xxh3_128_hexdigest(source),
        start_seconds=span.start_seconds,
        seconds=clip.seconds,
        labels=recording.labels,
        arrays={feature.column: feature([resampled(clip, feature.sample_rate_hz)])[0] for feature in features},
    )


def _check_clip(clip: Clip, sample_rate_hz: int | None) -> None:
    if sample_rate_hz is not None and clip.sample_rate_hz != sample_rate_hz:
        raise DecodeError(f"its rate is {clip.sample_rate_hz:,} Hz where the corpus has {sample_rate_hz:,} Hz")
    if not np.abs(clip.waveform).max(initial=0.0) >= SILENT_PEAK:
        raise DecodeError(f"it is silent: no amplitude reaches {SILENT_PEAK}")
