"""Compose and play a corpus into its published layout.

    sonograph render audioset --out data/audioset-rendered --hours 10 --seed 0

Same seed, same bytes, with any number of workers; killed and repeated, it makes what is missing. OUT/rendered.json says
what it is, so that it is never taken for the real one. Some 25 times real time and core: see docs/rendering.md.
"""

import importlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from pipelines.music.synthesis import SOUNDFONT, check_soundfont, fluidsynth_version
from pipelines.workers import run_tasks
from shards.problem import DataProblem, EnvironmentProblem, RunFailed, UsageProblem
from shards.store import remove_partials, sha256_of, write_json
from shards.stores.remote import url_of
from shards.words import module_named

log = logging.getLogger(__name__)

MARKER = "rendered.json"
GENERAL_MIDI = frozenset({*((0, program) for program in range(128)), (128, 0)})

_SIZES = ("hours", "tracks", "notes")
_PROSE = {"what", "proxies"}  # of the marker: they decide nothing in the audio, and tables are written anew
_REPORT_SECONDS = 5.0
_CHUNK_SECONDS = 300.0  # of music in one task: some ten seconds of work
_CHUNKS_PER_WORKER = 8  # at least, where there are as many pieces, so that all workers end at about the same time
_RAY_SECONDS = 60.0  # Ray takes five seconds to start: what takes less than this is left to threads


@dataclass(frozen=True)
class Render:
    corpus: tyro.conf.Positional[str]
    """published layout to write: a file of pipelines/corpora"""
    out: Path = Path("data/{corpus}")
    """folder of the corpus"""
    hours: float | None = None
    """hours of music, for layouts of clips"""
    tracks: int | None = None
    """tracks, for layouts of whole pieces"""
    notes: int | None = None
    """notes in all splits together, for nsynth"""
    seed: int = 0
    """decides every note"""
    workers: int = os.cpu_count() or 1
    """pieces that are played at a time"""
    real: tuple[Path, ...] = ()
    """folders of published notes in the same layout, to copy into the splits of the same name (nsynth)"""
    soundfont: Path = SOUNDFONT
    """SoundFont with the presets of FluidR3_GM.sf2"""
    dry_run: bool = False
    """print the plan and write nothing"""

    def __post_init__(self) -> None:
        if "{corpus}" in str(self.out):
            object.__setattr__(self, "out", Path(str(self.out).replace("{corpus}", self.corpus)))


COMMAND = Render


def main(command: Render) -> dict[str, object]:
    corpus = _renderable(command)
    size = _size(command, corpus)
    pieces = corpus.planned(size=size, seed=command.seed)
    if command.dry_run:
        return _dry_run(command, corpus, pieces)
    check_soundfont(command.soundfont, getattr(corpus, "RENDERED_PRESETS", GENERAL_MIDI))
    with _writing(command.out):
        _claim(command.out, _marker(command, corpus, size))
        missing = [piece for piece in pieces if not corpus.is_rendered(command.out, piece)]
        progress = Progress(command.corpus, len(pieces), missing)
        work = partial(_render_chunk, command.out.resolve(), command.soundfont.resolve(), corpus.__name__)
        for done in _render_all(work, missing, command.workers):
            progress.add(done)
        corpus.finish(command.out, pieces)
        real = sum(corpus.add(command.out, folder) for folder in command.real)
    if command.real:
        log.info("render %s  %d published notes stand among them", command.corpus, real)
    return {"output": str(command.out), "metrics": {**_counts(corpus, pieces), **progress.metrics(), "real": real}}


