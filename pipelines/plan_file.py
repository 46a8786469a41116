"""A file without a name that keeps the spans of a plan, task after task, and is gone when its process is."""

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.plan import ShardTask
from pipelines.span import PackedSpans, Span
from shards.problem import EnvironmentProblem


class PlanFile:
    """In the system's folder for temporary files; the tasks that it keeps read their spans from it when asked for them.

    Such a task takes 300 bytes of memory, and travels to other processes with its spans.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        self._bytes = 0

    def keep(self, task: ShardTask) -> ShardTask:
        """The same task, with its spans in the file. Raises EnvironmentProblem when its disk is full."""
        assert isinstance(task.spans, PackedSpans)
        packed = task.spans.packed
        try:
            written = os.pwrite(self.descriptor, packed, self._bytes)
        except OSError as error:
            raise EnvironmentProblem(self._no_room(error.strerror)) from error
        if written < len(packed):
            raise EnvironmentProblem(self._no_room("no space left on device"))
        kept = _KeptSpans(self, self._bytes, written, len(task.spans))
        self._bytes += written
        return replace(task, spans=kept)

    def _no_room(self, cause: str | None) -> str:
        return (
            f"The plan could not be kept in {tempfile.gettempdir()}: {cause} ({self._bytes / 2**20:,.0f} MiB of it are "
            "there). Nothing was built. Free some space there, or set TMPDIR to a folder with more, then repeat the "
            "same command."
        )


@dataclass(frozen=True, slots=True)
class _KeptSpans(Sequence[Span]):
    file: PlanFile
    offset: int
    size: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Any) -> Any:
        return self._packed()[place]

    def __iter__(self) -> Iterator[Span]:
        return iter(self._packed())

    def __reduce__(self) -> tuple[type, tuple[bytes, int]]:
        return PackedSpans, (self._packed().packed, self.length)

    def _packed(self) -> PackedSpans:
        return PackedSpans(os.pread(self.file.descriptor, self.size, self.offset), self.length)
