"""The pages that a person looks at: they start, stop, and show a run, its curves, pictures, sound and model."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from safetensors.numpy import save_file

from shards.example import Clip
from shards.problem import EnvironmentProblem
from tests import browse
from trainers.mirror import Progress, mirror
from trainers.mlflow_store import MlflowStore
from trainers.provenance import provenance
from trainers.tracking import Run, Signature
from trainers.ui import Ui, experiments_page, main, server

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
REPOSITORY = Path(__file__).parents[1]

AUDIO_SECONDS = """
    const seen = [document];
    while (seen.length) {
        const root = seen.pop(), audio = root.querySelector("audio");
        if (audio) return audio.readyState >= 2 && audio.duration;
        root.querySelectorAll("*").forEach(element => element.shadowRoot && seen.push(element.shadowRoot));
    }
    return false"""  # the player hides in a shadow root, where no selector finds it


@dataclass(frozen=True)
class Shown:
    """A run on the pages of a running server."""

    page: str
    run_page: str
    folder: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """An example run, told to a real server over HTTP."""
    folder = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch, server(f"sqlite:///{folder}/mlflow.db", 0) as running:
        patch.setenv("MLFLOW_TRACKING_URI", running.page)
        with mirror(
            folder / "run", experiment="myna-pretrain", run_name="myna-base-rendered", wait_seconds=120.0
        ) as link:
            train_for_show(Run(folder / "run"))
        assert link.waiting == 0
        yield Shown(running.page, Progress.read(folder / "run", running.page).url.partition("?")[0], folder / "run")


def train_for_show(run: Run) -> None:
    rng = np.random.default_rng(0)
    with run.alive():
        run.tags(provenance(["sonograph", "train", "myna:base", "--size", "laptop"]))
        run.params({"model": {"width": 192, "depth": 4}, "optimizer": {"lr": 3e-4}})
        run.dataset(
            "nsynth/train", digest="7c1e" * 16, source="datasets/nsynth/train", context="training", split="train"
        )
        for step in range(0, 600, 10):
            run.metrics(step, {"train/loss": 5 * np.exp(-step / 200) + rng.random() / 10, "train/lr": 3e-4})
        figure, axes = plt.subplots()
        axes.imshow(rng.random((128, 96)), origin="lower")
        run.figure("views", figure, 600)
        plt.close(figure)
        tone = 0.5 * np.sin(np.arange(32_000) * 2 * np.pi * 440 / 16_000)
        run.audio("note", Clip(tone[None].astype(np.float32), 16_000), 600)
        checkpoint = run.folder / "checkpoints" / "step-00000600"
        checkpoint.mkdir(parents=True)
        save_file({"w": rng.random(3).astype(np.float32)}, checkpoint / "model.safetensors")
        (checkpoint / "card.json").write_text(json.dumps({"step": 600}))
        shapes = Signature((-1, 128, 96), (-1, 192))
        run.model(checkpoint, "myna-base", alias="candidate", signature=shapes, example=rng.random((1, 128, 96)))


def test_ui_prints_a_link_that_answers_and_stops_with_nothing_left_on_ctrl_c(tmp_path):
    words = [sys.executable, "-m", "sonograph", "ui", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    link = command.stdout.readline().strip()
    assert link.endswith("/#/experiments?workflowType=machine_learning")
    with urllib.request.urlopen(link.partition("#")[0], timeout=20) as page:
        assert b"<title>MLflow</title>" in page.read()
    command.send_signal(signal.SIGINT)
    said, complaints = command.communicate(timeout=120)
    assert command.returncode == 0 and complaints == ""
    assert said.endswith(f"stopped; everything stays in sqlite:///{tmp_path}/runs/mlflow.db\n")
    with pytest.raises(OSError):
        urllib.request.urlopen(link.partition("#")[0], timeout=2)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mlflow.db", "mlflow.lock", "mlflow-server.log"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_taken_port_is_explained_with_another_one(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shown.folder.parent}/mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"Port {port} .* sonograph ui --port {port + 1}"):
            main(Ui(port))


def test_a_remote_server_needs_no_second_one(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:S3CRET@mlflow.example.org/")
    assert main(Ui())["output"] == "https://[hidden]@mlflow.example.org/#/experiments?workflowType=machine_learning"


def test_a_model_of_a_server_is_downloaded_once(shown, tmp_path):
    store = MlflowStore(shown.page)
    folder = store.model_folder("models:/myna-base@candidate", tmp_path)
    weights = folder / "model.safetensors"
    assert folder.parents[1] == tmp_path and folder.name == "myna-base-1"
    assert weights.read_bytes() == (shown.folder / "checkpoints" / "step-00000600" / "model.safetensors").read_bytes()
    written = weights.stat().st_mtime_ns
    assert store.model_folder("models:/myna-base/1", tmp_path) == folder
    assert weights.stat().st_mtime_ns == written


def test_a_model_of_an_absent_server_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(EnvironmentProblem, match="did not hand out models:/m@best .* set MLFLOW_TRACKING_URI"):
        MlflowStore("http://127.0.0.1:9").model_folder("models:/m@best", tmp_path)


@pytest.mark.browser
@pytest.mark.skipif(bool(browse.MISSING), reason=f"not installed: {', '.join(browse.MISSING)}")
def test_a_person_finds_the_run_its_curves_its_picture_its_sound_and_its_model(shown):
    with browse.browser() as driver:
        browse.visit(driver, experiments_page(shown.page))
        browse.await_text(driver, "sonograph/myna-pretrain")
        assert "Default" not in driver.page_source

        browse.visit(driver, f"{shown.run_page}?workflowType=machine_learning")
        for text in (
            "myna-base-rendered",
            "nsynth/train (7c1e7c1e7c1e7c1e)",
            "sonograph train myna:base",
            "train/loss",
        ):
            browse.await_text(driver, text)

        browse.visit(driver, f"{shown.run_page}/model-metrics?workflowType=machine_learning")
        browse.await_true(driver, "return document.querySelectorAll('svg.main-svg').length > 0")

        browse.visit(driver, f"{shown.run_page}/artifacts/plots/step-00000600/views.png?workflowType=machine_learning")
        browse.await_true(driver, "return [...document.images].some(image => image.naturalWidth > 300)")

        browse.visit(driver, f"{shown.run_page}/artifacts/plots/step-00000600/note.wav?workflowType=machine_learning")
        browse.await_true(driver, AUDIO_SECONDS)
        assert driver.execute_script(AUDIO_SECONDS) == pytest.approx(2.0, abs=0.05)

        browse.visit(driver, f"{shown.page}/#/models/myna-base?workflowType=machine_learning")
        for text in ("Version 1", "candidate"):
            browse.await_text(driver, text)


@pytest.mark.browser
@pytest.mark.skipif(bool(browse.MISSING), reason=f"not installed: {', '.join(browse.MISSING)}")
def test_a_screenshot_is_a_picture_of_the_window(shown, tmp_path):
    browse.screenshot(f"{shown.run_page}?workflowType=machine_learning", tmp_path / "run.png", expect="train/loss")
    picture = plt.imread(tmp_path / "run.png")
    assert picture.shape[1] == 1700 and picture.std() > 0.01
