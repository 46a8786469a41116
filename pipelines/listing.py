"""What lies behind a corpus' recordings: files that are not there, and lengths that only their headers tell.

Headers are asked in parallel, once: OUT/listing.parquet keeps the answers, and a repeated build asks again only where
bytes or time of a file have changed. About 30,000 small files/s and core; tests/benchmarks/plan.py measures it.
"""

import logging
import math
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from pipelines.corpus import Corpus, Kind
from pipelines.recording import SPLITS, Label, Recording, safe_id
from pipelines.source import Tree, in_archive, paths_of, plain_file, read_source
from pipelines.workers import run_tasks
from shards.decode import decode, probe
from shards.manifest import read_rows, table_schema, write_columns
from shards.problem import DataProblem

log = logging.getLogger(__name__)

LISTING = "listing.parquet"

_WRITE_SECONDS = 30.0
_CHUNK_FILES = 5000  # of one task; so small corpora start no cluster
_MOST_SECONDS = 7 * 24 * 3600.0  # a header may claim anything, and millions of spans would be planned from it
_SCHEMA = table_schema(
    {
        **{"path": "str", "bytes": "int", "mtime_ns": "int", "seconds": "float"},
        **{"sample_rate_hz": "int", "channels": "int", "problem": "str"},
    }
)


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a file without decoding it, and of which version of it."""

    path: str
    bytes: int
    mtime_ns: int
    seconds: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    problem: str = ""


def listed(corpus: Corpus, *, tree: Tree, kept: Path, workers: int, is_cut: bool) -> list[Recording]:
    """Everything the corpus lists, each with the problem for which it cannot be used, or with its length if `is_cut`.

    Where nothing is cut, lengths that the corpus does not state stay open: decoding finds more than headers promise.
    `kept` is the folder that keeps what headers say. Raises DataProblem when the corpus cannot be read.
    """
    sound = _sound(corpus.recordings(), labels=corpus.labels(), events=corpus.events())
    found = [_present(recording, tree) for recording in sound]
    tree.forget_folders()
    asked = (paths_of(one)[0] for one in found if one.seconds is None and not one.problem)
    if unknown := {path: path for path in asked}:
        answers = _answers(unknown, tree=tree, table=kept / LISTING, workers=workers)
        for place, one in enumerate(found):
            if one.seconds is None and not one.problem:
                found[place] = _measured(one, answers[paths_of(one)[0]], is_cut)
    return found


def _sound(
    recordings: Iterable[Recording], *, labels: Mapping[str, Kind], events: Mapping[str, Kind]
) -> Iterator[Recording]:
    """Every id once, every label of its declared type: what is not gets a problem, before anything relies on it."""
    seen: set[str] = set()
    for recording in recordings:
        if recording.split not in SPLITS:
            raise AssertionError(f"{recording} is in no split; the corpus file must name one of {SPLITS}")
        if safe_id(recording.recording_id) != recording.recording_id or recording.recording_id in seen:
            name = safe_id(f"{recording.recording_id} of {recording.path} {len(seen)}")
            recording = _rejected(recording, recording.problem or "its id is listed twice or is none", name)
        elif problem := _label_problem(recording, labels, events):
            recording = _rejected(recording, problem)
        seen.add(recording.recording_id)
        yield recording


def _rejected(recording: Recording, problem: str, name: str = "") -> Recording:
    name = name or recording.recording_id
    return replace(recording, recording_id=name, problem=problem, labels={}, events={})


def _label_problem(recording: Recording, labels: Mapping[str, Kind], events: Mapping[str, Kind]) -> str:
    for name, value in recording.labels.items():
        if name not in labels:
            return f"its label {name} is not declared"
        if not _is_of(value, kind := str(labels[name]["type"])):
            return f"its label {name} is no {kind}: {str(value)[:60]!r}"
    for name, listed_events in recording.events.items():
        if name not in events:
            return f"its events {name} are not declared"
        kind = str(events[name]["type"])
        for start, end, value in listed_events:
            if not 0 <= start <= end < float("inf") or not _is_of(value, kind):
                return f"one of its {name} is not a start, an end and {kind}: {(start, end, value)}"
    return ""


def _is_of(value: Label, kind: str) -> bool:
    if kind.startswith("list"):
        return isinstance(value, tuple | list) and _are_of(value, kind[5:-1])
    return _are_of((value,), kind)


def _are_of(values: Sequence[Label], kind: str) -> bool:
    types = set(map(type, values))
    if kind == "str":
        return types <= {str}
    if kind == "int":
        return types <= {int} and (not values or max(map(abs, values)) < 2**63)  # type: ignore[arg-type]
    return types <= {int, float} and all(map(math.isfinite, values))  # type: ignore[arg-type]


def _present(recording: Recording, tree: Tree) -> Recording:
    if recording.problem:
        return recording
    for path in paths_of(recording):
        if problem := tree.problem(path):
            return _rejected(recording, problem)
    return recording


def _measured(recording: Recording, answer: float | str, is_cut: bool) -> Recording:
    """The recording with its length: that of its segment where the source holds the whole video, else the source's."""
    if isinstance(answer, str):
        return _rejected(recording, answer)
    if not is_cut:
        return recording
    if recording.segment and recording.is_piece_of(answer):
        return replace(recording, seconds=recording.segment[1] - recording.segment[0])
    return replace(recording, seconds=answer)


