"""Small objectives over pairs of views, their batches, and the shares that two processes have of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, multiprocessing, nn
from torch import distributed as dist

from shards.example import Batch
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig
from trainers.objectives.sogclr import SogclrConfig
from trainers.pairs import PairsConfig

ENCODER = MynaConfig(width=32, depth=2, heads=2, head_width=16, mlp_width=64, log1p=True)
HYBRID = replace(ENCODER, second_patch=(128, 2))
EXAMPLES = 12
STEPS = 2

_WIDTHS = {"projector_widths": (64, 32), "logits_block_rows": 3}
OBJECTIVES: dict[str, PairsConfig] = {
    "infonce": ContrastiveConfig(**_WIDTHS),
    "ntxent": ContrastiveConfig(**_WIDTHS, loss="ntxent"),
    "ntxent_gelu": ContrastiveConfig(**_WIDTHS, loss="ntxent", projector="gelu"),
    "infonce_bn": ContrastiveConfig(**_WIDTHS, projector="bn_relu"),
    "sogclr": SogclrConfig(**_WIDTHS, examples=EXAMPLES, gamma=0.5),
}


@dataclass(frozen=True)
class Found:
    """What some steps without an optimiser leave: sums over the steps, and the buffers after them."""

    loss: Tensor
    gradients: Tensor
    metrics: dict[str, Tensor]
    buffers: dict[str, Tensor]


def objective_of(config: PairsConfig, model: MynaConfig = ENCODER) -> nn.Module:
    torch.manual_seed(0)
    return config.build(model.build())


def batch_of(examples: int, seed: int = 0) -> Batch:
    """Examples of indices that do not begin at 0."""
    generator = torch.Generator().manual_seed(seed)
    views = tuple(torch.empty(examples, 128, 96).exponential_(1.0, generator=generator) for _ in range(2))
    seeds = torch.randint(-(2**62), 2**62, (examples, 2), generator=generator)
    return Batch(torch.arange(examples).roll(1) + EXAMPLES - examples, torch.ones(examples), views, seeds)


def rows_of(batch: Batch, rows: Iterable[int]) -> Batch:
    """The chosen rows; -1 is a padding row, full of values that must not matter."""
    rows = torch.tensor(list(rows))
    real = rows >= 0
    views = tuple(torch.where(real[:, None, None], view[rows], torch.tensor(3.0)) for view in batch.views)
    return Batch(torch.where(real, batch.index[rows], -1), real.float(), views, batch.seeds[rows])


def steps_of(objective: nn.Module, share: Callable[[Batch], Batch] = lambda batch: batch, examples: int = 8) -> Found:
    """Losses and gradients of a share of each step's batch, summed."""
    losses, metrics = [], {}
    for step in range(STEPS):
        loss, metrics = objective(share(batch_of(examples, seed=step)))
        loss.backward()
        losses.append(loss.detach())
    gradients = torch.cat([p.grad.flatten() for p in objective.parameters()])
    return Found(torch.stack(losses).sum(), gradients, metrics, dict(objective.named_buffers()))


def in_two_processes(work: Callable[[int], dict], folder: Path) -> list[dict]:
    """What `work(rank)` gives in each of two gloo processes."""
    multiprocessing.spawn(_run, args=(work, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, work: Callable[[int], dict], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
