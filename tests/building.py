"""Builds in the test's own process, where neither Ray nor a second process is the question."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sonograph
from pipelines import build, fit


def parsed(*words: object) -> build.Build:
    """The command that `sonograph build WORDS` would run."""
    return sonograph.command_of("build", [str(word) for word in words])


def build_here(*words: object) -> dict[str, Any]:
    """Run `sonograph build WORDS`, its tasks one after the other in this process; returns its result record."""
    with in_this_process():
        return build.main(parsed(*words))


@contextmanager
def in_this_process() -> Iterator[None]:
    """Tasks of a build run one after the other in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "run_tasks", _in_order)
        patch.setattr(fit, "run_tasks", _in_order)
        yield


def _in_order(function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int) -> Iterator[Any]:
    return map(function, tasks)


def everything_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }
