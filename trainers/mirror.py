"""Copies a run's log to MLflow from a thread of the command; nothing here can slow down or stop a training.

    with mirror(folder, experiment="myna-pretrain", run_name="myna-base-nsynth-1f0c77aa") as link:
        ...
    print(link.summary)

How far the copy has come stands in RUN/mlflow.json, and MLflow drops what it is told twice, so a command that is killed
at any time goes on with the same MLflow run. What a dead server could not take waits for `sonograph sync`.
"""

import fcntl
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from shards.store import write_json
from trainers.mlflow_store import (
    STORE_ERRORS,
    VALUES_PER_CALL,
    Identity,
    Machine,
    MlflowStore,
    Place,
    first_line,
    store_address,
    weight,
)
from trainers.redaction import redacted_text
from trainers.tracking import LOG, Event, Run, events

STATE = "mlflow.json"
_POLL_SECONDS, _LONGEST_PAUSE_SECONDS, _MACHINE_SECONDS = 2.0, 60.0, 15.0
_BAD_EVENT = (*STORE_ERRORS, ValueError, KeyError, TypeError)  # refused by MLflow, or written by another version of us

logger = logging.getLogger(__name__)


class Unreachable(Exception):
    """The store does not answer; what was not sent waits in the run folder."""


class Busy(Exception):
    """Another process copies this run; it sends our lines too."""


@dataclass(frozen=True)
class Progress:
    """How far a run's log has come into one store; lost or of another store, it is found again from the log."""

    store: str
    run: str = ""
    experiment_id: str = ""
    run_id: str = ""
    url: str = ""
    offset: int = 0
    aside: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path, address: str) -> "Progress":
        """What RUN/mlflow.json says about this store and this log."""
        who, store = identity(folder), redacted_text(address)
        try:
            fields = json.loads((folder / STATE).read_text())
            found = cls(**{**fields, "aside": tuple(fields["aside"])})
        except (OSError, ValueError, KeyError, TypeError):
            return cls(store, who.run)
        return found if (found.store, found.run) == (store, who.run) else cls(store, who.run)

    def waiting(self, folder: Path) -> int:
        """Lines of the log that this store has not got."""
        return sum(1 for _ in events(folder, self.offset)) + len(self.aside)


