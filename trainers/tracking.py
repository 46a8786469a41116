"""What happened in a run, one JSON line each, appended to RUN/events.jsonl; needs no server, no network, no mlflow.

    run = Run(Path("runs/myna-base-laptop-1f0c77aa"))
    run.metrics(120, {"train/loss": loss})

Workers and commands only ever append here; trainers/mirror.py copies the lines to MLflow. Fields by kind of event:
run (id), title (experiment, name), params (values), tags (values), metrics (step, values), repeat (step, values),
dataset (name, digest, source, context, split), artifact (path, to), model (path, name, alias, inputs, outputs),
status (status, reason); each has kind and time_ms, paths are relative to RUN, nan and inf are strings. An append
takes about 50 microseconds.
"""

import csv
import fcntl
import json
import logging
import os
import re
import time
import uuid
import wave
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO, StringIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np

from shards.problem import DataProblem, EnvironmentProblem
from shards.store import canonical_json, sha256_of, whole_file
from trainers.redaction import redacted, redacted_text

LOG = "events.jsonl"
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
_SIGNAL_EXITS = (130, 143)
_FOREIGN = re.compile(r"[^\w\-. :/]", re.ASCII)  # what MLflow refuses in the name of a metric, parameter or tag

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One line of a run's log, which fills the bytes from `start` to `end`."""

    kind: str
    time_ms: int
    fields: Mapping[str, Any]
    start: int
    end: int


@dataclass(frozen=True)
class Signature:
    """Shapes of what a model takes and gives, float32, -1 for an axis of any length: (-1, 128, 96) gives (-1, 384)."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@runtime_checkable
class Drawing(Protocol):
    """What a figure must be able to do; matplotlib's can."""

    @property
    def savefig(self) -> Callable[..., object]: ...


@runtime_checkable
class Sound(Protocol):
    """What can be heard: a Clip, named by its parts since importing it costs seconds."""

    @property
    def waveform(self) -> np.ndarray: ...
    @property
    def sample_rate_hz(self) -> int: ...


class Run:
    """A run folder as its writer sees it; several processes may hold one Run each and append in turn."""

    def __init__(self, folder: Path) -> None:
        """Open the log, removing the torn last line that a killed writer left; the first Run of a folder names it."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings: dict[str, dict[str, str]] = {"params": {}, "tags": {}}
        self._points: dict[str, dict[int, float | str]] = defaultdict(dict)
        with _locked(self.folder / LOG) as log:
            if os.fstat(log.fileno()).st_size == 0:
                _write(log, _line("run", {"id": uuid.uuid4().hex}))
        for event in events(self.folder):
            self._remember(event)

    def title(self, experiment: str, name: str) -> None:
        """Say under which experiment and name MLflow shows this run; the first title stays."""
        if not any(event.kind == "title" for event in events(self.folder)):
            self._append("title", experiment=experiment, name=name)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings, nested ones as `optimizer.lr`. Parameters never change: a new value becomes a tag."""
        known = self._settings["params"]
        flat = redacted({_name(name): value for name, value in _flattened(values)})
        changed = {name: value for name, value in flat.items() if known.get(name, value) != value}
        self._set("params", {name: value for name, value in flat.items() if name not in known})
        self.tags({f"changed.{name}": f"{value} (was {known[name]})" for name, value in changed.items()})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record facts about the run that may change; secrets are hidden by name and inside texts."""
        known = self._settings["tags"]
        texts = redacted({_name(name): _text(value) for name, value in values.items()})
        self._set("tags", {name: value for name, value in texts.items() if known.get(name) != value})

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Record points of curves; the first value of a step stays.

        A step that is computed again after a crash adds no second point: an equal value is dropped, another one is kept
        in the log as `repeat`. Values are anything `float` takes.
        """
        numbers = {_name(name): _number(value) for name, value in values.items()}
        again = {name: value for name, value in numbers.items() if self._points[name].get(step, value) != value}
        self._point("metrics", step, {name: value for name, value in numbers.items() if step not in self._points[name]})
        self._point("repeat", step, again)

    def results(self, step: int, values: Mapping[str, Any]) -> None:
        """Record answers of evaluators about the checkpoint of `step`; asking again replaces an answer."""
        numbers = {_name(name): _number(value) for name, value in values.items()}
        self._point("metrics", step, {n: value for n, value in numbers.items() if self._points[n].get(step) != value})

    def dataset(self, name: str, *, digest: str, source: str, context: str, split: str) -> None:
        """Record an input such as `nsynth/train`.

        `digest` is the manifest's fingerprint, `context` is training, validation or evaluation.
        """
        fields = {"name": name, "digest": digest, "source": redacted_text(source), "context": context, "split": split}
        if not any(event.kind == "dataset" and event.fields == fields for event in events(self.folder)):
            self._append("dataset", **fields)

    def artifact(self, path: Path, to: str = "") -> None:
        """Show a file or folder under `to` of the run's artifacts; it stays in place until it is uploaded.

        Raises DataProblem when there is nothing at `path`.
        """
        path = self.folder / path
        if not path.exists():
            raise DataProblem(f"{path} does not exist, so the run cannot show it. Write it before calling artifact().")
        self._append("artifact", path=_relative(path, self.folder), to=to)

    def figure(self, name: str, figure: Drawing, step: int | None = None) -> Path:
        """Store a picture as RUN/plots/[step-00000600/]NAME.png and show it; returns the path."""
        path = self._place(name, step, ".png")
        with whole_file(path) as file:
            figure.savefig(file, format="png", dpi=144, bbox_inches="tight")
        return self._show(path)

    def audio(self, name: str, clip: Sound, step: int | None = None) -> Path:
        """Store a clip as 16-bit wav that browsers play, and show it; peaks above 1 scale the whole clip down."""
        path = self._place(name, step, ".wav")
        with whole_file(path) as file:
            _write_wav(file, clip)
        return self._show(path)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int | None = None) -> Path:
        """Store rows with equal columns as csv, which MLflow shows as a grid."""
        path = self._place(name, step, ".csv")
        text = StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with whole_file(path) as file:
            file.write(text.getvalue().encode())
        return self._show(path)

    def model(self, folder: Path, name: str, *, alias: str, signature: Signature, example: np.ndarray) -> Path:
        """Register the checkpoint in `folder` (model.safetensors, card.json) as a version of model `name`.

        Both files are linked into RUN/models/, so that the checkpoint may be deleted before the upload; `example` is an
        input batch. Returns the linked folder, which opens like a checkpoint.
        """
        place = self.folder / "models" / f"{name}-{sha256_of(folder / 'model.safetensors')[:8]}"
        for part in ("model.safetensors", "card.json"):
            _link(folder / part, place / part)
        with whole_file(place / "input_example.npy") as file:
            np.save(file, example.astype(np.float32), allow_pickle=False)
        shapes = {"inputs": list(signature.inputs), "outputs": list(signature.outputs)}
        self._append("model", path=_relative(place, self.folder), name=name, alias=alias, **shapes)
        return place

    def status(self, status: str, reason: str = "") -> None:
        """Say how the run stands: one of STATUSES; the reason becomes the tag `status.reason`."""
        assert status in STATUSES, status
        self._append("status", status=status, reason=redacted_text(reason))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """RUNNING inside the block, then FINISHED, KILLED (Ctrl-C, SIGTERM) or FAILED with the error as reason."""
        self.status("RUNNING")
        try:
            yield
        except BaseException as error:
            self.status(*_ending(error))
            raise
        self.status("FINISHED")

    def _place(self, name: str, step: int | None, suffix: str) -> Path:
        folder = self.folder / "plots" / ("" if step is None else f"step-{step:08d}")
        return folder / f"{_name(name)}{suffix}"

    def _show(self, path: Path) -> Path:
        self.artifact(path, str(path.parent.relative_to(self.folder)))
        return path

    def _set(self, kind: str, values: dict[str, str]) -> None:
        if values:
            self._settings[kind].update(values)
            self._append(kind, values=values)

    def _point(self, kind: str, step: int, values: dict[str, float | str]) -> None:
        if values:
            self._remember(Event(kind, 0, {"step": step, "values": values}, 0, 0))
            self._append(kind, step=int(step), values=values)

    def _remember(self, event: Event) -> None:
        if event.kind in self._settings:
            self._settings[event.kind].update(event.fields["values"])
        elif event.kind == "metrics":
            for name, value in event.fields["values"].items():
                self._points[name][event.fields["step"]] = value

    def _append(self, kind: str, **fields: Any) -> None:
        with _locked(self.folder / LOG) as log:
            _write(log, _line(kind, fields))


