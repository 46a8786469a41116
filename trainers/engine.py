"""One step over all workers: precision, ZeRO, accumulation, clipping, exact state. Alone imports deepspeed.

    engine = Engine(objective, optimizer=..., engine=..., learning_rate=curve, batch_examples=256)
    metrics = engine.step(batch)

Works in whatever process group exists, and makes one of a single process where there is none.
"""

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from shards.example import Batch
from shards.problem import EnvironmentProblem
from shards.store import write_json
from trainers.blocks import recompute_blocks
from trainers.config import EngineConfig, OptimizerConfig
from trainers.global_batch import rank, total, world_size
from trainers.guard import Guard
from trainers.tensor_files import TensorFiles, read_part, write_part, write_tensors

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read once, while deepspeed is imported
    os.environ.setdefault("LOCAL_SIZE", "1")  # else it runs numactl at every step, and fails where PATH may not be read
import deepspeed

from trainers.zero import MOMENTS, WholeState

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_STATE, _PROGRESS = "state", "progress.json"


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
        if engine.recompute:
            recompute_blocks(objective)
        if engine.compile:
            objective.get_submodule("model").compile()  # in place: names in the state stay what they are
        self._learning_rate, self._parts = learning_rate, engine.accumulation_steps
        self._engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=_optimizer(objective, optimizer),
            config=_settings(engine, batch_examples, sum(p.numel() for p in objective.parameters())),
            dist_init_required=False,
        )
        self._whole = WholeState(self._engine)
        self._guard, self._loss, self._norm = Guard(engine.spike_deviations), 0.0, 0.0
        self.refusal = ""
        """Why the latest step changed no weight; empty when it did, or when fp16 only lowered its loss scale."""
        self._watch_norm()
        self._forget = 1 - (engine.ema_decay or 1.0)
        self._average = {n: self._whole.local(n).clone() for n in self._whole.trained} if engine.ema_decay else {}
        self._may_skip = engine.skip_budget > 0

    @property
    def steps(self) -> int:
        """Steps taken or refused since the beginning of the training, resumed ones included."""
        return self._engine.global_steps

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return self._guard.refused

    @property
    def device(self) -> torch.device:
        return self._engine.device

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one step on this rank's part of a batch; where its gradient must not be applied, `refusal` says why.

        Returns the objective's metrics and `loss` as means over ranks (and over accumulated parts), `grad_norm` before
        clipping, and `learning_rate`.
        """
        rate = self._learning_rate(self.steps)
        self._set_rate(rate)
        self._engine.train()
        before = {name: buffer.clone() for name, buffer in self._buffers().items()} if self._may_skip else {}
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(_parts(batch.to(self.device), self._parts), 1):
            loss, metrics = self._engine(part)
            self._engine.backward(loss)
            for name, value in {**metrics, "loss": loss}.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + value.detach() / self._parts
            if number < self._parts:
                self._engine.step()
        means = _means(sums)
        self._apply(means["loss"])
        if self.refusal:  # the forward pass has put what it saw into the buffers
            for name, buffer in self._buffers().items() if before else ():
                buffer.copy_(before[name])
        return {**means, "grad_norm": self._norm, "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means of the objective's metrics over `batches`, each counted by its examples; nothing is learned.

        Where an average of the weights is kept, it is what is evaluated.
        """
        self._engine.eval()
        examples, sums = 0.0, dict[str, float]()
        with self._averaged():
            for batch in batches:
                batch = batch.to(self.device)
                loss, metrics = self._engine(batch)
                count = float(total(batch.weight.sum()))
                for name, value in _means({**metrics, "loss": loss}).items():
                    sums[name] = sums.get(name, 0.0) + count * value
                examples += count
        return {name: value / examples for name, value in sums.items()}

    def weights(self) -> dict[str, Tensor]:
        """All parameters and buffers of the objective on the CPU, float32, gathered one by one; empty above rank 0.

        Where an average of the weights is kept, it is what is given.
        """
        module, found = self._engine.module, dict[str, Tensor]()
        names = {id(weight): name for name, weight in self._whole.named.items()}
        homes = {name: names[id(weight)] for name, weight in module.named_parameters(remove_duplicate=False)}
        for name, value in module.state_dict().items():
            if own := homes.get(name):
                value = self._whole.whole(own, self._average[own]) if own in self._average else self._whole.weight(own)
            if rank() == 0:
                found[name] = value.detach().cpu().clone().contiguous()
        return found

    def save(self, folder: Path) -> None:
        """Write the exact state of training into `folder`, whole and by the names of the parameters.

        Float32 weights, both moments of Adam, the average and the buffers, gathered one by one; every rank's random
        generators; counts. Nothing in it depends on the number of workers or on how ZeRO splits them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._whole.require_moments()
        tensors = ((name, value.detach().cpu()) for name, value in self._state())
        if rank() == 0:
            write_tensors(folder / _STATE, tensors)
            write_json(folder / _PROGRESS, self._progress())
        else:
            for _ in tensors:  # the others only bring their parts
                pass
        write_part(folder / f"random-{rank():05d}.safetensors", _random_states())

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on any number of workers and at any ZeRO stage; nothing is unpickled."""
        self._whole.require_moments()
        with TensorFiles(folder / _STATE) as saved, torch.no_grad():
            for name in self._whole.trained:
                moments = {m: saved[f"{m}/{name}"] for m in MOMENTS if f"{m}/{name}" in saved}
                self._whole.fill(name, saved[f"weight/{name}"], moments)
                if self._average:
                    self._average[name].copy_(self._whole.part(name, saved[f"average/{name}"]))
            for name, buffer in self._buffers().items():
                buffer.copy_(saved[f"buffer/{name}"])
        self._go_on_from(json.loads((folder / _PROGRESS).read_bytes()))
        states = folder / f"random-{rank():05d}.safetensors"
        if states.exists():  # a rank that did not exist then starts its generators afresh
            _restore_random_states(read_part(states))

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

    def _set_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    # Taking a step, or not. -----------------------------------------------------------------------------------------

    def _apply(self, loss: float) -> None:
        """Let DeepSpeed take the step; a refused one goes the way of its own overflows, and touches no state."""
        self._loss, self._norm, self.refusal = loss, float("inf"), ""
        if not self._whole.stage:
            gradients = [p.grad for p in self._whole.trained.values() if p.grad is not None]
            self._admitted(total(nn.utils.get_total_norm(gradients)) / world_size())
            if self.refusal:
                self._engine.module.zero_grad(set_to_none=True)
        self._engine.step()
        if not math.isfinite(loss) and not self.refusal:  # fp16 saw the overflow before its norm was asked for
            self.refusal = self._guard.judge(loss, self._norm)
        if self._average and not self.refusal and self._engine.was_step_applied():
            averages, weights = list(self._average.values()), [self._whole.local(name) for name in self._average]
            torch._foreach_lerp_(averages, weights, self._forget)

    def _watch_norm(self) -> None:
        """Where ZeRO splits gradients, only its own step sees their norm: judge it there."""
        optimizer = self._engine.optimizer
        if self._whole.stage == 3:
            norms = optimizer._get_norm_groups
            combine = deepspeed.runtime.utils.combine_grad_norm_groups
            optimizer._get_norm_groups = lambda: groups if self._admitted(combine(groups := norms())) else [_nan()]
        elif self._whole.stage:
            norm = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda: value if self._admitted(value := norm()) else _nan()

    def _admitted(self, scaled_norm: Tensor) -> bool:
        scale = self._engine.optimizer.loss_scale if self._whole.stage else 1.0
        self._norm = float(scaled_norm) / scale
        self.refusal = self._guard.judge(self._loss, self._norm)
        return not self.refusal

    # The state of training, whole. -----------------------------------------------------------------------------------

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name in self._whole.trained:
            yield f"weight/{name}", self._whole.weight(name)
            for moment in MOMENTS:
                if (value := self._whole.moment(name, moment)) is not None:
                    yield f"{moment}/{name}", value
            if self._average:
                yield f"average/{name}", self._whole.whole(name, self._average[name])
        for name, buffer in self._buffers().items():
            yield f"buffer/{name}", buffer

    def _buffers(self) -> dict[str, Tensor]:
        kept = self._engine.module.state_dict().keys()
        return {name: buffer for name, buffer in self._engine.module.named_buffers() if name in kept}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average in place of the weights, for the length of the block."""
        before = {name: self._whole.weight(name) for name in self._average}
        for name, part in self._average.items():
            self._whole.show(name, self._whole.whole(name, part))
        yield
        for name, weight in before.items():
            self._whole.show(name, weight)

    def _progress(self) -> dict[str, Any]:
        counts = {"steps": self.steps, "updates": self._whole.updates}
        return {**counts, "guard": self._guard.state(), "scaler": self._scaler()}

    def _go_on_from(self, progress: Mapping[str, Any]) -> None:
        engine, steps = self._engine, progress["steps"]
        engine.global_steps, engine.micro_steps = steps, steps * self._parts
        engine.global_samples = steps * engine.train_batch_size()
        self._whole.count_updates_from(progress["updates"])
        self._guard.restore(progress["guard"])
        if self._engine.fp16_enabled():
            vars(engine.optimizer.loss_scaler).update(progress["scaler"])

    def _scaler(self) -> dict[str, float]:
        """How fp16 scales its loss."""
        if not self._engine.fp16_enabled():
            return {}
        state = vars(self._engine.optimizer.loss_scaler)
        return {name: value for name, value in state.items() if isinstance(value, int | float)}


def _optimizer(objective: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    trained = [p for p in objective.parameters() if p.requires_grad]
    vectors = [p for p in trained if p.ndim < 2 and not config.decay_vectors]
    free = set(map(id, vectors))
    groups = [
        {"params": [p for p in trained if id(p) not in free], "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return _OPTIMIZERS[config.name](
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def _nan() -> Tensor:
    return torch.tensor(float("nan"))


def _settings(engine: EngineConfig, batch_examples: int, parameters: int) -> Mapping[str, Any]:
    """DeepSpeed's own config. Buckets are no larger than the model: the default takes 2 GB for any."""
    aligned = 2 * world_size()
    bucket = aligned * -(-min(parameters, 500_000_000) // aligned)
    # Stage 0 of fp16 keeps its float32 weights in another class of DeepSpeed's, which would need a format of its own.
    stage = max(engine.zero_stage, 1 if engine.precision == "fp16" else 0)
    return {
        "train_micro_batch_size_per_gpu": max(1, -(-batch_examples // world_size()) // engine.accumulation_steps),
        "gradient_accumulation_steps": engine.accumulation_steps,
        "gradient_clipping": engine.clip_norm or 0.0,
        "steps_per_print": None,
        "zero_optimization": {
            "stage": stage,
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
