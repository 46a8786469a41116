"""Open the MLflow pages of all runs: starts MLflow's server on this machine and prints the link.

    sonograph ui --port 5000

Shows the store of MLFLOW_TRACKING_URI, runs/mlflow.db by default; nobody else can reach the server. Ctrl-C stops it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shards.problem import EnvironmentProblem
from trainers.mlflow_store import TRAINING_PAGES, MlflowStore, page_address, store_address
from trainers.redaction import redacted_text

_HOST = "127.0.0.1"
_START_SECONDS, _STOP_SECONDS = 90.0, 10.0


@dataclass(frozen=True)
class Ui:
    """Open the MLflow pages of all runs."""

    port: int = 5000
    """TCP port on this machine, 0 for any free one."""


COMMAND = Ui


def main(command: Ui) -> dict[str, object]:
    """Show the pages until Ctrl-C. Raises EnvironmentProblem when the port is taken or the server does not start."""
    address = store_address()
    if address.startswith(("http://", "https://")):
        return {"output": experiments_page(page_address(address))}
    with server(address, command.port) as running:
        print(f"{experiments_page(running.page)}\nCtrl-C stops it.", flush=True)
        with suppress(KeyboardInterrupt):
            running.process.wait()
            raise EnvironmentProblem(f"MLflow's server ended by itself; its log is {running.log}. Repeat: sonograph ui")
    return {"output": f"stopped; everything stays in {redacted_text(address)}"}


def experiments_page(page: str) -> str:
    """The list of experiments."""
    return f"{page}/#/experiments{TRAINING_PAGES}"


@dataclass(frozen=True)
class Server:
    """MLflow's server as a child process: its http address and its log."""

    page: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def server(address: str, port: int) -> Iterator[Server]:
    """MLflow's server for a database, answering on this machine alone; stopped at the end of the block.

    Its log is the file mlflow-server.log beside a SQLite file, else in the current folder.
    """
    MlflowStore(address)  # the schema first: the server's workers would race for it
    port = _free_port(port)
    path = _folder(address) / "mlflow-server.log"
    with path.open("wb") as log:
        child = subprocess.Popen(
            _words(address, port), stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
    running = Server(f"http://{_HOST}:{port}", child, path)
    try:
        _await_answer(running)
        yield running
    finally:
        _stop(child)


def _words(address: str, port: int) -> list[str]:
    artifacts = (_folder(address) / "mlartifacts").as_uri()
    words = f"-m mlflow server --host {_HOST} --port {port} --workers 1".split()
    return [sys.executable, *words, "--backend-store-uri", address, "--artifacts-destination", artifacts]


def _environment() -> dict[str, str]:
    """No background jobs, no telemetry, from the server or from its pages."""
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**os.environ, **settings, "PYTHONWARNINGS": "ignore"}


def _folder(address: str) -> Path:
    return Path(address.removeprefix("sqlite:///")).parent if address.startswith("sqlite:///") else Path.cwd()


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise EnvironmentProblem(
                f"Port {port} of this machine cannot be used ({error.strerror}), so the pages were not started. "
                f"If `sonograph ui` runs already, open http://{_HOST}:{port}; else: sonograph ui --port {port + 1}"
            ) from error
        return int(probe.getsockname()[1])


def _await_answer(running: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while running.process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{running.page}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    last = running.log.read_text(errors="replace").strip().splitlines()[-3:]
    raise EnvironmentProblem(
        f"MLflow's server did not start within {_START_SECONDS:.0f} s, so there are no pages to open. "
        f"Its last words: {' / '.join(last)}. The whole log is {running.log}."
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which share its process group, also when the server itself is gone already."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("ui")
