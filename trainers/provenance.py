"""Where a run comes from: which command, which code, which machine; as tags of the run."""

import getpass
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

_SOURCE = Path(__file__).parents[1]
_GIT_SECONDS = 10


def provenance(words: Sequence[str]) -> dict[str, str]:
    """Tags of a run started by the command `words`, such as ["sonograph", "train", "myna:base"].

    `repro.command` repeats it; names that start with `mlflow.` fill the columns and the description of MLflow's pages.
    """
    command = shlex.join(words)
    tags = {
        "repro.command": command,
        "sonograph.version": _version(),
        "host.kind": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.user": _user(),
        "mlflow.source.name": " ".join(words[:2]),
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": f"Run it again:\n\n    {_in_lines(words)}",
    }
    return {**tags, **_commit()}


def _in_lines(words: Sequence[str]) -> str:
    """The command with an option a line: MLflow's page does not wrap it, and would push its right half off."""
    return shlex.join(words).replace(" --", " \\\n        --")


def _version() -> str:
    try:
        return importlib.metadata.version("sonograph")
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed, as Ray jobs do
        return "not installed"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"uid {os.getuid()}"


def _commit() -> dict[str, str]:
    """The commit of our own checkout; nothing for an installed package, whatever repository surrounds it."""
    if not (_SOURCE / ".git").exists() or (commit := _git("rev-parse", "HEAD")) is None:
        return {}
    dirty = "true" if _git("status", "--porcelain") else "false"
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=_SOURCE, capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
