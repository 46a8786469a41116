"""What reaches MLflow: everything, once, whatever dies on the way; and what MLflow may do to a training: nothing."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from safetensors.numpy import save_file

from shards.problem import DataProblem, EnvironmentProblem, RunFailed, UsageProblem
from trainers.mirror import STATE, Progress, batches, mirror, sole_replay
from trainers.mlflow_store import MlflowStore, first_line
from trainers.sync import Sync
from trainers.sync import main as sync
from trainers.tracking import Event, Run, Signature, curves
from trainers.ui import server

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

TRAINING = """
import sys, time
from pathlib import Path
from trainers.mirror import mirror
from trainers.tracking import Run
folder, first, last, wait_seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with mirror(folder, experiment="test", run_name="r", wait_seconds=wait_seconds) as link:
    run, started = Run(folder), time.monotonic()
    with run.alive():
        for step in range(first, last):
            run.metrics(step, {"train/loss": 1 / (step + 1)})
            time.sleep(0.005)
    ended = time.monotonic()
print(ended - started, time.monotonic() - ended, link.summary, sep="\\n", flush=True)
"""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowStore(f"sqlite:///{path}")
    return path


@pytest.fixture
def address(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SQLite store of this test alone, which is also the default store."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def start_training(
    folder: Path, first: int, last: int, address: str, wait_seconds: float = 30
) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", TRAINING, str(folder), str(first), str(last), str(wait_seconds)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
    return subprocess.Popen(words, cwd=Path(__file__).parents[1], env=environment, text=True, stdout=subprocess.PIPE)


def the_only_run(address: str) -> MlflowRun:
    client = MlflowClient(address)
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(found) == 1
    return found[0]


def history(address: str, name: str = "train/loss") -> list[tuple[int, float]]:
    """All points of a curve as MLflow keeps them, doubles too."""
    metrics = MlflowClient(address).get_metric_history(the_only_run(address).info.run_id, name)
    return sorted((metric.step, metric.value) for metric in metrics)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_checkpoint(folder: Path, value: float) -> Path:
    folder.mkdir(parents=True)
    save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
    (folder / "card.json").write_text(json.dumps({"step": 600}))
    return folder


def test_all_kinds_of_events_reach_mlflow(address, run, tmp_path):
    with mirror(run.folder, experiment="myna-pretrain", run_name="myna-base-nsynth") as link, run.alive():
        run.params({"model": {"width": 384}, "long": "x" * 7000})
        run.tags({"data.digest": "7c1e"})
        run.metrics(1, {"train/loss": 2.5, "train/grad_norm": float("nan")})
        run.dataset(
            "nsynth/train", digest="7c1e" * 16, source="datasets/nsynth/train", context="training", split="train"
        )
        run.table("probe", [{"encoder": "ours", "pitch": 0.88}])
        run.model(
            write_checkpoint(tmp_path / "checkpoint", 1),
            "myna-base",
            alias="candidate",
            signature=Signature((-1, 128, 96), (-1, 384)),
            example=np.zeros((1, 128, 96)),
        )
    client, found = MlflowClient(address), the_only_run(address)
    assert link.waiting == 0 and found.info.run_id in link.summary
    assert (found.info.run_name, found.info.status) == ("myna-base-nsynth", "FINISHED")
    assert client.get_experiment(found.info.experiment_id).name == "sonograph/myna-pretrain"
    assert found.data.params["model.width"] == "384"
    assert len(found.data.params["long"]) == 6000 and found.data.params["long"].endswith("whole in events.jsonl)")
    assert found.data.tags["data.digest"] == "7c1e"
    assert found.data.metrics["train/loss"] == 2.5 and np.isnan(found.data.metrics["train/grad_norm"])
    dataset = found.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("nsynth/train", "7c1e" * 4)
    assert json.loads(dataset.dataset.profile)["fingerprint"] == "7c1e" * 16
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
    assert [file.path for file in client.list_artifacts(found.info.run_id, "plots")] == ["plots/probe.csv"]
    version = client.get_model_version_by_alias("myna-base", "candidate")
    assert (version.run_id, version.tags["step"]) == (found.info.run_id, "600")


def test_a_registered_model_is_found_by_its_alias_and_holds_no_pickle(address, run, tmp_path):
    shapes = Signature((-1, 4), (-1, 3))
    for value in (1.0, 2.0):
        checkpoint = write_checkpoint(tmp_path / str(value), value)
        run.model(checkpoint, "tiny", alias="candidate", signature=shapes, example=np.ones((1, 4)))
    sync(Sync((run.folder,)))
    (run.folder / STATE).unlink()
    sync(Sync((run.folder,)))

    store = MlflowStore(address)
    newest, first = (store.model_folder(f"models:/tiny{which}", tmp_path / "cache") for which in ("@candidate", "/1"))
    assert (newest / "model.safetensors").read_bytes() == (tmp_path / "2.0" / "model.safetensors").read_bytes()
    assert (first / "model.safetensors").read_bytes() == (tmp_path / "1.0" / "model.safetensors").read_bytes()
    assert {file.name for file in newest.iterdir()} == {
        "MLmodel", "card.json", "input_example.json", "input_example.npy", "model.safetensors"
    }  # fmt: skip
    assert len(MlflowClient(address).search_model_versions("name = 'tiny'")) == 2
    with pytest.raises(DataProblem, match="Did you mean models:/tiny@candidate"):
        store.model_folder("models:/tiny@candidat", tmp_path / "cache")


def test_a_driver_killed_at_any_time_continues_the_same_run_without_doubles(address, run):
    for first, enough in ((0, 60), (40, 120)):  # the second one goes back a little, as after a checkpoint
        driver = start_training(run.folder, first, 100_000, address)
        until(lambda: Progress.read(run.folder, address).offset > 0 and len(curves(run.folder)["train/loss"]) > enough)  # noqa: B023
        driver.kill()
        driver.communicate()
    last = max(curves(run.folder)["train/loss"]) + 20
    assert start_training(run.folder, last - 100, last, address).communicate(timeout=120)[0]

    assert history(address) == [(step, 1 / (step + 1)) for step in range(last)]
    assert the_only_run(address).info.status == "FINISHED"


def test_without_its_state_file_a_run_finds_its_mlflow_run_again(address, run):
    run.metrics(1, {"train/loss": 1.0})
    sync(Sync((run.folder,)))
    (run.folder / STATE).write_text("{torn")
    run.metrics(2, {"train/loss": 2.0})
    sync(Sync((run.folder,)))
    assert history(address) == [(1, 1.0), (2, 2.0)]


def test_a_server_that_is_absent_then_killed_then_back_has_the_undisturbed_history(address, run, monkeypatch):
    port = unused_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    steps = itertools.count()

    def train(count: int) -> None:
        for step in itertools.islice(steps, count):
            run.metrics(step, {"train/loss": step / 2})

    with mirror(run.folder, experiment="test", run_name="r", wait_seconds=60.0) as link:
        train(100)
        with server(address, port) as pages:
            until(lambda: link.waiting == 0)
            train(100)
            os.killpg(pages.process.pid, signal.SIGKILL)
        train(100)
        with server(address, port):
            link.close(60.0)
            assert link.waiting == 0
    assert history(address) == [(step, step / 2) for step in range(300)]


def test_what_an_absent_server_missed_is_uploaded_by_sync(address, run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port()}")
    with mirror(run.folder, experiment="test", run_name="r", wait_seconds=0.1) as link:
        run.metrics(1, {"train/loss": 1.0})
    assert link.summary == f"3 records wait in {run.folder}; upload them with: sonograph sync {run.folder}"
    with pytest.raises(EnvironmentProblem, match="3 records keep waiting"):
        until(lambda: sync(Sync((run.folder,)))["metrics"] is None)  # once the mirror's last attempt is over

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert sync(Sync((run.folder,)))["metrics"] == {"runs": 1, "records": 3}
    assert history(address) == [(1, 1.0)]
    assert "3 records  http://127.0.0.1:5000/#/experiments/" in capsys.readouterr().out


@pytest.fixture(params=[10, 0], ids=["slow", "broken"])
def bad_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Takes ten seconds, or none, for any answer, and then it is an error."""

    class Sleepy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait(request.param)
            self.send_error(500)

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *values: object) -> None:
            """Says nothing."""

    released = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Sleepy) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        released.set()
        listening.shutdown()
        thread.join()


