"""What a training says while it runs: one line an interval, read from the run's own log."""

import logging

from trainers.task import Task
from trainers.tracking import LOG, Event, events

log = logging.getLogger(__name__)


class Progress:
    """Follows RUN/events.jsonl from its present end."""

    def __init__(self, task: Task) -> None:
        self._task = task
        path = task.run / LOG
        self._offset = path.stat().st_size if path.exists() else 0
        self._began: tuple[int, int] | None = None  # when, at which step

    @property
    def began(self) -> bool:
        """Whether the workers have told anything yet."""
        return self._began is not None

    def report(self) -> None:
        """Log a line for everything that was written since the last call."""
        for event in events(self._task.run, self._offset):
            self._offset = event.end
            for line in self._lines(event):
                log.info("train %s  %s", self._task.config.name, line)

    def _lines(self, event: Event) -> list[str]:
        values, step = event.fields.get("values", {}), event.fields.get("step", 0)
        if "training.from_step" in values:
            self._began = event.time_ms, int(values["training.from_step"])
            return [f"step {self._began[1]}/{self._task.steps}  {self._task.workers} workers are at work"]
        for name, text in values.items():
            if name.startswith("skipped.step-"):
                return [f"{name.removeprefix('skipped.')} skipped: {text}"]
        place = f"step {step}/{self._task.steps}"
        if "train/loss" in values:
            return [f"{place}  {_measured(values)}  {self._left(step, event.time_ms)}"]
        if "valid/loss" in values:
            return [f"{place}  validation loss {values['valid/loss']:.3f}  checkpoint step-{step:08d}"]
        return []

    def _left(self, step: int, now_ms: int) -> str:
        began_ms, first = self._began or (now_ms, step)
        seconds = (now_ms - began_ms) / 1000 / max(1, step - first) * (self._task.steps - step)
        return f"eta {seconds / 60:.0f} min" if seconds >= 90 else f"eta {seconds:.0f} s"


def _measured(values: dict[str, float]) -> str:
    return (
        f"loss {values['train/loss']:.3f}  {values['train/examples_per_second']:,.0f} examples/s  "
        f"data wait {values['train/data_wait']:.0%}  memory {values['train/memory_gib']:.1f} GiB"
    )