class Progress:
    """One line every few seconds: pieces, hours of music, speed and time left."""

    def __init__(self, corpus: str, planned: int, missing: Sequence[Any]) -> None:
        self.corpus, self.planned, self.missing = corpus, planned, len(missing)
        self.there, self.seconds = planned - len(missing), 0.0
        self.done = 0
        self.begin = self.reported = time.monotonic()
        if self.there:
            which = f"{self.there:,} of {planned:,}" if missing else f"all {planned:,}"
            log.info("render %s  %s pieces are there already", corpus, which)

    def add(self, done: "Done") -> None:
        self.done += done.pieces
        self.seconds += done.music_seconds
        now = time.monotonic()
        if now - self.reported >= _REPORT_SECONDS or self.done == self.missing:
            self.reported = now
            log.info("%s", self._line(now - self.begin))

    def metrics(self) -> dict[str, object]:
        seconds = time.monotonic() - self.begin
        return {
            "pieces": self.planned,
            "rendered_now": self.done,
            "hours_now": self.seconds / 3600,
            "times_real_time": self.seconds / seconds,
        }

    def _line(self, seconds: float) -> str:
        eta_seconds = (self.missing - self.done) * seconds / self.done
        return (
            f"render {self.corpus}  piece {self.there + self.done:,}/{self.planned:,}  "
            f"{self.seconds / 3600:.2f} hours of music  {self.seconds / seconds:.0f}x real time  "
            f"eta {eta_seconds / 60:.1f} min"
        )


@dataclass(frozen=True)
class Done:
    """What became of some pieces; `failure` says why the rest of them were not played."""

    pieces: int
    music_seconds: float
    failure: str = ""


def _render_all(work: Callable[[Sequence[Any]], Done], pieces: Sequence[Any], workers: int) -> Iterator[Done]:
    """Chunks of pieces on all workers: threads, which wait for fluidsynth, where that is quick; else tasks on Ray."""
    chunks = _chunks(pieces, workers)
    if not os.environ.get("RAY_ADDRESS"):
        begin = time.monotonic()
        yield from _in_threads(work, chunks[:workers], workers)
        begun, chunks = len(chunks[:workers]), chunks[workers:]
        if len(chunks) * (time.monotonic() - begin) < _RAY_SECONDS * begun or not chunks:
            yield from _in_threads(work, chunks, workers)
            return
    for done in run_tasks(work, chunks, workers=workers):
        yield _checked(done)


def _in_threads(work: Callable[[Sequence[Any]], Done], chunks: Sequence[Sequence[Any]], workers: int) -> Iterator[Done]:
    pool = ThreadPoolExecutor(workers)
    try:
        yield from map(_checked, pool.map(work, chunks))
    finally:
        pool.shutdown(cancel_futures=True)


def _checked(done: Done) -> Done:
    if done.failure:
        raise RunFailed(done.failure)
    return done


def _chunks(pieces: Sequence[Any], workers: int) -> list[Sequence[Any]]:
    """Neighbours in a task each: not so few that handing them out costs, nor so many that workers wait at the end."""
    if not pieces:
        return []
    mean_seconds = sum(piece.seconds for piece in pieces) / len(pieces)
    each = min(_CHUNK_SECONDS / mean_seconds, len(pieces) / (workers * _CHUNKS_PER_WORKER))
    count = math.ceil(len(pieces) / max(1, each))
    bounds = [round(len(pieces) * part / count) for part in range(count + 1)]
    return [pieces[start:end] for start, end in itertools.pairwise(bounds)]


def _render_chunk(out: Path, soundfont: Path, corpus: str, pieces: Sequence[Any]) -> Done:
    """Runs on a worker, which may be another machine: the corpus is found there by name."""
    layout = importlib.import_module(corpus)
    try:
        with _writing(out):
            for piece in pieces:
                layout.render_piece(out, piece, soundfont)
    except RunFailed as failure:
        return Done(0, 0.0, str(failure))
    return Done(len(pieces), sum(piece.seconds for piece in pieces))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{out} could not be filled: {error}. What was finished is kept, and nothing half-written. Mend that, then "
            "repeat the command: it continues where it stopped."
        ) from error


