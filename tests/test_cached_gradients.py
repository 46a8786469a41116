"""Chunks, blocks and ranks change memory and time, never loss, gradients, metrics or memory of SogCLR."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.views_in_pairs import (
    ENCODER,
    HYBRID,
    OBJECTIVES,
    Found,
    batch_of,
    in_two_processes,
    objective_of,
    rows_of,
    steps_of,
)
from trainers.config import EngineConfig, OptimizerConfig
from trainers.engine import Engine
from trainers.models.myna import MynaConfig

ENCODERS = {"square": ENCODER, "hybrid": HYBRID}
CHUNKS = {"whole": 0, "chunks": 3}
# Rows of the global batch by rank.
SPLITS = {
    8: [[0, 2, 4, 6], [1, 3, 5, 7]],
    5: [[0, 1, 2, 3], [4, -1, -1, -1]],
    4: [[0, 1, 2, 3], [-1, -1, -1, -1]],
}


def found_by(name: str, model: MynaConfig, chunk: int, share=lambda batch: batch, examples: int = 8) -> Found:
    return steps_of(objective_of(replace(OBJECTIVES[name], chunk_examples=chunk), model), share, examples)


@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_find_the_loss_and_gradients_of_the_whole_batch(name, model):
    whole, chunked = (found_by(name, ENCODERS[model], chunk) for chunk in (0, 3))
    close(chunked, whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_rows_change_nothing(name):
    rows = [0, -1, 1, 2, 3, 4, -1]
    padded = found_by(name, ENCODER, 2, lambda batch: rows_of(batch, rows), examples=5)
    close(padded, found_by(name, ENCODER, 0, examples=5))


def close(found: Found, expected: Found) -> None:
    for part in ("loss", "gradients", "metrics", "buffers"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes finds: losses without an engine, then trainings with one."""
    return in_two_processes(_work, tmp_path_factory.mktemp("workers"))


def _work(rank: int) -> dict:
    os.environ["LOCAL_RANK"] = str(rank)
    return {"shares": _shares(rank), "trainings": _trainings(rank)}


def _shares(rank: int) -> dict:
    return {
        (name, chunks, examples): vars(found_by(name, HYBRID, chunk, partial(rows_of, rows=by_rank[rank]), examples))
        for name in OBJECTIVES
        for chunks, chunk in CHUNKS.items()
        for examples, by_rank in SPLITS.items()
    }


@pytest.mark.parametrize("examples", SPLITS, ids=["divides", "padding", "a_rank_of_padding"])
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_find_the_loss_and_gradients_of_one(workers, name, chunks, examples):
    one = found_by(name, HYBRID, 0, examples=examples)
    first, second = (Found(**worker["shares"][name, chunks, examples]) for worker in workers)
    for share in (first, second):  # losses and gradients are averaged over ranks by the engine, the rest is global
        both = {part: (getattr(first, part) + getattr(second, part)) / 2 for part in ("loss", "gradients")}
        close(replace(share, **both), one)


def _trainings(rank: int) -> dict:
    return {(stage, chunks): trained(stage, chunk, rank) for stage in range(4) for chunks, chunk in CHUNKS.items()}


def trained(stage: int, chunk: int, rank: int | None = None) -> dict[str, float | torch.Tensor]:
    """Numbers of the last of two steps by the engine, whose ranks take every other row, and the weights after it."""
    engine = Engine(
        objective_of(replace(OBJECTIVES["sogclr"], chunk_examples=chunk), HYBRID),
        # An eps above the gradients' rounding, or signs of gradients near zero would decide about weights.
        optimizer=OptimizerConfig(name="adam", lr=1e-2, weight_decay=0.0, warmup_epochs=1, eps=1e-3),
        engine=EngineConfig(zero_stage=stage),
        learning_rate=lambda step: 1e-2,
        batch_examples=8,
    )
    batches = [batch_of(8, seed=step) for step in range(2)]
    shares = batches if rank is None else [rows_of(batch, range(rank, 8, 2)) for batch in batches]
    metrics = [engine.step(share) for share in shares][-1]
    return {**metrics, **engine.weights()}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("stage", range(4))
def test_training_in_chunks_on_two_workers_at_any_zero_stage_is_that_of_one_worker(workers, one, stage, chunks):
    first, second = (worker["trainings"][stage, chunks] for worker in workers)
    assert {name: first[name] for name in second} == second  # ranks above 0 have metrics only
    torch.testing.assert_close(first, one, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def one() -> dict[str, float | torch.Tensor]:
    return trained(0, 0)


@pytest.mark.parametrize(
    "work",
    [
        # Activations of all pairs or of 8: 48 tokens a view.
        "objective_of(ContrastiveConfig(mask_ratio=0.0, chunk_examples={}), MODEL)(BATCH)[0].backward()",
        # Logits of 6144 anchors: 151 MB at once.
        "info_nce(compare(PAIRS, torch.ones(3072), temperature=0.1, block_rows=32 * {} or 6144)).sum().backward()",
    ],
    ids=["chunks", "blocks"],
)
def test_memory_does_not_grow_with_the_batch(work):
    parts, whole = mib_grown_by(work.format(8), work.format(0))
    assert whole > 3 * parts


def mib_grown_by(*works: str) -> list[float]:
    """How far a process's highest memory rises in each of some works, one after the other."""
    code = f"""
from pathlib import Path
import torch
from tests.views_in_pairs import batch_of, objective_of
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig, info_nce
from trainers.similarity import compare

def highest():  # getrusage would begin at what the process that started this one held
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
MODEL = MynaConfig(width=64, depth=4, heads=2, head_width=32, mlp_width=256)
PAIRS = torch.randn(2, 3072, 4, requires_grad=True)
BATCH = batch_of(288)
objective_of(ContrastiveConfig(mask_ratio=0.0), MODEL)(batch_of(2))[0].backward()
marks = [highest()]
for work in {works}:
    exec(work)
    marks.append(highest())
print(*(after - before for before, after in zip(marks, marks[1:])))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(mib) for mib in found.stdout.split()]
