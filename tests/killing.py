"""A command that is killed with SIGKILL before each of its renames in turn, and then repeated.

python -m tests.killing OUT VERB WORDS      prints, for each moment, the files that were left and those made again

A file gets its name by one rename, so these are all moments that differ in whole files. OUT/000, OUT/001, ... hold what
the repetitions made.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.command import REPOSITORY


def killed_at_each_rename(out: Path, *words: object) -> list[dict[str, Any]]:
    """What the program below prints; OUT holds a folder for each moment."""
    program = [sys.executable, "-m", "tests.killing", str(out), *map(str, words)]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _program(out: Path, work: Callable[[Path], object]) -> None:
    for moment in count():
        folder = out / f"{moment:03d}"
        if _in_fork(work, folder, moment) == 0:
            return
        left = _versions(folder)
        assert _in_fork(work, folder) == 0
        again = [name for name, version in _versions(folder).items() if left.get(name, version) != version]
        print(json.dumps({"left": sorted(left), "again": again}), flush=True)


def _in_fork(work: Callable[[Path], object], folder: Path, moment: int | None = None) -> int:
    """The exit code of the work in a process of its own, which is killed at a moment or ends well."""
    child = os.fork()
    if child == 0:
        if moment is not None:
            _die_at(moment)
        work(folder)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"exit code {code}"
    return code


def _die_at(moment: int) -> None:
    renames, rename = count(), Path.replace

    def replace(path: Path, target: Path) -> Path:
        if next(renames) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = replace  # type: ignore[assignment]


def _versions(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in files}


def _work(verb: str, words: Sequence[str]) -> Callable[[Path], object]:
    if verb == "build":
        from tests.building import build_here

        return lambda folder: build_here(*words, "--out", folder)
    from sonograph import VERBS
    from tests.copies import run

    module = __import__(VERBS[verb][0], fromlist=["main"])
    return lambda folder: run(module, verb, *words, "--out", folder)


if __name__ == "__main__":
    _program(Path(sys.argv[1]), _work(sys.argv[2], sys.argv[3:]))
