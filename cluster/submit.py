"""Run any command as an authenticated Ray job: on this machine's head (make cluster-up) or a cluster's.

    sonograph submit -- train myna:base --size debug --data.dataset datasets/nsynth

Follows the job's log and ends with its exit code; Ctrl-C leaves the job running. The job works in this folder, so
datasets/ and runs/ mean the ones here; the cluster has to see it at the same path. The code of this folder travels
along, without what .gitignore and .rayignore name. Repeating the command follows the same job again, and starts a
new one only when that one failed or the code changed. The token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
~/.ray/auth_token, and never shown. Starts in about 8 s.

Where a store is and which profile opens it go along; a key does not, since the cluster's pages show a job's variables.
The cluster's machines have their own, or take it from a file; --env NAME sends a variable of this shell all the same.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from cluster.problem import ClusterProblem
from cluster.upload import Upload, upload_of
from cluster.variables import job_environment, without_credentials

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

log = logging.getLogger(__name__)

LOCAL_HEAD = "http://127.0.0.1:8265"
NO_SUCH_COMMAND = 127
_HIDDEN = "(its value)"


@dataclass(frozen=True)
class Submit:
    """A command for a cluster."""

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="-- VERB ...")] = ()
    """The command and its options, as without `submit`."""
    address: str = field(default_factory=lambda: os.environ.get("RAY_API_SERVER_ADDRESS", LOCAL_HEAD))
    """The head's dashboard (also from RAY_API_SERVER_ADDRESS)."""
    cpus: float = 1.0
    """CPUs reserved for the command itself; what it starts reserves its own."""
    submission_id: str | None = None
    """Name of the job; by default made from the command and the code."""
    env: tuple[str, ...] = ()
    """Names of variables of this shell that the job gets too; every reader of the cluster's pages can see them."""
    wait: bool = True
    """Follow the log until the job ends."""
    show_files: bool = False
    """List what would travel along, and submit nothing."""
    dry_run: bool = False
    """Print the equivalent `ray job submit`, and submit nothing."""


COMMAND = Submit


def main(command: Submit) -> dict[str, object]:
    """Submit, follow, and end as the job ended."""
    if not command.words:
        raise ClusterProblem("There is no command to submit. Example: sonograph submit -- train myna:base", exit_code=2)
    upload = upload_of(Path.cwd())
    environment = job_environment(str(Path.cwd()), os.environ, named=command.env)
    name = command.submission_id or stable_name(command.words, upload)
    print(raw_line(command, name, environment))
    if advice := without_credentials(command.words, environment):
        log.warning("%s", advice)
    if command.show_files or command.dry_run:
        return _shown(command, upload)
    client = connect(command.address)
    job, status = newest_attempt(client, name)
    if status is None:
        _submit(client, command, job, environment, upload)
    with _detached_by_ctrl_c(job):
        already = f"is on this cluster already ({(status or '').lower()}), so it was not started again"
        print(f"{job} {already if status else f'was submitted with {upload.summary()}'}", flush=True)
        return _outcome(client, command, job)


def _shown(command: Submit, upload: Upload) -> dict[str, object]:
    if command.show_files:
        print("\n".join(f"{count:>10}  {path}" for path, count in upload.file_bytes.items()))
    return {"output": f"{upload.summary()}; nothing was submitted", "files": sorted(upload.file_bytes)}


def stable_name(words: tuple[str, ...], upload: Upload) -> str:
    """The same for the same command and code in the same folder, so that a repeat finds the first job."""
    identity = json.dumps([words, str(upload.folder), upload.digest])
    return f"sonograph-{re.sub('[^a-z]', '', words[0])}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def raw_line(command: Submit, name: str, environment: dict[str, str]) -> str:
    """What a person would type without this command; it takes the same files, by the same ignore files."""
    options = ["--address", command.address, "--working-dir", ".", "--submission-id", name]
    options += ["--entrypoint-num-cpus", f"{command.cpus:g}"]
    shown = {name: _HIDDEN if name in command.env else value for name, value in environment.items()}
    options += ["--runtime-env-json", json.dumps({"env_vars": shown}, sort_keys=True)]
    return "RAY_AUTH_MODE=token " + shlex.join(["ray", "job", "submit", *options, "--", "sonograph", *command.words])


