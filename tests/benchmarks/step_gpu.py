"""Training steps of Myna-Base on one GPU, against the public construction on the same GPU.

    python -m tests.benchmarks.step_gpu         python -m tests.benchmarks.step_gpu bf16 1024 12    one variant, once

The peer is vit-pytorch's SimpleViT changed as Myna's public code changes it, float32, a pass for each view, default
Adam. Ours is the engine that trains, with fused attention and fused Adam: float32, bf16, and bf16 compiled. Batches of
256, 1024 and 4096, each variant in a process of its own; wall time with the GPU waited for, highest memory that torch
allocated, and the share of the processor's peak for that precision that the model's own arithmetic needed (mfu).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from shards.example import Batch
from tests.benchmarks.step import PublicMyna, batch_of, in_a_process, public_step
from trainers.config import EngineConfig
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig
from trainers.pace import flops_per_example, memory_gib, peak_flops

NEEDS_GPU = True
BATCHES, WARM_STEPS, STEPS, DEPTH = (256, 1024, 4096), 3, 10, 12
PEER, BEST = "public", "bf16 compiled"
ENGINES = {
    "fp32": EngineConfig(precision="fp32"),
    "bf16": EngineConfig(precision="bf16"),
    BEST: EngineConfig(precision="bf16", compile=True),
}


def measure(batches: tuple[int, ...] = BATCHES) -> dict[str, object]:
    """Milliseconds of a step of each variant and batch, and the ratio of the peer's to those of ours."""
    found = {
        examples: {each: in_a_process("step_gpu", each, examples, DEPTH) for each in (PEER, *ENGINES)}
        for examples in batches
    }
    lines = [_line(examples, variant, found[examples]) for examples in batches for variant in reversed(ENGINES)]
    return {
        **lines[0],
        "unit": "ms",
        "against": lines[1:],
        "gpu": torch.cuda.get_device_name(),
        "all": {str(examples): variants for examples, variants in found.items()},
    }


def _line(examples: int, variant: str, found: dict[str, dict[str, float]]) -> dict[str, object]:
    ours, peer = found[variant], found[PEER]
    return {
        "what": f"Myna-Base training step, {variant}, {examples:,} pairs, on {torch.cuda.get_device_name()}, "
        f"mfu {ours['mfu']:.2f}",
        "ours": 1e3 * ours["seconds"],
        "peer": 1e3 * peer["seconds"],
        "peer_name": "vit-pytorch's SimpleViT, fp32, all patches embedded, a pass for each view",
        "ratio": peer["seconds"] / ours["seconds"],
        "ratio_spread": [peer["least"] / ours["most"], peer["most"] / ours["least"]],
        "target": 1.25 if variant == "fp32" else 3,
        "gib": {"ours": ours["gib"], "peer": peer["gib"]},
    }


def alone(variant: str, examples: int, depth: int, steps: int = STEPS) -> dict[str, float]:
    """What one process finds for one variant: seconds of a step, memory in GiB, model-FLOP utilisation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch_of(examples).to(device)
    step = _public(depth, device) if variant == PEER else _ours(ENGINES[variant], depth, examples)
    for _ in range(min(WARM_STEPS, steps)):
        step(batch)
    seconds = [_seconds(lambda: step(batch)) for _ in range(steps)]
    memory = memory_gib()
    precision = "fp32" if variant == PEER else ENGINES[variant].precision
    flops = examples * flops_per_example(lambda: _objective(depth), batch_of(2), device)
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "least": min(seconds),
        "most": max(seconds),
        "gib": memory,
        "mfu": flops / median / peak_flops(device, precision),
    }


def _objective(depth: int) -> torch.nn.Module:
    return ContrastiveConfig().build(replace(MynaConfig(), depth=depth).build())


def _ours(engine: EngineConfig, depth: int, examples: int) -> Callable[[Batch], object]:
    from trainers.config import load
    from trainers.engine import Engine

    return Engine(
        _objective(depth),
        optimizer=load("myna:base", size="paper").optimizer,
        engine=engine,
        learning_rate=lambda step: 3e-4,
        batch_examples=examples,
    ).step


def _public(depth: int, device: torch.device) -> Callable[[Batch], object]:
    model = PublicMyna(depth).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5)
    return lambda batch: public_step(model, optimizer, batch)


def _seconds(step: Callable[[], object]) -> float:
    _wait()
    begin = time.perf_counter()
    step()
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(alone(sys.argv[1], *map(int, sys.argv[2:]))))
    else:
        print(json.dumps(measure(), indent=1))
