"""Training by the real command: killed, stopped and continued without a trace in its numbers; bad input explained."""

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.problem import DataProblem, EnvironmentProblem, RunFailed, UsageProblem
from tests.background import in_two_processes, last_step, started, starts, statuses, wait_until, workers_of
from tests.bumps import write_bumps, write_split
from tests.command import sonograph
from tests.corpus import write_noise_dataset
from trainers import checkpoint, sweep
from trainers.command_line import Command
from trainers.config import load
from trainers.driver import set_aside, settle, sole_trainer
from trainers.task import Task, prepare, run_folder
from trainers.tracking import curves, events
from trainers.train import COMMAND, main, work_on

EXAMPLES, BATCH_EXAMPLES = 24, 8
DEBUG = ["train", "myna:base", "--size", "debug"]


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """A dataset of three steps an epoch."""
    folder = tmp_path_factory.mktemp("noise")
    for split, examples in (("train", EXAMPLES), ("valid", 6)):
        write_noise_dataset(folder / split, examples, samples=50_000)
    return folder


def command_of(dataset: Path, out: Path, *words: str) -> Command:
    return COMMAND(["myna:base", "--size", "debug", "--data.dataset", str(dataset), "--out", str(out), *words])


def task_of(dataset: Path, out: Path, *words: str) -> Task:
    out.mkdir(exist_ok=True)
    return prepare(command_of(dataset, out, *words))


def prepared_run(dataset: Path, out: Path) -> Task:
    """A task in a run folder that the command has settled in."""
    task = task_of(dataset, out)
    settle(task)
    return task


def losses(run: Path) -> dict[int, float]:
    return curves(run)["train/loss"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.open_model(sorted((run / "checkpoints").glob("step-*"))[-1])[0].state_dict())


def test_training_learns_and_points_to_the_checkpoint_of_the_lowest_validation_loss(tmp_path):
    write_bumps(tmp_path / "bumps", examples={"train": 48, "valid": 16}, classes=16, frames=112)
    task = task_of(tmp_path / "bumps", tmp_path / "run", "--epochs", "20", "--save-every-steps", "20")
    assert work_on(task) == task.steps == 120
    validation = curves(task.run)["valid/loss"]
    assert list(validation) == [20, 40, 60, 80, 100, 120]
    assert validation[120] < validation[20]
    best = json.loads((task.checkpoints / "best.json").read_bytes())
    assert best["validation_loss"] == min(validation.values()) == validation[best["step"]]


def test_a_training_that_was_stopped_continues_with_the_same_numbers(noise, tmp_path):
    whole, halves = (task_of(noise, tmp_path / name, "--epochs", "4") for name in ("whole", "halves"))
    work_on(whole)
    halves.stop_file.touch()  # ends after one step, with a checkpoint
    assert work_on(halves) == 1
    halves.stop_file.unlink()
    assert work_on(halves) == 12
    assert losses(halves.run) == losses(whole.run)
    torch.testing.assert_close(weights(halves.run), weights(whole.run), rtol=0, atol=0)


def test_another_number_of_workers_continues_in_the_same_order(noise, tmp_path):
    one, mixed = (task_of(noise, tmp_path / name, "--epochs", "2", "--workers", "2") for name in ("one", "mixed"))
    work_on(one)
    mixed.stop_file.touch()
    work_on(mixed)
    mixed.stop_file.unlink()
    in_two_processes(mixed)
    assert losses(mixed.run) == pytest.approx(losses(one.run), rel=1e-4)
    torch.testing.assert_close(weights(mixed.run), weights(one.run), rtol=1e-3, atol=1e-4)


def test_a_checkpoint_without_the_file_of_one_rank_is_passed_over(noise, tmp_path, caplog):
    task = task_of(noise, tmp_path / "run", "--epochs", "2", "--save-every-steps", "3")
    in_two_processes(task)
    assert checkpoint.newest_step(task.checkpoints, task.identity) == 6
    (task.checkpoints / "step-00000006" / "engine" / "random-00001.safetensors").unlink()
    assert checkpoint.newest_step(task.checkpoints, task.identity) == 3
    assert "random-00001.safetensors is missing" in caplog.text and "Falling back" in caplog.text


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`")  # of torch itself, while DeepSpeed imports its compiler
@pytest.mark.parametrize("words", [["--engine.zero-stage", "3"], ["--engine.precision", "bf16"]])
def test_the_same_loop_serves_every_engine_setting(noise, tmp_path, words):
    plain, other = task_of(noise, tmp_path / "plain"), task_of(noise, tmp_path / "other", *words)
    work_on(plain)
    work_on(other)
    assert losses(other.run) == pytest.approx(losses(plain.run), rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)  # three starts of Ray Train
def test_killed_stopped_and_repeated_a_training_ends_as_if_nothing_had_happened(rendered_nsynth_dataset, tmp_path):
    options = ["--epochs", "16", "--save-every-steps", "30", "--workers", "2"]
    run, undisturbed = tmp_path / "run", task_of(rendered_nsynth_dataset, tmp_path / "undisturbed", *options)
    words = [*DEBUG, "--data.dataset", rendered_nsynth_dataset, "--out", run, *options]
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with started(*words, log=tmp_path / "first.log", **environment) as first:
        wait_until(lambda: last_step(run) > 35, first)
        workers_of(first)[1].kill()
        wait_until(lambda: len(starts(run)) == 2, first)
        wait_until(lambda: last_step(run) > starts(run)[1] + 40, first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(120) == 143
    stopped_at = last_step(run)
    assert starts(run)[0] == 0 and starts(run)[1] % 30 == 0 and starts(run)[1] > 0
    assert (run / "checkpoints" / f"step-{stopped_at:08d}" / "card.json").exists()
    assert statuses(run)[-1] == "KILLED"

    with started(*words, log=tmp_path / "second.log", **environment) as second:
        wait_until(lambda: len(starts(run)) == 3 and last_step(run) > stopped_at + 10, second)
        workers_of(second)[1].terminate()  # as a machine that is taken away does
        assert second.wait(120) == 143
    ended_at = last_step(run)
    assert (run / "checkpoints" / f"step-{ended_at:08d}" / "card.json").exists() and statuses(run)[-1] == "KILLED"

    again = sonograph(*words, **environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(run)
    assert starts(run)[2:] == [stopped_at, ended_at] and statuses(run)[-1] == "FINISHED"

    in_two_processes(undisturbed)
    assert losses(run) == losses(undisturbed.run)
    torch.testing.assert_close(weights(run), weights(undisturbed.run), rtol=0, atol=0)
    assert not [event for event in events(run) if event.kind == "repeat" and "train/loss" in event.fields["values"]]

    complete = sonograph(*words, **environment)
    assert complete.returncode == 0 and "complete since an earlier call" in complete.stderr
    assert "starting" not in complete.stderr


def test_an_absent_ray_head_ends_the_command_soon_with_a_remedy(noise, tmp_path):
    words = [*DEBUG, "--data.dataset", noise, "--out", tmp_path / "run"]
    place = {"RAY_ADDRESS": "127.0.0.1:1", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = sonograph(*words, timeout=90, **place)
    assert done.returncode == 4
    assert "127.0.0.1:1" in done.stderr and "RAY_ADDRESS" in done.stderr and "Traceback" not in done.stderr
    assert statuses(tmp_path / "run")[-1] == "FAILED"


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_example(tmp_path):
    powers = [np.ones((128, 96), np.float32) for _ in range(8)]
    powers[5][:] = np.nan
    for split in ("train", "valid"):
        write_split(tmp_path / "poisoned" / split, powers, {"pitch": list(range(8))})
    task = task_of(tmp_path / "poisoned", tmp_path / "run")
    assert work_on(task) is None
    problem = json.loads(task.problem_file.read_bytes())
    assert problem["exit_code"] == RunFailed.exit_code
    assert re.search(r"step 0 was refused: its loss is nan.*8 examples.*no numbers: 5 \(.+\)\.", problem["message"])
    assert not list(task.checkpoints.glob("step-*"))


def test_a_broken_batch_is_skipped_within_the_budget_and_named(tmp_path):
    powers = [np.ones((128, 96), np.float32) + number for number in range(24)]
    powers[5][:] = np.nan
    for split, part in (("train", powers), ("valid", powers[8:16])):
        write_split(tmp_path / "poisoned" / split, part, {"pitch": list(range(len(part)))})
    words = ["--epochs", "2", "--engine.skip-budget", "2"]
    task = task_of(tmp_path / "poisoned", tmp_path / "run", *words)
    assert work_on(task) == 6
    notes = [text for event in events(task.run) if event.kind == "tags" for text in event.fields["values"].items()]
    skipped = {name: text for name, text in notes if name.startswith("skipped.")}
    assert len(skipped) == 2 and all("its loss is nan" in text and ": 5 (" in text for text in skipped.values())
    assert list(curves(task.run)["train/skipped"].values()) == [1, 2]
    assert set(losses(task.run)) | set(curves(task.run)["train/skipped"]) == set(range(1, 7))
    assert all(np.isfinite(list(losses(task.run).values())))

    tight = task_of(tmp_path / "poisoned", tmp_path / "tight", "--epochs", "2", "--engine.skip-budget", "1")
    assert work_on(tight) is None
    message = json.loads(tight.problem_file.read_bytes())["message"]
    assert "1 batches were skipped before it, 1 may be" in message and "--engine.skip-budget" in message


def test_speed_memory_and_the_use_of_the_processor_are_measured(noise, tmp_path):
    task = task_of(noise, tmp_path / "run")
    work_on(task)
    measured = curves(task.run)
    flops = task.costs(torch.device("cpu"))["flops_per_example"]
    for step, rate in measured["train/examples_per_second"].items():
        assert measured["train/model_flops_per_s"][step] == pytest.approx(rate * flops)
        assert 0 < measured["train/mfu"][step] < 1 and 0 <= measured["train/data_wait"][step] <= 1
        assert measured["train/memory_gib"][step] > 0.1


def test_a_worker_leaves_a_note_of_what_no_restart_can_cure(noise, tmp_path):
    dataset = Path(shutil.copytree(noise, tmp_path / "damaged"))
    shard = dataset / "train" / "mel" / "000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    task = task_of(dataset, tmp_path / "run")
    with pytest.raises(DataProblem):
        work_on(task)
    problem = json.loads(task.problem_file.read_bytes())
    assert problem["exit_code"] == DataProblem.exit_code and str(shard) in problem["message"]
    assert work_on(task) is None  # what a restarted group does


def test_settings_are_shown_by_a_dry_run_that_writes_nothing(noise, tmp_path, capsys):
    outcome = main(command_of(noise, tmp_path / "run", "--dry-run", "--model.log1p", "true"))
    assert json.loads(capsys.readouterr().out)["model"]["log1p"] is True
    assert outcome["steps"] == 2 * EXAMPLES // BATCH_EXAMPLES and not (tmp_path / "run").exists()


def test_a_config_is_printed_as_json_without_any_dataset(tmp_path):
    done = sonograph(*DEBUG, "--data.dataset", tmp_path / "nowhere", "--model.log1p", "true", "--print-config")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["model"]["log1p"] is True and printed["data"]["dataset"] == str(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_named_by_what_is_learned(noise):
    config = replace(load("myna:base", "debug"), data=command_of(noise, Path("x")).config.data)
    assert run_folder(config) == run_folder(replace(config, log_every_steps=9))
    assert run_folder(config) != run_folder(replace(config, seed=9))
    assert re.fullmatch(r"runs/myna-base-debug-[0-9a-f]{8}", str(run_folder(config)))


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (["--model.bands", "64"], DataProblem, "128 bands"),
        (["--model.frames", "80"], UsageProblem, "data.frames=96"),
        (["--data.batch-examples", "25"], DataProblem, "fewer"),
        (["--data.column", "codec"], DataProblem, "no column 'codec'"),
        (["--workers", "9"], UsageProblem, "9 workers"),
        (["--engine.accumulation-steps", "3"], UsageProblem, "multiple of 6"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_the_first_step(noise, tmp_path, words, kind, told):
    with pytest.raises(kind, match=told):
        main(command_of(noise, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_columns_of_other_contracts_are_refused(tmp_path):
    write_bumps(tmp_path / "mixed", examples={"train": 12})
    write_bumps(tmp_path / "mixed", examples={"valid": 8}, contract={"fingerprint": "another"})
    with pytest.raises(DataProblem, match=r"another|different"):
        main(command_of(tmp_path / "mixed", tmp_path / "run"))
    write_bumps(tmp_path / "other", examples={"train": 12, "valid": 8}, contract={"hop_samples": 160})
    with pytest.raises(DataProblem, match="hop_samples"):
        main(command_of(tmp_path / "other", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_clips_shorter_than_a_view_are_left_out_and_counted(tmp_path, caplog):
    powers = [np.ones((128, 96 if number % 3 else 80), np.float32) + number for number in range(24)]
    for split in ("train", "valid"):
        write_split(tmp_path / "mixed" / split, powers, {"pitch": list(range(24))})
    assert task_of(tmp_path / "mixed", tmp_path / "run").steps == 2 * 16 // BATCH_EXAMPLES
    assert "8 examples are shorter than 96 frames and left out" in caplog.text


def test_a_batch_of_silence_alone_is_an_ordinary_one(tmp_path):
    for split in ("train", "valid"):
        write_split(tmp_path / "silent" / split, [np.zeros((128, 96), np.float32)] * 8, {"pitch": [0] * 8})
    task = task_of(tmp_path / "silent", tmp_path / "run")
    assert work_on(task) == task.steps
    assert all(np.isfinite(list(losses(task.run).values())))


def test_a_dataset_that_is_not_there_is_refused_with_the_command_that_builds_it(tmp_path):
    with pytest.raises(DataProblem, match="sonograph build"):
        COMMAND(["myna:base", "--size", "debug", "--data.dataset", str(tmp_path / "nowhere")])


def test_a_dataset_without_validation_split_is_refused(noise, tmp_path):
    shutil.copytree(noise / "train", tmp_path / "half" / "train")
    with pytest.raises(DataProblem, match="valid"):
        main(command_of(tmp_path / "half", tmp_path / "run"))


def test_a_folder_with_other_things_in_it_is_left_alone(noise, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageProblem, match=r"thesis\.txt"):
        main(command_of(noise, tmp_path))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("words", [["--out", "s3://music/run"], ["--out=memory://run"], ["--resume", "gs://music/run"]])
def test_a_run_in_a_store_is_refused_and_the_dataset_may_be_there(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = r"(--out|--resume) \w+://[a-z/]+ lies in a store, .*Pass a folder, .*--data.dataset"
    with pytest.raises(UsageProblem, match=told):
        COMMAND(["myna:base", "--size", "debug", "--data.dataset", "s3://music/notes", *words])
    with pytest.raises(UsageProblem, match=told):
        sweep.COMMAND(["myna:masking_ratio", "--out", "s3://music/sweep"])
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_training_is_refused_by_the_fields_that_differ(noise, tmp_path):
    work_on(prepared_run(noise, tmp_path / "run"))
    with pytest.raises(DataProblem, match=r"model\.depth: 2 there, 3 here"):
        main(command_of(noise, tmp_path / "run", "--model.depth", "3"))


def test_two_commands_never_train_in_one_folder(noise, tmp_path):
    with sole_trainer(tmp_path / "run"), pytest.raises(EnvironmentProblem, match="Another command"):
        main(command_of(noise, tmp_path / "run"))


def test_a_fresh_start_sets_the_earlier_run_aside(noise, tmp_path):
    before = prepared_run(noise, tmp_path / "run")
    set_aside(before.run)
    assert not before.run.exists() and (tmp_path / "run.before-1" / "config.json").exists()