def test_a_bad_server_neither_slows_a_training_nor_keeps_its_process(bad_server, run):
    driver = start_training(run.folder, 0, 200, bad_server, wait_seconds=1)
    assert driver.stdout is not None
    training_seconds, closing_seconds, summary = (driver.stdout.readline() for _ in range(3))
    said = time.monotonic()
    driver.communicate(timeout=60)
    assert float(training_seconds) < 200 * 0.005 + 4  # one answer takes 10
    assert float(closing_seconds) < 5
    assert "204 records wait" in summary
    assert time.monotonic() - said < 8


def test_a_record_that_mlflow_refuses_keeps_no_other_from_arriving(address, run, caplog):
    lost = run.table("lost", [{"a": 1}])
    text = lost.read_bytes()
    lost.unlink()
    run.metrics(1, {"train/loss": 1.0})
    with pytest.raises(RunFailed, match="refused 1 of 3 records"):
        sync(Sync((run.folder,)))
    assert history(address) == [(1, 1.0)] and "mlflow refused a record (artifact)" in caplog.text

    lost.write_bytes(text)
    sync(Sync((run.folder,)))
    found = MlflowClient(address).list_artifacts(the_only_run(address).info.run_id, "plots")
    assert [file.path for file in found] == ["plots/lost.csv"]


