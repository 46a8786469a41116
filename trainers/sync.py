"""Upload what the tracking server has not seen yet.

    sonograph sync runs/myna-base-laptop-1f0c77aa

Without a folder, all runs under runs/. Repeating it uploads nothing twice. A run whose command died ends as KILLED.
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from shards.problem import EnvironmentProblem, RunFailed, UsageProblem
from trainers.mirror import Busy, Replay, Unreachable, sole_replay
from trainers.mlflow_store import store_address
from trainers.redaction import redacted_text
from trainers.tracking import LOG, Run, events


@dataclass(frozen=True)
class Sync:
    """Which runs to upload."""

    runs: Positional[tuple[Path, ...]] = ()
    """Run folders; all under runs/ when none is named."""


COMMAND = Sync


def main(command: Sync) -> dict[str, object]:
    """Upload run by run. Raises EnvironmentProblem when the store is away, RunFailed when it refuses records."""
    address = store_address()
    folders = [_existing(folder) for folder in command.runs] or sorted(log.parent for log in Path("runs").rglob(LOG))
    sent = {str(folder): sync(folder, address) for folder in folders}
    return {"output": redacted_text(address), "metrics": {"runs": len(folders), "records": sum(sent.values())}}


def sync(folder: Path, address: str) -> int:
    """Upload one run; returns how many records went up, 0 when another command is at it."""
    try:
        with sole_replay(folder, address) as replay:
            _close_if_dead(folder)
            return _upload(replay, folder, address)
    except Busy:
        print(f"{folder}  is being uploaded by the command that runs it")
        return 0


def _upload(replay: Replay, folder: Path, address: str) -> int:
    waiting = replay.progress.waiting(folder)
    try:
        replay.catch_up()
    except Unreachable as error:
        raise EnvironmentProblem(
            f"{redacted_text(address)} does not answer ({error}); {replay.progress.waiting(folder):,} records keep "
            f"waiting in {folder}. Start the server or set MLFLOW_TRACKING_URI, then repeat: sonograph sync {folder}"
        ) from error
    if refused := len(replay.progress.aside):
        raise RunFailed(
            f"MLflow refused {refused:,} of {waiting:,} records of {folder} for the reasons above; they stay in {LOG}, "
            "the others are up. Remove the cause, then repeat the command."
        )
    print(f"{folder}  {waiting:,} records  {replay.progress.url}")
    return waiting


def _close_if_dead(folder: Path) -> None:
    """A run that nobody copies has no command any more; SIGKILL leaves no time to say so."""
    statuses = [event.fields["status"] for event in events(folder) if event.kind == "status"]
    if statuses and statuses[-1] == "RUNNING":
        Run(folder).status("KILLED", "its command ended without a word")


def _existing(folder: Path) -> Path:
    if not (folder / LOG).exists():
        known = sorted(str(log.parent) for log in Path("runs").rglob(LOG))
        raise UsageProblem(
            f"{folder} is no run folder: it has no {LOG}, so there is nothing to upload. "
            + (f"Runs here: {', '.join(known)}." if known else "There are no runs under runs/ either.")
        )
    return folder


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("sync")
