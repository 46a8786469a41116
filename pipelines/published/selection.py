"""What a corpus keeps of what it lists: every id once, counts by split, and the account of what was left out."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from pipelines.recording import SPLITS, Recording
from shards.problem import DataProblem

NO_AUDIO = "its audio is not there"
MARKER = "rendered.json"

log = logging.getLogger(__name__)


def selected(
    recordings: Iterable[Recording], *, corpus: str, root: Path, left_out: Mapping[str, int], remedy: str
) -> list[Recording]:
    """The recordings sorted by split and id, a second one of the same id with a problem; says their counts once.

    `left_out` counts what the published rules exclude, by rule. Raises DataProblem with all counts and the `remedy`
    when nothing that can be used is left.
    """
    kept = sorted(_once(recordings), key=lambda recording: (recording.split, recording.recording_id))
    usable = Counter(recording.split for recording in kept if not recording.problem)
    rejected = Counter(_kind(recording.problem) for recording in kept if recording.problem)
    account = "  ".join(
        [
            *(f"{split} {usable[split]:,}" for split in SPLITS),
            *(f"rejected {times:,}: {cause}" for cause, times in rejected.most_common(5)),
            *(f"left out {times:,}: {rule}" for rule, times in left_out.items() if times),
        ]
    )
    if not usable:
        listed = len(kept) + sum(left_out.values())
        raise DataProblem(
            f"None of the {listed:,} recordings that {root} lists for {corpus} can be used ({account}), so there is "
            f"nothing to build. {remedy}"
        )
    log.info("%s  %s", corpus, account)
    return kept


def refuse_unfinished(root: Path, last_written: str) -> None:
    """Raise DataProblem for a corpus whose rendering was interrupted: its tables are written at the end."""
    if (root / MARKER).is_file() and not (root / last_written).is_file():
        raise DataProblem(
            f"Rendering {root} was interrupted: there is no {last_written} yet, so tracks are missing. Repeat the "
            f"command that renders it (its seed is in {MARKER}); it makes what is missing."
        )


def is_inside(path: str) -> bool:
    """Whether a path that metadata names stays in the folder it is relative to: no root, drive, `..` or backslash."""
    parts = path.split("/")
    return all(part not in {"", ".", ".."} for part in parts) and not any(sign in path for sign in "\\:\0")


def _once(recordings: Iterable[Recording]) -> Iterator[Recording]:
    seen: set[str] = set()
    for recording in recordings:
        if (name := recording.recording_id) in seen:
            name = next(again for n in count(2) if (again := f"{name}--{n}") not in seen)
            recording = replace(recording, recording_id=name, labels={}, events={}, problem="its id is listed twice")
        seen.add(name)
        yield recording


def _kind(problem: str) -> str:
    """A problem without what is particular to one recording, so that like ones are counted together."""
    return problem.partition(":")[0]