def connect(address: str) -> "JobSubmissionClient":
    """A client that shows its token; ClusterProblem when there is none, a wrong one, or no head."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or Ray would prefer another address in the environment to this one
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ClusterProblem(_token_advice(address, str(error))) from error
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise ClusterProblem(
            f"No Ray head answers on {address}, so nothing was submitted. Start one here with `make cluster-up`, or "
            f"name another with --address http://HOST:8265. ({str(error).splitlines()[0]})"
        ) from error


def _token_advice(address: str, error: str) -> str:
    where = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    if "403" in error or "Forbidden" in error:
        return (
            f"The head on {address} does not accept the token in {where}, so nothing was submitted. "
            "Copy the token from the machine that started the head: `ray get-auth-token` prints it there."
        )
    return (
        f"The head on {address} asks for a token and there is none in {where}, so nothing was submitted. "
        "`make cluster-up` makes one for a head on this machine; for another cluster, copy its token to that file."
    )


def newest_attempt(client: "JobSubmissionClient", name: str) -> tuple[str, "JobStatus | None"]:
    """The job of this name that runs, waits or succeeded, else an unused name: a failed attempt keeps its own."""
    statuses = {job.submission_id: job.status for job in client.list_jobs()}
    attempt, number = name, 1
    while statuses.get(attempt) in ("FAILED", "STOPPED"):
        number += 1
        attempt = f"{name}-{number}"
    return attempt, statuses.get(attempt)


def _submit(
    client: "JobSubmissionClient", command: Submit, job: str, environment: dict[str, str], upload: Upload
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "code.zip"
        archive.write_bytes(upload.archive)  # what was listed and checked, so that nothing else can travel
        client.submit_job(
            entrypoint=shlex.join(["sonograph", *command.words]),
            submission_id=job,
            runtime_env={"working_dir": str(archive), "env_vars": environment},
            metadata={"code_sha256": upload.digest},
            entrypoint_num_cpus=command.cpus,
        )


def _outcome(client: "JobSubmissionClient", command: Submit, job: str) -> dict[str, object]:
    page = f"{command.address}/#/jobs/{job}"
    if not command.wait:
        return {"output": page, "job": job, "status": client.get_job_status(job).value}
    details = _follow(client, job)
    if details.status == "SUCCEEDED":
        return {"output": page, "job": job, "status": details.status.value}
    raise _failure(details, job, page)


@contextmanager
def _detached_by_ctrl_c(job: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise ClusterProblem(
            f"detached; the job {job} goes on. Follow it again with the same command, stop it with: ray job stop {job}",
            exit_code=130,
        ) from None


def _follow(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """Print the log as it grows, over broken connections too, until the job has ended."""
    printed = [0]
    while True:
        broken = asyncio.run(_print_log(client, job, printed))
        try:
            details = client.get_job_info(job)
        except (ConnectionError, OSError) as error:
            raise ClusterProblem(
                f"The head went away while {job} ran, and its jobs with it. When it is back, the same command starts "
                f"the job anew and continues from what lies on disk. ({broken or error})"
            ) from error
        if details.status.is_terminal():
            return details
        time.sleep(1)


async def _print_log(client: "JobSubmissionClient", job: str, printed: list[int]) -> str:
    """Print the log beyond the characters printed before; returns why the connection broke, or nothing."""
    import aiohttp

    seen = 0
    try:
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, printed[0] - seen) :]
            seen += len(text)
            print(fresh, end="", flush=True)
            printed[0] = max(printed[0], seen)
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        return str(error)
    return ""


def _failure(details: "JobDetails", job: str, page: str) -> ClusterProblem:
    code = details.driver_exit_code
    if details.status == "STOPPED":
        return ClusterProblem(f"The job {job} was stopped. The same command starts it again. {page}", exit_code=143)
    if code is None:
        cause = (details.message or "no reason given").splitlines()[0]
        return ClusterProblem(f"The job {job} failed before its command ran ({cause}). {page}", exit_code=1)
    advice = "The same command runs it again once the cause above is mended."
    if code == NO_SUCH_COMMAND:
        advice = (
            "The head does not know `sonograph`: start it from the environment it is installed in (make cluster-up)."
        )
    message = f"The job {job} failed with exit code {code}. {advice} {page}"
    return ClusterProblem(message, exit_code=code if code > 0 else 128 - code)


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("submit")
