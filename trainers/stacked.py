"""Many multi-view autoencoders of one shape as one program: their weights stand along a leading axis, members.

Members share what they see (the data order of one seed) and differ in their losses; some have no decoder. Each member's
weights, moments and losses are those it would have alone, up to rounding. Speed: tests/benchmarks/stacked.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trainers.config import OptimizerConfig
from trainers.disentangle import DisentanglementConfig, disentanglement, monitors, reconstruction
from trainers.models.multiview import joined
from trainers.objectives.multiview import MultiviewObjective

PARTS = ("private", "shared", "decoder")
MOMENTS = ("exp_avg", "exp_avg_sq")
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class Seen:
    """A batch for all members: standardised features, all first views before all second ones."""

    features: Float[Tensor, "views batch steps bands"]
    index: Int[Tensor, " batch"]


@dataclass(frozen=True)
class _Group:
    """Members that compare latents alike, and the class of every example where some are no negatives."""

    members: list[int]
    config: DisentanglementConfig
    classes: Mapping[bool, Tensor]

    def excluded(self, index: Int[Tensor, " batch"], *, training: bool) -> Bool[Tensor, "members batch batch"] | None:
        if not self.classes:
            return None
        classes = self.classes[training].to(index.device)[index]
        alike = (classes[:, None] == classes) & ~torch.eye(len(index), dtype=torch.bool, device=index.device)
        return alike.expand(len(self.members), -1, -1)


Metrics = dict[str, dict[int, Tensor]]
"""Name -> a number for each member that has it, on the stack's device: `numbers` brings all to the CPU at once."""


