"""Training against lost machines and killed commands, by the real command on real Ray clusters of several nodes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient

from tests.background import in_two_processes, last_step, started, starts, statuses, wait_until, workers_of
from tests.command import sonograph
from tests.corpus import write_noise_dataset
from trainers import checkpoint
from trainers.task import prepare
from trainers.tracking import curves
from trainers.train import COMMAND

pytestmark = pytest.mark.faults
STEPS, SAVE_EVERY = 240, 20


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for split, examples in (("train", 24), ("valid", 6)):
        write_noise_dataset(folder / split, examples, samples=50_000)
    return folder


def words(dataset: Path, out: Path) -> list[str]:
    options = ["--epochs", str(STEPS // 3), "--save-every-steps", str(SAVE_EVERY), "--workers", "2"]
    return ["myna:base", "--size", "debug", "--data.dataset", str(dataset), "--out", str(out), *options]


@pytest.fixture
def nodes() -> Iterator[list]:
    """A cluster of a head without CPUs and three nodes, each a raylet of its own with one CPU; two take part."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield [cluster, *(cluster.add_node(num_cpus=1) for _ in range(3))]
    finally:
        cluster.shutdown()


def test_a_machine_that_vanishes_costs_a_restart_from_the_last_checkpoint(noise, nodes, tmp_path):
    cluster, *_ = nodes
    run, environment = tmp_path / "run", {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with started(
        "train", *words(noise, run), log=tmp_path / "log", RAY_ADDRESS=cluster.address, **environment
    ) as command:
        wait_until(lambda: last_step(run) > SAVE_EVERY + 5, command)
        next(raylet for raylet in map(raylet_of, nodes[1:]) if has_worker(raylet)).kill()
        assert command.wait(400) == 0
    assert len(starts(run)) == 2 and starts(run)[1] % SAVE_EVERY == 0 and starts(run)[1] > 0
    require_undisturbed(noise, run, tmp_path)


def test_a_command_that_is_killed_outright_continues_when_it_is_repeated(noise, tmp_path):
    run, environment = tmp_path / "run", {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with started("train", *words(noise, run), log=tmp_path / "log", **environment) as command:
        wait_until(lambda: last_step(run) > SAVE_EVERY + 5, command)
        workers = workers_of(command)
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
    for worker in workers:
        worker.wait(60)  # nothing of it stays behind
    again = sonograph("train", *words(noise, run), **environment)
    assert again.returncode == 0, again.stderr
    assert len(starts(run)) == 2 and starts(run)[1] >= SAVE_EVERY
    require_undisturbed(noise, run, tmp_path)


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def has_worker(raylet: psutil.Process) -> bool:
    return any("RayTrainWorker" in " ".join(child.cmdline()) for child in raylet.children(recursive=True))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.open_model(sorted(run.glob("checkpoints/step-*"))[-1])[0].state_dict())


def require_undisturbed(dataset: Path, run: Path, tmp_path: Path) -> None:
    """The same numbers as a training that nobody disturbed, and one MLflow run with every point once."""
    assert statuses(run)[-1] == "FINISHED"
    alone = COMMAND([*words(dataset, tmp_path / "alone")])
    (tmp_path / "alone").mkdir()
    in_two_processes(prepare(alone))
    losses = curves(run)["train/loss"]
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses == curves(tmp_path / "alone")["train/loss"]
    torch.testing.assert_close(weights(run), weights(tmp_path / "alone"), rtol=0, atol=0)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == sorted(losses.items())
    assert found.info.status == "FINISHED"
