"""One authenticated Ray head on this machine, its dashboard on the loopback address only.

    python -m cluster.head up          python -m cluster.head down

Behind `make cluster-up` and `make cluster-down`. Further options of `ray start` may follow a `--`. `down` stops exactly
the head that `up` started from the same folder, and no other Ray of this machine. About 10 s up, 5 s down.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from cluster.problem import ClusterProblem

START_SECONDS = 120.0
STOP_SECONDS = 30.0
RAY = str(Path(sys.executable).with_name("ray"))
START = (RAY, "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=127.0.0.1")


def up(folder: Path, dashboard_port: int, options: list[str]) -> str:
    """Start the head unless it runs; its state and log are in `folder`. Returns the dashboard's address."""
    address = f"http://127.0.0.1:{dashboard_port}"
    if _running(folder):
        return str(json.loads(_state(folder).read_text())["dashboard"])
    if _status(address):
        raise ClusterProblem(
            f"Something else answers on {address} already, so no head was started. Stop it, or choose another port: "
            "make cluster-up DASHBOARD_PORT=8266"
        )
    _ensure_token()
    folder.mkdir(parents=True, exist_ok=True)
    head = _start(folder, dashboard_port, options)
    state = {"pid": head.pid, "created": psutil.Process(head.pid).create_time(), "dashboard": address}
    _state(folder).write_text(json.dumps(state))
    _wait(head, folder, address)
    return address


def down(folder: Path) -> bool:
    """Stop the head that `up` started from `folder`, with all its jobs; False when it did not run."""
    head = _running(folder)
    if head:
        family = [head, *head.children(recursive=True)]
        head.terminate()
        psutil.wait_procs([head], timeout=STOP_SECONDS)
        for process in psutil.wait_procs(family, timeout=5)[1]:
            process.kill()
    _forget_address()
    _state(folder).unlink(missing_ok=True)
    return head is not None


def _forget_address() -> None:
    """Remove Ray's note of this machine's cluster if nobody answers there: the next local Ray would try to join it."""
    note = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    try:
        host, _, port = note.read_text().rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
    except FileNotFoundError:
        return
    except OSError:
        note.unlink(missing_ok=True)


def _ensure_token() -> None:
    """Have a token where Ray looks for one, readable by its owner alone; its value is never shown."""
    made = subprocess.run([RAY, "get-auth-token", "--generate"], capture_output=True, text=True, umask=0o077)
    if made.returncode:
        raise ClusterProblem(
            f"There is no token and none could be made ({made.stderr.strip().splitlines()[-1]}), so no head was "
            "started. Check RAY_AUTH_TOKEN_PATH and that ~/.ray can be written."
        )
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)  # Ray's own `init` leaves it readable by everybody


def _start(folder: Path, dashboard_port: int, options: list[str]) -> subprocess.Popen[bytes]:
    # One CPU more than there are cores: the driver of a job reserves one and then only waits for its workers.
    cpus = (os.cpu_count() or 1) + 1
    with (folder / "head.log").open("wb") as log:
        return subprocess.Popen(
            [*START, f"--num-cpus={cpus}", f"--dashboard-port={dashboard_port}", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )


def _environment() -> dict[str, str]:
    """What the head hands to its jobs: the token, this Python's commands, and this folder as the one they work in."""
    return {
        **os.environ,
        "PATH": f"{Path(RAY).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",  # the only machine has none to hand its work to
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # time for a checkpoint; Ray's default is 3 s
        "SONOGRAPH_HOME": str(Path.cwd()),
    }


def _wait(head: subprocess.Popen[bytes], folder: Path, address: str) -> None:
    """Wait until the head answers, and insist that it turns away those without a token."""
    deadline = time.monotonic() + START_SECONDS
    while not (status := _status(address)) and head.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    if status == 401:
        return
    down(folder)
    lines = (folder / "head.log").read_text().strip().splitlines() or ["it wrote nothing"]
    cause = f"it answered {status} to a request without a token" if status else lines[-1]
    raise ClusterProblem(f"The Ray head did not start ({cause}) and was stopped again. Its log: {folder / 'head.log'}")


def _status(address: str) -> int:
    """The HTTP status of a request without a token; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def _state(folder: Path) -> Path:
    return folder / "head.json"


def _running(folder: Path) -> psutil.Process | None:
    """The head's process, if it is alive and no later process that was given the same number."""
    try:
        state = json.loads(_state(folder).read_text())
        process = psutil.Process(state["pid"])
        return process if process.create_time() == state["created"] and process.is_running() else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def main(words: list[str]) -> None:
    """The command line: up or down, and where."""
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(prog="python -m cluster.head", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=Path(".cluster"), help="state and log (default: .cluster)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="on 127.0.0.1 (default: 8265)")
    command = parser.parse_args(own)
    if command.verb == "down":
        print("stopped the head" if down(command.folder) else f"no head runs from {command.folder}")
        return
    address = up(command.folder, command.dashboard_port, options)
    print("submit:   sonograph submit -- VERB ...")
    print("raw:      RAY_AUTH_MODE=token ray job submit --working-dir . -- sonograph VERB ...")
    print(f"the head is up, for holders of the token only: {address}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterProblem as problem:
        print(f"sonograph: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