class Stack:
    """The members in training."""

    def __init__(
        self, objectives: Sequence[MultiviewObjective], optimizer: OptimizerConfig, device: torch.device | str = "cpu"
    ) -> None:
        """Begin with the weights and scales of `objectives`: equal in shape and parts but for the decoder."""
        self.objectives, self.device = objectives, torch.device(device)
        self.owners = {part: _owners(objectives, part) for part in PARTS}
        self.weights = {name: weight for part in PARTS for name, weight in self._stacked(part)}
        self.names = {part: [name for name in self.weights if name.startswith(part)] for part in PARTS}
        self.reconstruction_weight = torch.tensor(
            [objective.config.reconstruction_weight for objective in objectives], device=device
        )
        self.scale = torch.stack([objective.scale for objective in objectives]).to(device)
        self._groups = _grouped(objectives)
        self._frozen = [*self._kept_fixed()]
        self._optimizer = _optimizer([*self.weights.values()], optimizer)

    def __len__(self) -> int:
        return len(self.objectives)

    def step(self, seen: Seen, rate: float) -> Metrics:
        """One step of every member on the same batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss, metrics = self.losses(seen, training=True)
        loss.sum().backward()
        self._optimizer.step()
        with torch.no_grad():  # what no loss reaches does not decay either
            for weight, members, values in self._frozen:
                weight[members] = values
        return metrics

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Seen]) -> Metrics:
        """Means over batches of one size, with the signs of collapse."""
        found = [self.losses(seen, training=False)[1] for seen in batches]
        return {
            name: {member: torch.stack([metrics[name][member] for metrics in found]).mean() for member in values}
            for name, values in found[0].items()
        }

    def losses(self, seen: Seen, *, training: bool) -> tuple[Float[Tensor, " members"], Metrics]:
        """What trainers/objectives/multiview.py computes for one member, for all."""
        views, batch = seen.features.shape[:2]
        x = seen.features.flatten(end_dim=2)
        private, shared = self._codes(x)
        p = None if private is None else self._of_clips(private, views * batch)
        s = self._of_clips(shared, views * batch)
        others, metrics = self._compared(p, s, batch, seen.index, training=training)
        total = (1 - self.reconstruction_weight) * others
        if owners := self.owners["decoder"]:
            own = None if private is None else _chosen(private, owners)
            rebuilt = self._through("decoder", joined(own, _chosen(shared, owners)).mT)
            half = len(x) // 2
            errors = reconstruction((rebuilt[:, :half], rebuilt[:, half:]), (x[:half], x[half:]))
            weighed = self.reconstruction_weight[owners] * self.scale[owners] * errors
            total = total.index_add(0, torch.tensor(owners, device=self.device), weighed)
            metrics["mse"] = _by_member(owners, errors)
        every = [*range(len(self))]
        metrics |= {"disentanglement": _by_member(every, others), "loss": _by_member(every, total)}
        if not training:
            metrics["scale"] = _by_member(every, self.scale)
            metrics |= {name: _by_member(every, values) for name, values in _signs(p, s).items()}
        return total, metrics

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, both moments and scales by name; `fill` takes them back."""
        yield "scale", self.scale
        for name, weight in self.weights.items():
            yield f"weight/{name}", weight.detach()
            for moment in MOMENTS:
                known = self._optimizer.state[weight]  # empty where no member's loss reaches this weight
                yield f"{moment}/{name}", known.get(moment, torch.zeros_like(weight))

    @torch.no_grad()
    def fill(self, saved: Mapping[str, Tensor], steps: int) -> None:
        """Go on as the stack that gave this state after `steps` steps."""
        self.scale.copy_(saved["scale"])
        for name, weight in self.weights.items():
            weight.copy_(saved[f"weight/{name}"])
            moments = {moment: saved[f"{moment}/{name}"].to(self.device, copy=True) for moment in MOMENTS}
            self._optimizer.state[weight] = {"step": torch.tensor(float(steps), device=self.device), **moments}

    def member(self, weights: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """One member's part of stacked `weights` under the names of its own objective, with its buffers."""
        own = dict(self.objectives[number].state_dict())
        own["scale"] = self.scale[number]
        for part, owners in self.owners.items():
            for name in self.names[part] if number in owners else ():
                own[f"model.{name}"] = weights[name][owners.index(number)]
        return {name: value.detach().cpu().clone().contiguous() for name, value in own.items()}

    def _stacked(self, part: str) -> Iterator[tuple[str, nn.Parameter]]:
        members = [self.objectives[number].model.get_submodule(part) for number in self.owners[part]]
        for name, _ in members[0].named_parameters() if members else ():
            weight = torch.stack([member.get_parameter(name).detach() for member in members])
            yield f"{part}.{name}", nn.Parameter(weight.to(self.device))

    def _kept_fixed(self) -> Iterator[tuple[Tensor, list[int], Tensor]]:
        """Weights of members for which their objective wants no gradient, as they are."""
        for part, owners in self.owners.items():
            for name in self.names[part]:
                given = [self.objectives[number].model.get_parameter(name) for number in owners]
                if fixed := [place for place, weight in enumerate(given) if not weight.requires_grad]:
                    yield self.weights[name], fixed, self.weights[name].detach()[fixed].clone()

    def _codes(self, x: Float[Tensor, "rows bands"]) -> tuple[Tensor | None, Tensor]:
        return self._through("private", x.T) if self.owners["private"] else None, self._through("shared", x.T)

    def _through(self, part: str, columns: Tensor) -> Float[Tensor, "members rows _"]:
        """The layers of a part, of one input (values, rows) for all members or of each member's own.

        Rows stand last inside: gradients of the weights then come as the weights lie, and nothing is copied.
        """
        names = self.names[part]
        for number in range(0, len(names), 2):
            weight, bias = self.weights[names[number]], self.weights[names[number + 1]][..., None]
            if columns.ndim == 2:  # one product for all members
                flat = torch.addmm(bias.flatten(end_dim=1), weight.flatten(end_dim=1), columns)
                columns = flat.unflatten(0, bias.shape[:2])
            else:
                columns = torch.baddbmm(bias, weight, columns)
            columns = columns.relu() if number + 2 < len(names) else columns
        return columns.mT

    def _of_clips(self, codes: Float[Tensor, "members rows own"], clips: int) -> Float[Tensor, "members clips own"]:
        return codes.unflatten(1, (clips, -1)).mean(dim=2) if codes.shape[1] > clips else codes

    def _compared(
        self, p: Tensor | None, s: Tensor, batch: int, index: Tensor, *, training: bool
    ) -> tuple[Float[Tensor, " members"], Metrics]:
        """The other loss, group by group, and its parts."""
        losses, metrics = [], Metrics()
        for group in self._groups:
            private = None if p is None else _views(_chosen(p, group.members), batch)
            shared, excluded = _views(_chosen(s, group.members), batch), group.excluded(index, training=training)
            loss, parts = disentanglement(private, shared, group.config, excluded)
            losses.append(loss)
            for name, values in parts.items():
                metrics.setdefault(name, {}).update(_by_member(group.members, values))
        order = torch.tensor([member for group in self._groups for member in group.members]).argsort()
        return torch.cat(losses)[order.to(self.device)], metrics


def numbers(metrics: Metrics) -> dict[str, dict[int, float]]:
    """The same as plain numbers."""
    found = {name: torch.stack([*values.values()]).tolist() for name, values in metrics.items()}
    return {name: dict(zip(values, found[name], strict=True)) for name, values in metrics.items()}


def _owners(objectives: Sequence[MultiviewObjective], part: str) -> list[int]:
    return [number for number, one in enumerate(objectives) if getattr(one.model, part) is not None]


def _grouped(objectives: Sequence[MultiviewObjective]) -> list[_Group]:
    """Members by how they compare latents; those that learn nothing from it are no group of their own."""
    groups: dict[tuple[object, ...], _Group] = {}
    for number, objective in enumerate(objectives):
        names = DisentanglementConfig.__dataclass_fields__
        config = DisentanglementConfig(**{name: getattr(objective.config, name) for name in names})
        key = (*asdict(config).values(), objective.config.negatives)
        classes = objective.classes if objective.config.negatives != "all" else {}
        groups.setdefault(key, _Group([], config, classes)).members.append(number)
    return list(groups.values())


def _optimizer(weights: Sequence[Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Element by element, so that stacked members never meet. A stacked vector is a matrix."""
    matrices, vectors = ([w for w in weights if (w.ndim > 2) == wanted] for wanted in (True, False))
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": config.weight_decay if config.decay_vectors else 0.0},
    ]
    return _OPTIMIZERS[config.name](groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _signs(p: Tensor | None, s: Float[Tensor, "members clips own"]) -> dict[str, Float[Tensor, " members"]]:
    """Signs of collapse; nan of members that are none any more, which would stop the others."""
    is_whole = (s.sum(dim=(1, 2)) + (0 if p is None else p.sum(dim=(1, 2)))).isfinite()
    there = is_whole[:, None, None]
    found = monitors(None if p is None else torch.where(there, p, 0.0), torch.where(there, s, 0.0))
    return {name: torch.where(is_whole, values, torch.nan) for name, values in found.items()}


def _chosen(codes: Float[Tensor, "members ..."], members: list[int]) -> Float[Tensor, "_ ..."]:
    """Neighbours without a copy."""
    first, last = members[0], members[-1]
    return codes[first : last + 1] if members == [*range(first, last + 1)] else codes[members]


def _views(codes: Float[Tensor, "members clips own"], batch: int) -> tuple[Tensor, Tensor]:
    return codes[:, :batch], codes[:, batch:]


def _by_member(members: Sequence[int], values: Float[Tensor, " _"]) -> dict[int, Tensor]:
    return dict(zip(members, values.detach().unbind(), strict=True))
