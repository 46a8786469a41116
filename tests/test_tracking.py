"""A run's log: nothing is lost, nothing is doubled, nothing secret is in it, and no server is needed."""

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from shards.example import Clip
from shards.problem import DataProblem
from trainers.provenance import provenance
from trainers.redaction import HIDDEN, redacted, redacted_text
from trainers.tracking import LOG, Run, Signature, curves, events

CANARY = "S3CRET-canary"
ENDLESS_WRITER = """
import itertools, sys
from pathlib import Path
from trainers.tracking import Run
run = Run(Path(sys.argv[1]))
for step in itertools.count(int(sys.argv[2])):
    run.metrics(step, {"train/loss": step / 2, "train/lr": 1e-3})
"""


def in_child(script: str, *words: object, preexec: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[1], text=True, stderr=subprocess.PIPE, preexec_fn=preexec
    )


def finished(child: subprocess.Popen[str]) -> str:
    """What a child said to stderr, once it has ended well."""
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 0, said
    return said


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(width=32)), max_size=20))
def test_curves_give_back_the_first_value_of_every_step_also_nan_and_inf(tmp_path_factory, points):
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder)
    for step, value in points:
        run.metrics(step, {"train/loss": np.float32(value)})
    expected = dict(reversed(points))
    found = curves(folder).get("train/loss", {})
    assert found.keys() == expected.keys()
    assert all(
        found[step] == value or (math.isnan(found[step]) and math.isnan(value)) for step, value in expected.items()
    )


@given(st.data())
def test_a_log_cut_at_any_byte_keeps_its_whole_lines_and_takes_new_ones(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder)
    for step in range(5):
        run.metrics(step, {"train/loss": step})
    whole = (folder / LOG).read_bytes()
    kept = whole[: data.draw(st.integers(0, len(whole)))]
    (folder / LOG).write_bytes(kept)

    Run(folder).metrics(99, {"train/loss": 99})

    kinds = [event.kind for event in events(folder)]
    lines_kept = kept.count(b"\n")
    assert kinds == (["run"] + ["metrics"] * max(lines_kept - 1, 0)) + ["metrics"]


def test_a_writer_killed_at_any_time_leaves_a_log_that_continues_without_a_gap(tmp_path):
    for _ in range(3):
        steps_before = len(curves(tmp_path).get("train/loss", {}))
        writer = in_child(ENDLESS_WRITER, tmp_path, steps_before)
        while len(curves(tmp_path).get("train/loss", {})) < steps_before + 200:
            time.sleep(0.01)
        writer.kill()
        writer.communicate()
        Run(tmp_path).tags({"killed": time.time()})
    loss = curves(tmp_path)["train/loss"]
    assert loss == {step: step / 2 for step in range(len(loss))}


def test_processes_that_append_at_the_same_time_lose_no_line(tmp_path):
    script = ENDLESS_WRITER.replace("itertools.count(int(sys.argv[2]))", "range(300)").replace(
        "train/", "{sys.argv[2]}/"
    )
    writers = [in_child(script.replace('"{', 'f"{'), tmp_path, name) for name in ("a", "b", "c")]
    for writer in writers:
        finished(writer)
    found = curves(tmp_path)
    assert {name: len(curve) for name, curve in found.items()} == {
        f"{n}/{m}": 300 for n in "abc" for m in ("loss", "lr")
    }
    assert sum(event.kind == "run" for event in events(tmp_path)) == 1


def test_a_full_disk_is_reported_and_leaves_no_torn_line(tmp_path):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    script = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + ENDLESS_WRITER
    _, said = in_child(script, tmp_path, 0, preexec=small_disk).communicate(timeout=60)
    assert "takes no more lines" in said and "repeat the command" in said
    assert (tmp_path / LOG).read_bytes().endswith(b"}\n")


def test_a_damaged_line_is_reported_and_the_lines_around_it_are_read(tmp_path, caplog):
    run = Run(tmp_path)
    run.metrics(1, {"train/loss": 1})
    with (tmp_path / LOG).open("ab") as log:
        log.write(b"\0\0\0\n[]\n")
    run.metrics(2, {"train/loss": 2})
    assert curves(tmp_path)["train/loss"] == {1: 1, 2: 2}
    assert "damaged line" in caplog.text


def test_a_step_computed_again_differently_stays_in_the_log_but_off_the_curve(tmp_path):
    Run(tmp_path).metrics(7, {"train/loss": 1.0, "train/examples_per_s": 90.0})
    Run(tmp_path).metrics(7, {"train/loss": 1.0, "train/examples_per_s": 80.0})
    assert curves(tmp_path) == {"train/loss": {7: 1.0}, "train/examples_per_s": {7: 90.0}}
    repeats = [event.fields["values"] for event in events(tmp_path) if event.kind == "repeat"]
    assert repeats == [{"train/examples_per_s": 80.0}]


def test_an_answer_given_again_replaces_the_old_one(tmp_path):
    for accuracy in (0.5, 0.5, 0.6):
        Run(tmp_path).results(600, {"eval/nsynth/pitch_accuracy": accuracy})
    assert curves(tmp_path) == {"eval/nsynth/pitch_accuracy": {600: 0.6}}
    assert [event.kind for event in events(tmp_path)].count("metrics") == 2