# Headers


def _answers(wanted: Mapping[str, str], *, tree: Tree, table: Path, workers: int) -> dict[str, float | str]:
    """The length of each file, or its problem, from the table of an earlier build where it has not changed since.

    `wanted` leads from each path to itself, so that the table's own millions of strings need not be kept.
    """
    answers: dict[str, float | str] = {}
    for header in _read(table):
        if header.path in wanted and _version(header.path, tree) == (header.bytes, header.mtime_ns):
            answers[wanted[header.path]] = _answer(header)
    stale = [Header(path, *_version(path, tree)) for path in wanted if path not in answers]
    if stale:
        log.info("listing  %d files to ask for their length, %d known", len(stale), len(answers))
        begin = written = time.monotonic()
        fresh: dict[str, Header] = {}
        for headers in _asked(stale, tree=tree, workers=workers):
            fresh |= {header.path: header for header in headers}
            if time.monotonic() - written >= _WRITE_SECONDS:
                _write(table, fresh, wanted)
                written = time.monotonic()
                log.info("listing  file %d/%d  %.0f files/s", len(fresh), len(stale), len(fresh) / (written - begin))
        _write(table, fresh, wanted)
        answers |= {path: _answer(header) for path, header in fresh.items()}
    return answers


def _answer(header: Header) -> float | str:
    return header.problem if header.seconds is None else header.seconds


def _version(path: str, tree: Tree) -> tuple[int, int]:
    try:
        return tree.status(path)
    except OSError:
        return 0, 0


def _read(table: Path) -> Iterator[Header]:
    """What the table holds; nothing when it is damaged, so that all is asked again."""
    if table.is_file():
        try:
            for row in read_rows(table):
                yield Header(**row)
        except (DataProblem, TypeError) as problem:
            log.warning("listing  %s cannot be read and is made again: %s", table, problem)


def _write(table: Path, fresh: Mapping[str, Header], wanted: Container[str]) -> None:
    """Put fresh answers into the table, in place of those about the same files and about files that are gone."""
    rows = [header for header in _read(table) if header.path in wanted and header.path not in fresh]
    rows = sorted([*rows, *fresh.values()], key=attrgetter("path"))
    write_columns(table, {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}, _SCHEMA)


def _asked(stale: Sequence[Header], *, tree: Tree, workers: int) -> Iterator[list[Header]]:
    """The headers of a chunk of files after the other: here where one suffices, else on all workers."""
    chunks = [tuple(stale[start : start + _CHUNK_FILES]) for start in range(0, len(stale), _CHUNK_FILES)]
    root, indexes = tree.root.resolve(), tree.indexes.resolve() if tree.indexes else None
    ask = partial(ask_headers, root=root, indexes=indexes)
    yield from map(ask, chunks) if len(chunks) == 1 else run_tasks(ask, chunks, workers=workers)


def ask_headers(versions: Sequence[Header], *, root: Path, indexes: Path | None) -> list[Header]:
    """One task: some files, each with its length or with the problem for which it has none. Runs no native decoder."""
    return [_ask(version, root=root, indexes=indexes) for version in versions]


def _ask(version: Header, *, root: Path, indexes: Path | None) -> Header:
    try:
        is_member = in_archive(root, version.path)
        found = probe(read_source(root, version.path, indexes) if is_member else plain_file(root, version.path))
        seconds = found.seconds
        if seconds is None:  # some containers state none: then only decoding tells it
            seconds = decode(read_source(root, version.path, indexes), isolated=True).seconds
    except OSError as error:
        return replace(version, problem=f"{error.strerror}")
    except DataProblem as problem:
        return replace(version, problem=str(problem))
    if not 0 < seconds <= _MOST_SECONDS:
        return replace(version, problem=f"its header claims an absurd length: {seconds:g} s")
    return replace(version, seconds=seconds, sample_rate_hz=found.sample_rate_hz, channels=found.channels)