class Replay:
    """The copying of one run's log; made by `sole_replay`."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._address = folder, address
        self._progress = Progress.read(folder, address)
        self._connection: tuple[MlflowStore, Place] | None = None

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._progress

    def catch_up(self) -> None:
        """Send all lines that wait. Raises Unreachable; a line that MLflow refuses is reported and set aside."""
        try:
            if self._connection is None:
                self._connect()
                self._retry_aside()
        except STORE_ERRORS as error:
            raise Unreachable(first_line(error)) from error
        for batch in batches(events(self._folder, self._progress.offset)):
            aside = (*self._progress.aside, *self._send(batch))
            self._save(replace(self._progress, offset=batch[-1].end, aside=aside))

    def _connect(self) -> None:
        store, known = MlflowStore(self._address), self._progress
        former = Place(known.experiment_id, known.run_id) if known.run_id else None
        place = store.attach(identity(self._folder), former)
        if place != former:  # new here, or deleted there: tell it everything
            known = Progress(known.store, known.run, place.experiment_id, place.run_id)
        self._connection = store, place
        self._save(replace(known, url=store.link(place)))

    def _retry_aside(self) -> None:
        again = [event for start in self._progress.aside for event in islice(events(self._folder, start), 1)]
        self._save(replace(self._progress, aside=tuple(start for event in again for start in self._send([event]))))

    def _send(self, batch: Sequence[Event]) -> list[int]:
        """Send events together, or one by one when MLflow refuses one of them; returns where refused ones start."""
        assert self._connection is not None
        store, place = self._connection
        try:
            store.send(place, self._folder, batch)
        except _BAD_EVENT as error:
            if not store.refuses(error, place):
                raise Unreachable(first_line(error)) from error
            if len(batch) > 1:
                return [start for event in batch for start in self._send([event])]
            logger.warning("mlflow refused a record (%s): %s; it stays in %s", batch[0].kind, first_line(error), LOG)
            return [batch[0].start]
        return []

    def _save(self, progress: Progress) -> None:
        self._progress = progress
        write_json(self._folder / STATE, asdict(progress))


class Mirror:
    """A thread that keeps MLflow a few seconds behind the log, and gives up waiting when the command ends."""

    def __init__(self, run: Run, address: str) -> None:
        self._run, self._address = run, address
        self._closing = threading.Event()
        self._pause_seconds, self._measured = 0.0, time.monotonic()
        self._machine, self._start_seconds = Machine(), identity(run.folder).start_ms / 1000
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The run's page, empty until the store has answered once."""
        return Progress.read(self._run.folder, self._address).url

    @property
    def run_id(self) -> str:
        """The run's name in MLflow, empty until the store has answered once."""
        return Progress.read(self._run.folder, self._address).run_id

    @property
    def waiting(self) -> int:
        """Lines of the log that MLflow has not got yet."""
        return Progress.read(self._run.folder, self._address).waiting(self._run.folder)

    @property
    def summary(self) -> str:
        """Where to look, or how to upload what waits."""
        if (waiting := self.waiting) > 0:
            folder = _shown(self._run.folder)
            return f"{waiting:,} records wait in {folder}; upload them with: sonograph sync {folder}"
        return self._page()

    def close(self, wait_seconds: float) -> None:
        """Send what is left, for at most `wait_seconds`, and say what could not be sent."""
        self._closing.set()
        self._thread.join(wait_seconds)
        if self.waiting:
            logger.warning("mlflow  %s", self.summary)

    def _work(self) -> None:
        with ExitStack() as held:
            replay: Replay | None = None
            while True:
                last = self._closing.wait(self._pause_seconds)
                try:
                    replay = replay or held.enter_context(sole_replay(self._run.folder, self._address))
                    self._measure()
                    replay.catch_up()
                    self._recovered()
                except Busy:
                    self._pause_seconds = _POLL_SECONDS
                except Exception as error:  # anything at all: a training must not end because a chart does
                    self._failed(error)
                if last:
                    return

    def _measure(self) -> None:
        """Every now and then, how busy this machine is; the step is in seconds since the run began."""
        if time.monotonic() - self._measured > _MACHINE_SECONDS:
            self._measured = time.monotonic()
            self._run.metrics(int(time.time() - self._start_seconds), self._machine.measure())

    def _page(self) -> str:
        return self.url if self._address.startswith("http") else f"{self.url} (start the pages with: sonograph ui)"

    def _recovered(self) -> None:
        if self._pause_seconds != _POLL_SECONDS:
            logger.info("mlflow  %s", self._page())
        self._pause_seconds = _POLL_SECONDS

    def _failed(self, error: Exception) -> None:
        if self._pause_seconds <= _POLL_SECONDS:
            logger.warning(
                "mlflow  %s does not answer (%s); the run goes on, its records wait in %s",
                redacted_text(self._address),
                first_line(error),
                _shown(self._run.folder),
            )
        self._pause_seconds = min(2 * max(self._pause_seconds, _POLL_SECONDS), _LONGEST_PAUSE_SECONDS)


@contextmanager
def mirror(folder: Path, *, experiment: str, run_name: str, wait_seconds: float = 15.0) -> Iterator[Mirror]:
    """Copy the run's log to MLflow while the block runs; at its end wait at most `wait_seconds` for the rest.

    `experiment` is shown as `sonograph/EXPERIMENT`; a run that has a title keeps it.
    """
    run = Run(folder)
    run.title(f"sonograph/{experiment}", run_name)
    link = Mirror(run, store_address())
    try:
        yield link
    finally:
        link.close(wait_seconds)


@contextmanager
def sole_replay(folder: Path, address: str) -> Iterator[Replay]:
    """The only Replay of a run in any process. Raises Busy when another one is at work; a killed one holds nothing."""
    with (folder / "mlflow.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another command copies {folder}") from error
        yield Replay(folder, address)


def identity(folder: Path) -> Identity:
    """Who the run of a folder is, from its log; a run without title is shown under its folder's name."""
    found: dict[str, Event] = {}
    for event in events(folder):
        found.setdefault(event.kind, event)
        if "title" in found:  # the second line of a mirrored run: no need to read on
            break
    run, title = found["run"], found["title"].fields if "title" in found else {}
    experiment, name = title.get("experiment", "sonograph/runs"), title.get("name", folder.name)
    return Identity(run.fields["id"], experiment, name, run.time_ms)


def batches(waiting: Iterable[Event]) -> Iterator[list[Event]]:
    """Events in order, many small ones together: at most 1000 metric values, or one event of a heavier kind."""
    batch: list[Event] = []
    filled = 0
    for event in waiting:
        if batch and filled + weight(event) > VALUES_PER_CALL:
            yield batch
            batch, filled = [], 0
        batch.append(event)
        filled += weight(event)
    if batch:
        yield batch


def _shown(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
