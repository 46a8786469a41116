"""Jobs on a real authenticated head: what travels, who may submit, how a job is followed and ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from cluster.head import down
from cluster.problem import ClusterProblem
from cluster.submit import stable_name
from cluster.upload import MAX_UPLOAD_BYTES, upload_of
from cluster.variables import job_environment, without_credentials
from tests.s3_server import s3_server

ROOT = Path(__file__).parents[1]
PACKAGES = ("claims", "cluster", "pipelines", "shards", "trainers")


@dataclass(frozen=True)
class Head:
    """A head with its own token, ports and folders, as `make cluster-up` starts it."""

    home: Path
    address: str

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "sonograph", "submit", "--address", self.address, *map(str, words)]

    def environment(self, **changed: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(ROOT), **changed}

    def submit(self, *words: object, code: Path, timeout: float = 400, **changed: str) -> subprocess.CompletedProcess:
        """`sonograph submit` from the folder `code`."""
        return subprocess.run(
            self.command(*words),
            cwd=code,
            env=self.environment(**changed),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Sockets live below this folder, and their paths may have 107 characters: pytest's own folders are too long.
    home = Path(tempfile.mkdtemp(prefix="head-"))
    dashboard, *others = free_ports(4)
    options = [f"--port={others[0]}", f"--dashboard-agent-listen-port={others[1]}"]
    options += [
        f"--ray-client-server-port={others[2]}",
        f"--temp-dir={home / 'ray'}",
        "--object-store-memory=200000000",
    ]
    started = Head(home, f"http://127.0.0.1:{dashboard}")
    up = [sys.executable, "-m", "cluster.head", "up", "--folder", home / "state", "--dashboard-port", str(dashboard)]
    stop = [sys.executable, "-m", "cluster.head", "down", "--folder", home / "state"]
    try:
        subprocess.run([*up, "--", *options], cwd=ROOT, env=started.environment(), check=True)
        yield started
        stopped = subprocess.run(stop, cwd=ROOT, env=started.environment(), capture_output=True, text=True)
        assert stopped.stdout == "stopped the head\n"
        assert [process for process in psutil.process_iter() if is_below(process, home)] == []
    finally:
        subprocess.run(stop, cwd=ROOT, env=started.environment(), capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses and that are outside the range from which Ray takes those of its workers."""
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        candidate = socket.socket()
        candidate.bind(("127.0.0.1", 0))
        if candidate.getsockname()[1] > 20_000:
            sockets.append(candidate)
        else:
            candidate.close()
    ports = [open_socket.getsockname()[1] for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports


def is_below(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that editing the repository during the tests changes no job."""
    folder = tmp_path_factory.mktemp("code")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sonograph.py", ".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module, data and this repository's ignore files."""
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("shards/store.py", "runs/a/model.safetensors", "datasets/a/manifest.json", "tests/data/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_code_travels_and_data_runs_tests_and_environments_stay(folder: Path):
    (folder / ".venv").mkdir()
    (folder / ".venv" / "pyvenv.cfg").write_text("")
    assert list(upload_of(folder).file_bytes) == [".gitignore", ".rayignore", "shards/store.py"]


def test_the_repository_uploads_its_packages_and_little_else():
    names = upload_of(ROOT).file_bytes
    assert {"sonograph.py", "cluster/submit.py", "shards/store.py", "pyproject.toml"} <= set(names)
    assert {name.split("/")[0] for name in names if "/" in name} == set(PACKAGES)
    assert sum(names.values()) < 2 * 2**20


@pytest.mark.parametrize("name", [".env", "server.pem", "keys/id_rsa", "auth_token", "shards/token.txt"])
def test_a_planted_secret_is_refused_by_name(name: str, tmp_path: Path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("S3CRET")
    with pytest.raises(ClusterProblem, match="looks like a secret") as caught:
        upload_of(tmp_path)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_secret_that_git_ignores_stays_at_home(folder: Path):
    (folder / ".env").write_text("S3CRET")
    assert ".env" not in upload_of(folder).file_bytes


def test_data_in_the_wrong_place_is_refused_with_its_size(folder: Path):
    with (folder / "music.wav").open("wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)
    with pytest.raises(ClusterProblem, match=r"music\.wav \(64\.0 MiB\)"):
        upload_of(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder: Path):
    (folder / "link.py").symlink_to("/etc/hostname")
    (folder / "linked").symlink_to("/etc")
    assert not {"link.py", "linked/hostname"} & set(upload_of(folder).file_bytes)


def test_a_job_is_named_by_its_command_and_its_code(folder: Path):
    name = stable_name(("train", "myna:base"), upload_of(folder))
    os.utime(folder / "shards/store.py", (0, 0))
    assert stable_name(("train", "myna:base"), upload_of(folder)) == name
    assert stable_name(("train", "myna:large"), upload_of(folder)) != name
    (folder / "shards/store.py").write_text("changed")
    assert stable_name(("train", "myna:base"), upload_of(folder)) != name


def test_a_job_gets_the_tracking_server_but_no_password_of_it(tmp_path: Path):
    given = job_environment(str(tmp_path), {"MLFLOW_TRACKING_URI": "http://10.0.0.1:5000", "RAY_AUTH_TOKEN": "S3CRET"})
    assert given["MLFLOW_TRACKING_URI"] == "http://10.0.0.1:5000"
    assert given["SONOGRAPH_HOME"] == str(tmp_path)
    assert "S3CRET" not in str(given)
    with pytest.raises(ClusterProblem, match="holds a password"):
        job_environment(str(tmp_path), {"MLFLOW_TRACKING_URI": "https://someone:S3CRET@10.0.0.1"})


SHELL = {
    "AWS_ENDPOINT_URL_S3": "http://10.0.0.1:9000",
    "AWS_ACCESS_KEY_ID": "an-access-key",
    "AWS_SECRET_ACCESS_KEY": "S3CRET",
    "FSSPEC_S3_SECRET": "S3CRET",
}


def test_a_job_gets_the_address_of_a_store_and_a_key_only_when_it_is_named():
    plain = job_environment("/home", SHELL)
    assert plain["AWS_ENDPOINT_URL_S3"] == "http://10.0.0.1:9000"
    assert "an-access-key" not in str(plain) and "S3CRET" not in str(plain)
    named = job_environment("/home", SHELL, named=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    assert (named["AWS_ACCESS_KEY_ID"], named["AWS_SECRET_ACCESS_KEY"]) == ("an-access-key", "S3CRET")
    with pytest.raises(ClusterProblem, match="AWS_ENDPOINT_URL_S3 holds a password"):
        job_environment("/home", {"AWS_ENDPOINT_URL_S3": "https://someone:S3CRET@10.0.0.1"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("AWS_PROFIL", "no such variable"), ("A=S3CRET", "give its name alone"), ("RAY_AUTH_TOKEN", "Leave it out")],
)
def test_a_variable_that_is_not_set_or_not_to_be_sent_is_refused(name: str, sentence: str):
    with pytest.raises(ClusterProblem, match=sentence) as refused:
        job_environment("/home", {**SHELL, "RAY_AUTH_TOKEN": "S3CRET"}, named=(name,))
    assert refused.value.exit_code == 2
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize("words", [("inspect", "s3://music/x"), ("train", "--data.dataset=s3://music/x")])
def test_a_command_on_a_store_that_no_credential_of_the_job_opens_is_told(words: tuple[str, ...]):
    assert re.search(r"s3://music/x: no credential.*--env AWS_ACCESS_KEY_ID", without_credentials(words, {}))
    assert without_credentials(words, {"AWS_PROFILE": "music"}) == ""
    assert without_credentials(("inspect", "datasets/x"), {}) == ""


def test_a_head_that_is_absent_is_named_with_the_way_to_start_one(folder: Path):
    absent = Head(folder, f"http://127.0.0.1:{free_ports(1)[0]}")
    result = absent.submit("--", "train", code=folder, RAY_AUTH_TOKEN="0" * 64)
    assert result.returncode == 4
    assert absent.address in result.stderr
    assert "make cluster-up" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("is_alive", [True, False])
def test_only_the_note_of_a_dead_head_is_removed(is_alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        if not is_alive:
            server.close()
        assert not down(tmp_path / "state")
    assert note.exists() == is_alive


@pytest.mark.slow
class TestHead:
    def test_a_request_without_a_token_is_turned_away(self, head: Head):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)
        caught.value.close()
        assert caught.value.code == 401

    def test_the_token_is_readable_by_its_owner_alone(self, head: Head):
        assert (head.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0

    def test_starting_it_again_changes_nothing(self, head: Head):
        again = [sys.executable, "-m", "cluster.head", "up", "--folder", str(head.home / "state")]
        result = subprocess.run(again, cwd=ROOT, env=head.environment(), capture_output=True, text=True, timeout=120)
        assert result.stdout.splitlines()[-1].endswith(head.address)

    @pytest.mark.parametrize(
        ("environment", "sentence"),
        [
            ({"HOME": "/nonexistent"}, "there is none in RAY_AUTH_TOKEN"),
            ({"RAY_AUTH_TOKEN": "0" * 64}, "does not accept the token"),
        ],
    )
    def test_a_missing_or_wrong_token_gives_one_clear_sentence(
        self, head: Head, code: Path, environment: dict[str, str], sentence: str
    ):
        result = head.submit("--", "build", "--help", code=code, **environment)
        assert result.returncode == 4
        assert sentence in result.stderr
        assert "nothing was submitted" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_a_job_is_followed_to_its_end_and_a_repeat_does_not_run_it_again(self, head: Head, code: Path):
        first = head.submit("--", "build", "--help", code=code)
        assert first.returncode == 0, first.stderr
        assert "usage: sonograph build" in first.stdout
        assert f"{head.address}/#/jobs/sonograph-build-" in first.stdout.splitlines()[-1]
        again = head.submit("--", "build", "--help", code=code)
        assert again.returncode == 0
        assert "already (succeeded)" in again.stdout
        assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]

    def test_a_failed_job_gives_its_exit_code_and_runs_anew_when_repeated(self, head: Head, code: Path):
        for attempt in ("", "-2"):
            result = head.submit("--submission-id", "misspelt", "--", "bild", code=code)
            assert result.returncode == 2
            assert "Did you mean build?" in result.stdout
            assert f"The job misspelt{attempt} failed with exit code 2" in result.stderr

    def test_a_job_reaches_a_store_with_the_key_that_was_sent_and_is_told_when_none_is(self, head: Head, code: Path):
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        with s3_server() as server:
            server.client().create_bucket(Bucket="music")
            without = head.submit("--", "inspect", "s3://music/x", code=code, **server.environment)
            assert without.returncode == 4
            assert "no credential goes with this job" in without.stderr
            assert "Unable to locate credentials" in without.stdout
            opened = head.submit("--env", *keys, "--", "inspect", "s3://music/x", code=code, **server.environment)
            assert opened.returncode == 3, opened.stdout + opened.stderr
            assert "s3://music/x is no dataset" in opened.stdout
            assert "no credential" not in opened.stderr
            assert server.environment["AWS_SECRET_ACCESS_KEY"] not in opened.stdout

    def test_a_plain_ray_job_runs_the_same_command_in_the_folder_of_the_head(self, head: Head, code: Path):
        plain = [
            Path(sys.executable).with_name("ray"),
            "job",
            "submit",
            "--address",
            head.address,
            "--working-dir",
            ".",
        ]
        words = ["--", "sonograph", "train", "myna:base", "--size", "debug", "--data.dataset", "nowhere"]
        environment = head.environment(RAY_AUTH_MODE="token")
        result = subprocess.run(
            [*plain, *words], cwd=code, env=environment, capture_output=True, text=True, timeout=400
        )
        assert f"{ROOT}/nowhere/train is no dataset" in result.stdout
        assert result.returncode == 1

    def test_a_training_job_outlives_its_follower_and_its_run_is_in_mlflow(
        self, head: Head, code: Path, rendered_nsynth_dataset: Path, tmp_path: Path
    ):
        words = ["--", "train", "myna:base", "--size", "debug", "--data.dataset", rendered_nsynth_dataset]
        words += ["--workers", "2", "--out", tmp_path / "run"]
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        detach_at_first_line(head, words, code, tracking)
        followed = head.submit(*words, code=code, timeout=240, **tracking)
        assert followed.returncode == 0, followed.stdout + followed.stderr
        assert re.search(r"already \((pending|running)\)", followed.stdout)
        run = json.loads((tmp_path / "run" / "RESULT.json").read_text())
        client = MlflowClient(tracking["MLFLOW_TRACKING_URI"])
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        assert [found.info.status for found in runs] == ["FINISHED"]
        assert len(client.get_metric_history(runs[0].info.run_id, "train/loss")) >= 1
        assert run["status"] == "ok"


def detach_at_first_line(head: Head, words: list[object], code: Path, changed: dict[str, str]) -> None:
    """Submit, and press Ctrl-C as soon as the job is there."""
    follower = subprocess.Popen(
        head.command(*words),
        cwd=code,
        env=head.environment(**changed),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    while "was submitted" not in (line := follower.stdout.readline()):
        assert line, follower.communicate()
    follower.send_signal(signal.SIGINT)
    _, errors = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert "detached; the job sonograph-train-" in errors
    assert "ray job stop" in errors