def test_parameters_are_flat_and_one_that_changes_becomes_a_tag(tmp_path):
    Run(tmp_path).params({"model": {"width": 384, "log1p": True}, "optimizer": {"betas": (0.9, 0.999), "lr": 3e-4}})
    Run(tmp_path).params({"model": {"width": 384}, "optimizer": {"lr": 1e-3}})
    params, tags = ([e.fields["values"] for e in events(tmp_path) if e.kind == kind] for kind in ("params", "tags"))
    assert params == [
        {"model.width": "384", "model.log1p": "true", "optimizer.betas": "[0.9, 0.999]", "optimizer.lr": "0.0003"}
    ]
    assert tags == [{"changed.optimizer.lr": "0.001 (was 0.0003)"}]


def test_a_secret_is_written_nowhere(tmp_path):
    run = Run(tmp_path)
    run.params({"hf": {"token": CANARY}, "apiKey": CANARY, "dbPassword": CANARY, "store": f"s3://me:{CANARY}@host/b"})
    run.tags({"aws_secret_access_key": CANARY, **provenance(["sonograph", "train", "--hub.token", CANARY])})
    run.dataset("n", digest="0", source=f"https://me:{CANARY}@h/d?token={CANARY}", context="training", split="train")
    with pytest.raises(RuntimeError), run.alive():
        raise RuntimeError(f"401 from https://{CANARY}@host with Bearer {CANARY} and HF_TOKEN={CANARY}")
    assert CANARY.encode() not in (tmp_path / LOG).read_bytes()


def test_names_that_only_look_like_secrets_are_shown():
    shown = {
        "model.tokens": "48",
        "model.mask_tokens": "5",
        "keep": "3",
        "label": "keyboard",
        "monkey": "x",
        "train/lr": "1",
    }
    assert redacted(shown) == shown
    assert redacted({"key": "x", "secret": "", "probe.label": "key"}) == {
        "key": HIDDEN,
        "secret": "",
        "probe.label": "key",
    }
    assert redacted_text("build nsynth --out datasets/nsynth seed=0") == "build nsynth --out datasets/nsynth seed=0"


def test_a_picture_a_clip_and_a_table_are_files_under_plots_before_anything_else(tmp_path):
    run = Run(tmp_path)
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    picture = run.figure("views", figure, 600)
    plt.close(figure)
    clip = run.audio("note", Clip(np.full((2, 800), 2.0, np.float32), 16_000), 600)
    table = run.table("probe", [{"encoder": "ours", "pitch": 0.88}, {"encoder": "random", "pitch": 0.76}])

    assert picture.relative_to(tmp_path) == Path("plots/step-00000600/views.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    waveform, sample_rate_hz = soundfile.read(clip)
    assert sample_rate_hz == 16_000 and waveform.shape == (800, 2) and waveform.max() == pytest.approx(1, abs=1e-4)
    assert table.read_text() == "encoder,pitch\nours,0.88\nrandom,0.76\n"
    shown = [(event.fields["path"], event.fields["to"]) for event in events(tmp_path) if event.kind == "artifact"]
    assert shown == [
        ("plots/step-00000600/views.png", "plots/step-00000600"),
        ("plots/step-00000600/note.wav", "plots/step-00000600"),
        ("plots/probe.csv", "plots"),
    ]


def test_an_artifact_that_does_not_exist_is_refused_at_once(tmp_path):
    with pytest.raises(DataProblem, match="does not exist"):
        Run(tmp_path).artifact(Path("nothing.png"))


def test_a_registered_model_outlives_its_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-00000600"
    checkpoint.mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, checkpoint / "model.safetensors")
    (checkpoint / "card.json").write_text('{"step": 600}')
    run = Run(tmp_path)
    place = run.model(
        checkpoint, "m", alias="candidate", signature=Signature((-1, 2), (-1, 1)), example=np.zeros((1, 2))
    )
    for file in checkpoint.iterdir():
        file.unlink()
    assert np.array_equal(load_file(place / "model.safetensors")["w"], np.ones(3))
    assert (place / "card.json").read_text() == '{"step": 600}'


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "KILLED", "stopped by Ctrl-C"),
        (SystemExit(143), "KILLED", "stopped by a signal"),
        (ValueError("loss is nan at step 7"), "FAILED", "ValueError: loss is nan at step 7"),
    ],
)
def test_the_last_word_of_a_run_says_how_it_ended(tmp_path, error, status, reason):
    with pytest.raises(type(error)), Run(tmp_path).alive():
        raise error
    said = [event.fields for event in events(tmp_path) if event.kind == "status"]
    assert said == [{"status": "RUNNING", "reason": ""}, {"status": status, "reason": reason}]


def test_a_worker_that_records_does_not_load_mlflow():
    script = "import sys; import trainers.tracking; assert not any(n.split('.')[0] == 'mlflow' for n in sys.modules)"
    finished(in_child(script))
