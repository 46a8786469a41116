"""A small objective whose batches depend on the step alone, so that any number of processes trains the same thing."""

import torch
from torch import Tensor, nn

from shards.example import Batch
from trainers.config import EngineConfig, OptimizerConfig
from trainers.engine import Engine
from trainers.global_batch import rank, world_size

BATCH_EXAMPLES = 8
PAPER = OptimizerConfig(name="adam", lr=3e-4, weight_decay=1e-5, warmup_epochs=10)
PLAIN = EngineConfig()


class Regression(nn.Module):
    """Predict the number of an example from its first view; `seen` counts the training steps."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 17), nn.Tanh(), nn.Linear(17, 1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            self.seen += 1
        first = self.model[1].weight
        predicted = self.model(batch.views[0].to(first.dtype)).squeeze(1).float()
        loss = ((predicted - batch.index.float() / 100) ** 2).mean()
        return loss, {"prediction": predicted.mean().detach()}


def part_of_batch(step: int) -> Batch:
    """This rank's rows of a batch that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    index = torch.randint(100, (BATCH_EXAMPLES,), generator=generator)
    view = torch.randn(BATCH_EXAMPLES, 4, 3, generator=generator)
    rows = torch.arange(BATCH_EXAMPLES).chunk(world_size())[rank()]
    return Batch(index[rows], torch.ones(len(rows)), (view[rows],), torch.zeros(len(rows), 1, dtype=torch.int64))


def engine_of(config: EngineConfig = PLAIN, optimizer: OptimizerConfig = PAPER) -> Engine:
    return Engine(
        Regression(), optimizer=optimizer, engine=config, learning_rate=falling_rate, batch_examples=BATCH_EXAMPLES
    )


def falling_rate(step: int) -> float:
    return 1e-2 / (step + 1)


def trained(engine: Engine, first: int, stop: int) -> list[dict[str, float]]:
    return [engine.step(part_of_batch(step)) for step in range(first, stop)]
