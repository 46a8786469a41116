"""What is broken in the datasets of one build is moved aside, and the build repeated: it makes only what is missing."""

import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from shards.lock import only_writer
from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem

log = logging.getLogger(__name__)
_SET_ASIDE = "set-aside"
_COMMAND = (sys.executable, "-m", "sonograph")
_BUILD_LINES = re.compile(r'^ "build": (\[\n(?:  ".*",?\n)* \])', re.MULTILINE)
_REASON = "sonograph: "  # with which a failing command begins its last words


@dataclass(frozen=True)
class Move:
    """A broken file, and the folder in which it is kept under its own path."""

    folder: Path
    name: Path
    kept_in: Path

    @property
    def place(self) -> Path:
        return self.folder / self.name

    @property
    def kept(self) -> Path:
        return self.kept_in / self.name


def repair(broken: Mapping[Path, Sequence[Path]], *, root: Path | None, workers: int) -> list[Path]:
    """Build the `broken` files of each dataset again; returns the folders in which they lie from now on.

    The datasets are all splits of one build, whose source is where it was, or at `root`. Raises DataProblem, with
    every file back in its place, when the source is gone or the build fails, and EnvironmentProblem, with nothing
    moved, while another command writes there.
    """
    words = build_words(list(broken), root)
    moves = list(_moves(broken))
    before = {folder: _fingerprint(folder) for folder in broken}
    try:
        with only_writer(next(iter(broken)).parent):  # whose unfinished files look like damage
            for move in moves:
                move.kept.parent.mkdir(parents=True, exist_ok=True)
                move.place.rename(move.kept)
                log.warning("set aside  %s -> %s", move.place, move.kept)
        _run([*words, "--workers", str(workers)])
    except BaseException:
        _put_back(moves)
        raise
    _tell_other_bytes(before)
    return sorted({move.kept_in for move in moves})


def foretold(broken: Mapping[Path, Sequence[Path]], *, root: Path | None) -> str:
    """What `repair` would do, a line for each file and one for the build. Raises as it does for a missing source."""
    lines = [f"would set aside {move.place} -> {move.kept}" for move in _moves(broken)]
    return "\n".join([*lines, f"would run {_shown(build_words(list(broken), root))}"])


def siblings(folder: Path, others: Iterable[Path]) -> list[Path]:
    """Those of the other datasets that the build of this one makes as well, as far as their manifests tell."""
    words = _words_of(folder)
    return [other for other in others if words is None or _words_of(other) in (None, words)]


def build_words(folders: Sequence[Path], root: Path | None) -> list[str]:
    """The words of the build that made these datasets, with the folder it is to write and where its source lies now.

    They are read from a manifest, and may do no more than build: any other, and a source that is not there, raise
    DataProblem.
    """
    out = folders[0].parent
    words = next(filter(None, map(_words_of, [*folders])), None)
    if words is None:
        raise DataProblem(
            f"{out} cannot be repaired: no manifest in it says by which build it was made, so nothing was moved. "
            "Delete what verify names, and repeat the build's own command: it makes only what is missing."
        )
    if misplaced := [folder for folder in folders if (_split_of(folder) or folder.name) != folder.name]:
        raise DataProblem(
            f"{misplaced[0]} cannot be repaired: its build writes a folder {_split_of(misplaced[0])}, and would make "
            "another dataset beside it. Nothing was moved. Give the folder that name."
        )
    at = words.index("--root") + 1
    words[at] = str(root or words[at])
    if not Path(words[at]).exists():
        raise DataProblem(
            f"{out} cannot be repaired: its source {words[at]} is not there, so nothing was moved. If it lies "
            "elsewhere now, add --root DIR; without it, train on no split that verify names. The build was: "
            f"{_shown(words)}"
        )
    return [*words, "--out", str(out)]


def may_run(words: Any) -> bool:
    """Whether the words that a manifest gives do no more than build, to a place that is not theirs to choose."""
    is_plain = isinstance(words, list | tuple) and all(isinstance(word, str) and "\0" not in word for word in words)
    is_build = is_plain and list(words[:1]) == ["build"] and "--root" in words[:-1]
    return is_build and not any(word.startswith("--out") for word in words)


def _words_of(folder: Path) -> list[str] | None:
    """The manifest's `build`, also of a damaged one: a wrong word makes a build that refuses this folder's plan."""
    try:
        words = _build_in((folder / MANIFEST).read_text(errors="replace"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(words) if may_run(words) else None


def _build_in(manifest: str) -> Any:
    """Of a manifest that is no JSON any more, the lines of this entry, which comes first."""
    try:
        return json.loads(manifest)["build"]
    except ValueError:
        lines = _BUILD_LINES.search(manifest)
        return json.loads(lines[1]) if lines else None


def _moves(broken: Mapping[Path, Iterable[Path]]) -> Iterator[Move]:
    for folder, paths in broken.items():
        places = (folder.parent / _SET_ASIDE / folder.name / f"{number:03d}" for number in count())
        kept_in = next(place for place in places if not place.exists())
        there = (path for path in paths if path.exists() or path.is_symlink())
        yield from (Move(folder, path.relative_to(folder), kept_in) for path in there)


def _put_back(moves: Sequence[Move]) -> None:
    """Undo the moves, but where the build has made a new file."""
    for move in moves:
        if (move.kept.exists() or move.kept.is_symlink()) and not move.place.exists():
            move.kept.rename(move.place)
    for kept_in in {move.kept_in for move in moves}:
        if not any(path.is_file() or path.is_symlink() for path in kept_in.rglob("*")):
            shutil.rmtree(kept_in, ignore_errors=True)  # nothing but the empty folders of what is back


def _run(words: Sequence[str]) -> None:
    """Run our own command as a child process, with its lines in our log. Raises DataProblem when it fails."""
    said: list[str] = []
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([*_COMMAND, *words], text=True, errors="replace", **streams) as build:  # type: ignore[call-overload]
        try:
            for line in build.stderr:
                said = [line] if line.startswith(_REASON) else [*said, line][-20:]
                log.info("%s", line.rstrip())
        except BaseException:
            build.terminate()
            raise
    if build.returncode:
        raise DataProblem(
            f"The repair stopped: its build ended with exit code {build.returncode}, and every file is back in its "
            f"place, broken as it was. The build was: {_shown(words)}\nIt said: {''.join(said).strip()}"
        )


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["sonograph", *words])


def _fingerprint(folder: Path) -> str | None:
    manifest = _manifest(folder)
    return manifest.fingerprint if manifest else None


def _split_of(folder: Path) -> str | None:
    manifest = _manifest(folder)
    return manifest.split if manifest else None


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.read(folder)
    except (DataProblem, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _tell_other_bytes(before: Mapping[Path, str | None]) -> None:
    for folder, fingerprint in before.items():
        if fingerprint and _fingerprint(folder) != fingerprint:
            log.warning(
                "%s has another fingerprint now: what was built again differs from what was lost, as other packages or "
                "another processor make it",
                folder,
            )