def _renderable(command: Render) -> ModuleType:
    if url := url_of(command.out):
        raise UsageProblem(
            f"--out {url} lies in a store, and music is played into files of this machine, so nothing was rendered. "
            f"Pass a folder, then build from it into the store: sonograph build {command.corpus} --root FOLDER --out "
            f"{url}"
        )
    corpus = module_named("pipelines.corpora", command.corpus)
    if not hasattr(corpus, "RENDERED_SIZES"):
        raise UsageProblem(f"The layout {command.corpus} can be read but not rendered, so nothing was done.")
    if command.seed < 0 or command.workers < 1:
        raise UsageProblem(
            f"--seed is {command.seed} and --workers {command.workers}, so nothing was done. Pass a seed of 0 or more "
            "and at least 1 worker."
        )
    if command.real and not hasattr(corpus, "add"):
        raise UsageProblem(f"--real is for layouts that published files can be added to, and {command.corpus} is none.")
    return corpus


def _size(command: Render, corpus: ModuleType) -> dict[str, float]:
    """The one size that was asked for, or the layout's default."""
    asked = {name: value for name in _SIZES if (value := getattr(command, name)) is not None}
    takes = " or ".join(f"--{name} (default {value:,.10g})" for name, value in corpus.RENDERED_SIZES.items())
    if others := [f"--{name}" for name in asked if name not in corpus.RENDERED_SIZES]:
        raise UsageProblem(f"{command.corpus} takes {takes}, and not {' and '.join(others)}, so nothing was done.")
    if len(asked) > 1:
        raise UsageProblem(f"{command.corpus} takes one size, {takes}, so nothing was done.")
    if wrong := [f"{name} {value}" for name, value in asked.items() if not 0 < value < math.inf]:
        raise UsageProblem(f"There is no music of {wrong[0]}, so nothing was done. {command.corpus} takes {takes}.")
    name, default = next(iter(corpus.RENDERED_SIZES.items()))
    return asked or {name: default}


def _dry_run(command: Render, corpus: ModuleType, pieces: Sequence[Any]) -> dict[str, object]:
    counts = _counts(corpus, pieces)
    there = sum(corpus.is_rendered(command.out, piece) for piece in pieces)
    hours = sum(piece.seconds for piece in pieces) / 3600
    words = [f"{count:,} {what}" for what, count in counts.items()]
    words += [f"{hours:.2f} hours of music in {len(pieces):,} pieces", f"{there:,} of them in {command.out} already"]
    return {"output": ", ".join(words), "metrics": {**counts, "pieces": len(pieces), "hours": hours, "there": there}}


def _counts(corpus: ModuleType, pieces: Sequence[Any]) -> dict[str, int]:
    """What a plan holds in the layout's own words, where it has some."""
    return corpus.counts(pieces) if hasattr(corpus, "counts") else {}


def _marker(command: Render, corpus: ModuleType, size: Mapping[str, float]) -> dict[str, object]:
    return {
        "corpus": command.corpus,
        "what": f"Rendered from a SoundFont in the layout of {command.corpus}; not the published dataset.",
        "proxies": getattr(corpus, "RENDERED_PROXIES", {}),
        **size,
        "seed": command.seed,
        "soundfont": sha256_of(command.soundfont),
        "fluidsynth": fluidsynth_version(),
    }


def _claim(root: Path, marker: Mapping[str, object]) -> None:
    """Take an empty folder, or one in which the same corpus was begun. Raises DataProblem for any other."""
    path = root / MARKER
    if path.is_file():
        found = json.loads(path.read_bytes())
        different = [
            f"{key} {found.get(key)} there, {marker.get(key)} here"
            for key in sorted((found.keys() | marker.keys()) - _PROSE)
            if found.get(key) != marker.get(key)
        ]
        if different:
            raise DataProblem(
                f"{root} holds another rendered corpus ({'; '.join(different)}). Pieces of both would mix, so nothing "
                "was written. Pass another --out, or delete that folder."
            )
        remove_partials(root)
    elif root.exists() and (not root.is_dir() or any(inside.name != "RESULT.json" for inside in root.iterdir())):
        raise DataProblem(
            f"{root} is not empty and was not rendered by this command: it has no {MARKER}. Nothing was written, so "
            "that nothing is lost. Pass another --out."
        )
    else:
        write_json(path, marker)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("render")
