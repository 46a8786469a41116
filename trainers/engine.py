"""One step over all workers: precision, ZeRO, accumulation, clipping, exact state. Alone imports deepspeed.

    engine = Engine(objective, optimizer=..., engine=..., learning_rate=curve, batch_examples=256)
    metrics = engine.step(batch)

Works in whatever process group exists, and makes one of a single process where there is none.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn
from torch import distributed as dist

from shards.example import Batch
from shards.problem import EnvironmentProblem
from trainers.config import EngineConfig, OptimizerConfig
from trainers.global_batch import rank, total, world_size

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read once, while deepspeed is imported
    os.environ.setdefault("LOCAL_SIZE", "1")  # else it runs numactl at every step, and fails where PATH may not be read
import deepspeed

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_TAG = "deepspeed"


def learning_rate(step: int, *, optimizer: OptimizerConfig, steps_per_epoch: int, epochs: int) -> float:
    """The rate of step `step` (from 0): Myna's curve over epochs e, lr·(e+1)/warmup, then lr·½(1+cos(π(e-w)/(E-w))).

    Whole epochs give the public code's values; between them e grows step by step unless `schedule` is "epoch".
    """
    epoch = step // steps_per_epoch if optimizer.schedule == "epoch" else step / steps_per_epoch
    warmup = optimizer.warmup_epochs
    if epoch < warmup:
        return optimizer.lr * min(1.0, (epoch + 1) / warmup)
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


class Engine:
    """An objective in training. Every method is called by all ranks together; metrics are equal on all of them."""

    def __init__(
        self,
        objective: nn.Module,
        *,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        learning_rate: Callable[[int], float],
        batch_examples: int,
    ) -> None:
        _join_group()
        _silence()
        _require(engine.precision)
        self._learning_rate = learning_rate
        self._parts = engine.accumulation_steps
        client = _OPTIMIZERS[optimizer.name](
            objective.parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        settings = _settings(engine, batch_examples, sum(p.numel() for p in objective.parameters()))
        self._engine, *_ = deepspeed.initialize(
            model=objective, optimizer=client, config=settings, dist_init_required=False
        )

    @property
    def steps(self) -> int:
        """Steps taken since the beginning of the training, resumed ones included."""
        return self._engine.global_steps

    @property
    def device(self) -> torch.device:
        return self._engine.device

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one step on this rank's part of a batch.

        Returns the objective's metrics and `loss` as means over ranks (and over accumulated parts), `grad_norm` before
        clipping, and `learning_rate`.
        """
        rate = self._learning_rate(self.steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.train()
        sums: dict[str, Tensor] = {}
        for part in _parts(batch.to(self.device), self._parts):
            loss, metrics = self._engine(part)
            self._engine.backward(loss)
            norm = self._gradient_norm()
            self._engine.step()
            for name, value in {**metrics, "loss": loss}.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + value.detach() / self._parts
        return {**_means(sums), "grad_norm": self._reported_norm(norm), "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means of the objective's metrics over `batches`, each counted by its examples; nothing is learned."""
        self._engine.eval()
        examples, sums = 0.0, dict[str, float]()
        for batch in batches:
            batch = batch.to(self.device)
            loss, metrics = self._engine(batch)
            count = float(total(batch.weight.sum()))
            for name, value in _means({**metrics, "loss": loss}).items():
                sums[name] = sums.get(name, 0.0) + count * value
            examples += count
        return {name: value / examples for name, value in sums.items()}

    def weights(self) -> dict[str, Tensor]:
        """All parameters and buffers of the objective on the CPU, gathered from all ranks; empty on ranks above 0."""
        module = self._engine.module
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=self._is_split()):
            if rank() > 0:
                return {}
            return {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write the exact state of training into `folder`: DeepSpeed's files and every rank's random generators."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        (folder / f"random-{rank():05d}.safetensors").write_bytes(as_safetensors(_random_states()))
        if rank() == 0:
            for script in folder.glob("*.py"):  # DeepSpeed's converters; a checkpoint holds no code
                script.unlink()

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. The files must be verified before: DeepSpeed unpickles them.

        Splitting (ZeRO 1 to 3) binds them to a number of workers; without it any number continues.
        """
        self._engine.load_checkpoint(str(folder), tag=_TAG)
        states = folder / f"random-{rank():05d}.safetensors"
        if states.exists():  # a rank that did not exist then starts its generators afresh
            _restore_random_states(load_file(str(states)))

    def on_any_rank(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return bool(total(torch.tensor(float(flag), device=self.device)) > 0)

    def from_rank_zero(self, value: int) -> int:
        """The integer that rank 0 brings, on every rank."""
        own = torch.tensor(value if rank() == 0 else 0, dtype=torch.float64, device=self.device)
        return int(total(own))

    def wait(self) -> None:
        """Return when all ranks have come here."""
        dist.barrier()

    def _is_split(self) -> bool:
        return self._engine.zero_optimization_partition_weights()

    def _gradient_norm(self) -> Tensor | None:
        """Norm of the averaged gradient at an accumulation boundary, where DeepSpeed itself computes none."""
        if self._engine.zero_optimization() or self._engine.fp16_enabled():
            return None
        if not self._engine.is_gradient_accumulation_boundary():
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _reported_norm(self, norm: Tensor | None) -> float:
        return float(norm if norm is not None else self._engine.get_global_grad_norm())


def _settings(engine: EngineConfig, batch_examples: int, parameters: int) -> Mapping[str, Any]:
    """DeepSpeed's own config. Buckets are no larger than the model: the default takes 2 GB for any."""
    bucket = world_size() * -(-min(parameters, 500_000_000) // world_size())
    return {
        "train_micro_batch_size_per_gpu": max(1, -(-batch_examples // world_size()) // engine.accumulation_steps),
        "gradient_accumulation_steps": engine.accumulation_steps,
        "gradient_clipping": engine.clip_norm or 0.0,
        "steps_per_print": None,
        "zero_optimization": {
            "stage": engine.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        # Autocast for bf16, as the paper's code does. For fp16 DeepSpeed's own mode: with autocast, ranks that split
        # the optimiser would not agree on overflows, and clipping would see the scaled gradient.
        "torch_autocast": {"enabled": engine.precision == "bf16", "dtype": "bfloat16"},
        "fp16": {"enabled": engine.precision == "fp16", "initial_scale_power": 12},
    }


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Split this rank's rows into `count` batches."""
    if count == 1:
        return [batch]
    chunks = zip(batch.index.chunk(count), batch.weight.chunk(count), batch.seeds.chunk(count), strict=True)
    views = zip(*(view.chunk(count) for view in batch.views), strict=True)
    columns = {name: _parts(column, count) for name, column in batch.columns.items()}
    return [
        Batch(index, weight, part, seeds, batch.restore, {name: parts[at] for name, parts in columns.items()})
        for at, ((index, weight, seeds), part) in enumerate(zip(chunks, views, strict=True))
    ]


def _means(values: Mapping[str, Tensor]) -> dict[str, float]:
    names = sorted(values)
    means = total(torch.stack([values[name].detach().float().reshape(()) for name in names])) / world_size()
    return dict(zip(names, means.tolist(), strict=True))


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _join_group() -> None:
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    # Its shared-memory collectives are compiled on first use, and a killed worker leaves their segments behind.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _require(precision: str) -> None:
    if precision == "fp16" and not deepspeed.get_accelerator().is_fp16_supported():
        raise EnvironmentProblem(
            f"fp16 does not run on this machine's {deepspeed.get_accelerator().device_name()}, so no step could be "
            "taken. Train with --engine.precision bf16 or fp32, or on a GPU."
        )


def _silence() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)  # DeepSpeed's own calls
