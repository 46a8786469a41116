"""What DeepSpeed's ZeRO splits over ranks, seen whole and by name: weights in float32 and the moments of Adam.

A parameter is gathered, filled or averaged one at a time, so that the whole never stands in one rank's memory.
"""

from collections.abc import Mapping

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch import distributed as dist

from trainers.global_batch import rank, world_size

MOMENTS = ("exp_avg", "exp_avg_sq")


class WholeState:
    """The parameters of a DeepSpeed engine and their optimiser's state; all ranks call the same methods in turn."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine) -> None:
        self._optimizer, self._device = engine.optimizer, engine.device
        self._inner: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self.stage = engine.zero_optimization_stage()
        self.named = dict(engine.module.named_parameters())
        self.trained = {name: weight for name, weight in self.named.items() if weight.requires_grad}

    def weight(self, name: str) -> Tensor:
        """A parameter in float32."""
        weight = self.named[name]
        if self.stage and weight.requires_grad:
            return safe_get_full_fp32_param(weight)
        with deepspeed.zero.GatheredParameters([weight], enabled=self.stage == 3):
            return weight.detach().float().clone()

    def moment(self, name: str, moment: str) -> Tensor | None:
        """One of MOMENTS of a parameter; None while no gradient has reached it."""
        weight = self.trained[name]
        if self.stage:
            return safe_get_full_optimizer_state(weight, moment)
        return self._optimizer.state[weight].get(moment)

    def fill(self, name: str, weight: Tensor, moments: Mapping[str, Tensor]) -> None:
        """Give a parameter and its optimiser these values."""
        parameter = self.trained[name]
        self.show(name, weight)
        if self.stage == 3:  # its setter of whole values refuses those that the ranks do not divide
            safe_set_local_fp32_param(parameter, self.part(name, weight))
        elif self.stage:
            safe_set_full_fp32_param(parameter, weight.to(self._device))
        for moment, value in moments.items():
            if self.stage == 3:
                safe_set_local_optimizer_state(parameter, self.part(name, value), moment)
            elif self.stage:
                safe_set_full_optimizer_state(parameter, value.to(self._device), moment)
            else:
                self._optimizer.state[parameter][moment].copy_(value)

    def show(self, name: str, weight: Tensor) -> None:
        """Put values where the next forward pass finds them; the optimiser keeps its own."""
        parameter, is_split = self.trained[name], self.stage == 3
        with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=is_split):
            if not is_split or rank() == 0:
                parameter.data.copy_(weight)

    def local(self, name: str) -> Tensor:
        """The float32 values of a parameter that this rank holds: its part of them at stage 3, else all."""
        weight = self.trained[name]
        return (safe_get_local_fp32_param(weight) if self.stage == 3 else weight).detach().float()

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What of a whole value this rank holds, as `local`."""
        if self.stage < 3:
            return whole.to(self._device)
        size = self.local(name).numel()
        padded = nn.functional.pad(whole.to(self._device).flatten(), (0, world_size() * size - whole.numel()))
        return padded[rank() * size :][:size]

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole value of which each rank brings its part."""
        if self.stage < 3:
            return part
        flat, weight = part.new_empty(world_size() * part.numel()), self.trained[name]
        dist.all_gather_into_tensor(flat, part)
        return flat[: weight.ds_numel].view(weight.ds_shape)

    def require_moments(self) -> None:
        """Have the optimiser make its state, by a step of rate 0 on gradients of 0; then it counts from 0 again."""
        if self._inner.state:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        for number, flat in enumerate(self._optimized()):
            flat.grad = torch.zeros_like(flat)
            if self.stage:
                self._optimizer._optimizer_step(number)
        if not self.stage:
            self._inner.step()
        for flat in self._optimized():
            flat.grad = None
        self.count_updates_from(0.0)

    @property
    def updates(self) -> float:
        """How often the optimiser has changed the weights; refused steps do not count."""
        return max((float(state["step"]) for state in self._inner.state.values()), default=0.0)

    def count_updates_from(self, updates: float) -> None:
        """Adam corrects its moments by this count."""
        for state in self._inner.state.values():
            state["step"].fill_(updates)

    def _optimized(self) -> list[Tensor]:
        """What the optimiser inside updates: this rank's flat parts, or the parameters themselves."""
        if self.stage == 3:
            return self._optimizer.fp32_partitioned_groups_flat
        return self._optimizer.single_partition_of_fp32_groups if self.stage else list(self.trained.values())