def test_a_second_command_on_the_same_run_leaves_the_upload_to_the_first(address, run, capsys):
    with sole_replay(run.folder, address):
        run.metrics(1, {"train/loss": 1.0})
        assert sync(Sync((run.folder,)))["metrics"] == {"runs": 1, "records": 0}
    assert "is being uploaded by the command that runs it" in capsys.readouterr().out


def test_an_evaluation_of_a_finished_training_lands_in_the_same_run(address, run):
    for name, value in (("train/loss", 1.0), ("eval/pitch_accuracy", 0.88)):
        with mirror(run.folder, experiment=name, run_name=name):
            Run(run.folder).results(600, {name: value})
    found = the_only_run(address)
    assert {name: found.data.metrics[name] for name in ("train/loss", "eval/pitch_accuracy")} == {
        "train/loss": 1.0,
        "eval/pitch_accuracy": 0.88,
    }
    assert found.info.run_name == "train/loss"


def test_a_run_whose_command_was_killed_is_closed_by_sync(address, run):
    run.status("RUNNING")
    sync(Sync((run.folder,)))
    found = the_only_run(address)
    assert found.info.status == "KILLED"
    assert found.data.tags["status.reason"] == "its command ended without a word"


def test_a_run_deleted_in_mlflow_is_uploaded_anew(address, run):
    run.metrics(1, {"train/loss": 1.0})
    sync(Sync((run.folder,)))
    MlflowClient(address).delete_run(the_only_run(address).info.run_id)
    sync(Sync((run.folder,)))
    assert history(address) == [(1, 1.0)]


def test_sync_names_the_runs_that_exist_when_the_folder_is_none(tmp_path):
    with pytest.raises(UsageProblem, match="no run folder"):
        sync(Sync((tmp_path,)))


def test_batches_hold_all_events_in_order_and_never_more_than_one_call_takes():
    small = [Event("metrics", 0, {"step": n, "values": dict.fromkeys("abc", 0.0)}, n, n + 1) for n in range(1000)]
    heavy = Event("artifact", 0, {"path": "a", "to": ""}, 0, 1)
    sent = list(batches([*small[:10], heavy, *small[10:]]))
    assert [event for batch in sent for event in batch] == [*small[:10], heavy, *small[10:]]
    assert [len(batch) for batch in sent] == [10, 1, 333, 333, 324]


def test_four_processes_that_open_a_new_store_at_once_all_succeed(tmp_path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trainers.mlflow_store"])
    openers = [processes.Process(target=MlflowStore, args=(f"sqlite:///{tmp_path}/runs/mlflow.db",)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(120)
    assert [opener.exitcode for opener in openers] == [0] * 4
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mlflow.db", "mlflow.lock"}


def test_a_database_that_is_none_is_explained_with_a_remedy(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(EnvironmentProblem, match="cannot be used as MLflow's store.*sonograph sync fills it"):
        MlflowStore(f"sqlite:///{tmp_path}/mlflow.db")


def test_the_gist_of_an_error_shows_no_password():
    assert first_line(OSError("no route to http://me:S3CRET@host\nand so on")) == "no route to http://[hidden]@host"