def events(folder: Path, start: int = 0) -> Iterator[Event]:
    """The whole lines of a run's log from byte `start` on; a damaged line is reported and skipped."""
    path = folder / LOG
    if not path.exists():
        return
    with path.open("rb") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        log.seek(start)
        text = log.read()
    for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
        if (event := _event(line, start)) is not None:
            yield event
        start += len(line)


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Every metric of a run as {name: {step: value}}, the latest value of a step."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for event in events(folder):
        if event.kind == "metrics":
            for name, value in event.fields["values"].items():
                found[name][event.fields["step"]] = float(value)
    return dict(found)


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """The log, open for appending by this process alone, ending with a whole line; a killed holder frees the lock."""
    with path.open("a+b", buffering=0) as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        _drop_torn_line(log.fileno())
        yield log


def _write(log: FileIO, line: bytes) -> None:
    """Append one line; a line that a full disk cut short is taken back and reported."""
    whole = os.fstat(log.fileno()).st_size
    try:
        if log.write(line) == len(line):
            return
        cause = "the disk is full"
    except OSError as error:
        cause = str(error)
    os.ftruncate(log.fileno(), whole)
    raise EnvironmentProblem(
        f"{log.name} takes no more lines: {cause}. What happened until now is kept, what follows would be lost. "
        "Free some space, then repeat the command: it continues."
    )


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)


def _line(kind: str, fields: Mapping[str, Any]) -> bytes:
    return canonical_json({"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}) + b"\n"


def _event(line: bytes, start: int) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(fields.pop("kind"), fields.pop("time_ms"), fields, start, start + len(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("a damaged line of %d bytes at byte %d of %s is skipped", len(line), start, LOG)
        return None


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _number(value: Any) -> float | str:
    """A float as JSON can hold it: nan and inf have no spelling there and become words."""
    number = float(value)
    return number if np.isfinite(number) else str(number)


def _name(name: str) -> str:
    return _FOREIGN.sub("_", name)[:250]


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with whole_file(target) as file:
            file.write(source.read_bytes())


def _write_wav(file: BinaryIO, clip: Sound) -> None:
    loudest = max(1.0, float(np.abs(clip.waveform).max(initial=0.0)))
    with wave.open(file, "wb") as wav:
        wav.setparams((clip.waveform.shape[0], 2, clip.sample_rate_hz, 0, "NONE", ""))
        wav.writeframes((clip.waveform.T * (32767 / loudest)).round().astype("<i2").tobytes())


def _ending(error: BaseException) -> tuple[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "stopped by Ctrl-C"
    if isinstance(error, SystemExit) and error.code in _SIGNAL_EXITS:
        return "KILLED", "stopped by a signal"
    return "FAILED", f"{type(error).__name__}: {error}"[:2000]
