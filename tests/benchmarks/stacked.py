"""The multi-view sweep and its probes as one program, against the same models and heads one after the other.

    python -m tests.benchmarks.stacked

54 autoencoders of the paper's size (768 numbers in, 2.5 M parameters, batches of 16 pairs) take some steps: ours in
stacks of 18, the peer's each alone, a forward pass for each view and torch's default AdamW. Then linear heads on codes
of 256: ours stacked, the peer's each alone with nn.Dropout, nn.Linear and torch's default Adam. One thread, CPU time;
both take turns in each of five rounds. About a minute.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.checkpoint import build_objective
from trainers.config import TrainConfig
from trainers.disentangle import disentanglement, reconstruction
from trainers.heads import HeadConfig, Parts, Target, fit_heads
from trainers.objectives.multiview import MultiviewObjective
from trainers.stacked import Seen, Stack
from trainers.sweeps.multiview import STACK, paper

ROUNDS, STEPS = 5, 2
ROWS, WIDTH, CODES, EPOCHS = 4096, 256, 18, 6
PITCHES, FAMILIES = 70, 10
_HEADS = HeadConfig(epochs=EPOCHS, patience=EPOCHS)


def measure() -> dict[str, object]:
    """CPU time of a step of one run, and of an epoch of one head."""
    torch.set_num_threads(1)
    configs = [per_seed[0] for per_seed in paper().members.values()]
    runs = _row(
        "multi-view sweep, 54 runs, a step of one",
        "each run alone, two passes, default AdamW",
        2.4,
        lambda: _stacked_seconds(configs),
        lambda: _alone_seconds(configs),
    )
    heads = _row(
        f"linear probes of {CODES} codes, two labels, two rates, an epoch of one head",
        "each head alone, nn.Dropout, default Adam",
        4.0,
        _stacked_heads_seconds,
        _alone_heads_seconds,
    )
    return {**runs, "unit": "s CPU time", "against": [heads]}


def _row(
    what: str, peer_name: str, target: float, ours: Callable[[], float], peer: Callable[[], float]
) -> dict[str, object]:
    rounds = [(ours(), peer()) for _ in range(ROUNDS)]
    ratios = [theirs / own for own, theirs in rounds]
    return {
        "what": f"{what}, 1 thread",
        "ours": statistics.median(own for own, _ in rounds),
        "peer": statistics.median(theirs for _, theirs in rounds),
        "peer_name": peer_name,
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": target,
    }


def _stacked_seconds(configs: Sequence[TrainConfig]) -> float:
    seen = Seen(_features(), torch.arange(16))
    seconds = 0.0
    for first in range(0, len(configs), STACK):
        members = configs[first : first + STACK]
        stack = Stack([_objective(config) for config in members], members[0].optimizer)
        stack.step(seen, 1e-4)  # fills caches and moments
        seconds += _seconds(lambda stack=stack: [stack.step(seen, 1e-4) for _ in range(STEPS)])
    return seconds / STEPS / len(configs)


def _alone_seconds(configs: Sequence[TrainConfig]) -> float:
    views, seconds = _features()[:, :, 0].unbind(), 0.0
    for config in configs:
        objective = _objective(config)
        optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, weight_decay=1e-2)
        _plain_step(objective, optimizer, views)
        seconds += _seconds(lambda o=objective, a=optimizer: [_plain_step(o, a, views) for _ in range(STEPS)])
    return seconds / STEPS / len(configs)


def _plain_step(objective: MultiviewObjective, optimizer: torch.optim.Optimizer, views: Sequence[Tensor]) -> None:
    """As one writes it: each view through the network, the losses, the step."""
    model, weight = objective.model, objective.config.reconstruction_weight
    codes = [model.codes(view) for view in views]
    loss = torch.zeros(())
    if weight < 1:
        private, shared = ((codes[0][part], codes[1][part]) for part in (0, 1))
        loss = (1 - weight) * disentanglement(private, shared, objective.config)[0]
    if model.decoder is not None:
        rebuilt = [model.rebuilt(*both) for both in codes]
        loss = loss + weight * objective.scale * reconstruction((rebuilt[0], rebuilt[1]), (views[0], views[1]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _objective(config: TrainConfig) -> MultiviewObjective:
    built = build_objective(config)
    assert isinstance(built, MultiviewObjective)
    return built


def _features() -> Tensor:
    return torch.randn(2, 16, 1, 768, generator=torch.Generator().manual_seed(0))


def _codes() -> tuple[Tensor, list[Target], Parts]:
    """Noise in which each class has moved a little, divided as margins divide a test split."""
    generator = torch.Generator().manual_seed(0)
    pitch, family = (torch.randint(classes, (ROWS,), generator=generator) for classes in (PITCHES, FAMILIES))
    moved = (
        torch.randn(PITCHES, WIDTH, generator=generator)[pitch]
        + torch.randn(FAMILIES, WIDTH, generator=generator)[family]
    )
    codes = torch.randn(CODES, ROWS, WIDTH, generator=generator) + 0.2 * moved
    ends = round(0.7 * ROWS), round(0.85 * ROWS)
    parts = Parts(np.arange(ends[0]), np.arange(*ends), np.arange(ends[1], ROWS))
    return codes, [Target(pitch, PITCHES), Target(family, FAMILIES)], parts


def _stacked_heads_seconds() -> float:
    codes, targets, parts = _codes()
    heads = CODES * len(targets) * len(_HEADS.rates) * EPOCHS
    return _seconds(lambda: fit_heads(codes, targets, parts, _HEADS, seed=0)) / heads


def _alone_heads_seconds() -> float:
    codes, targets, parts = _codes()
    some = codes[:2]
    grid = [(code, target, rate) for code in some for target in targets for rate in _HEADS.rates]
    return sum(_seconds(lambda each=each: _plain_head(*each, parts)) for each in grid) / len(grid) / EPOCHS


def _plain_head(code: Tensor, target: Target, rate: float, parts: Parts) -> None:
    train, valid = torch.from_numpy(parts.train), torch.from_numpy(parts.valid)
    deviation, mean = torch.std_mean(code[train], dim=0)
    code = (code - mean) / deviation
    head = nn.Sequential(nn.Dropout(_HEADS.dropout), nn.Linear(WIDTH, target.classes))
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    for _ in range(EPOCHS):
        head.train()
        for rows in train[torch.randperm(len(train))].split(_HEADS.batch_examples):
            optimizer.zero_grad()
            F.cross_entropy(head(code[rows]), target.numbers[rows]).backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            (head(code[valid]).argmax(dim=1) == target.numbers[valid]).double().mean().item()


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
