"""Rebuild a clip's features from two codes: the shared one agrees between views, the private one differs.

Both losses in proportion (arXiv 2507.22995, eq. 5); reconstruction is brought to the scale of the other first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shards.example import Batch
from shards.problem import DataProblem, UsageProblem
from trainers.disentangle import DisentanglementConfig, disentanglement, monitors, reconstruction
from trainers.global_batch import gather
from trainers.models.multiview import Multiview

_LEAST_DEVIATION = 1e-6
_LEAST_DISENTANGLEMENT = 1e-3
Terms = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class MultiviewObjectiveConfig(DisentanglementConfig):
    """How latents are compared, and how much that counts beside reconstruction."""

    reconstruction_weight: float
    """Between 0, where nothing is decoded, and 1, where latents are compared and nothing is learned from it."""
    negatives: Literal["all", "other_family"] = "all"
    """Of infonce, sim: compare with every other example, or with those of other classes of data.pair_by only."""
    scale_batches: int = 20
    """First batches on which the scale of reconstruction is measured, with the initial weights."""
    scale_range: tuple[float, float] = (1e-2, 1e3)
    """Least and largest scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale_range
        if not (0 <= self.reconstruction_weight <= 1 and self.scale_batches > 0 and 0 < low <= high):
            raise UsageProblem(
                f"reconstruction_weight={self.reconstruction_weight}, scale_batches={self.scale_batches}, "
                f"scale_range={self.scale_range} weigh no two losses. Give a weight in [0, 1], at least one batch and "
                "a range above 0."
            )
        if self.negatives == "other_family" and (self.principle != "infonce" or self.kind == "sep"):
            raise UsageProblem(
                f"negatives=other_family chooses what similar latents are told from, and {self.principle} {self.kind} "
                "tells them from none. Leave it at all, or give principle infonce and kind sim or both."
            )

    def build(self, model: Multiview) -> "MultiviewObjective":
        """The objective that trains `model`. Raises UsageProblem when it has a part too many or too few."""
        return MultiviewObjective(model, self)


class MultiviewObjective(nn.Module):
    """The autoencoder and both losses; `scale` multiplies that of reconstruction."""

    scale: Float[Tensor, ""]

    def __init__(self, model: Multiview, config: MultiviewObjectiveConfig) -> None:
        super().__init__()
        _require_parts(model, config)
        self.model, self.config = model, config
        self.register_buffer("scale", torch.tensor(1.0))
        self.classes: dict[bool, Tensor] = {}
        """Of each example by its index: of the training examples (True) and of the validation's."""
        if not config.reconstruction_weight:  # what nothing reaches shall not decay either
            for part in (model.private, model.shared):
                if part is not None and config.kind == ("sim" if part is model.private else "sep"):
                    part.requires_grad_(False)

    def know(self, training: Int[Tensor, " examples"], validation: Int[Tensor, " others"]) -> None:
        """Be told the class of every example, by its index; only `negatives=other_family` asks."""
        self.classes = {True: training, False: validation}

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of the batch of all ranks, equal on each of them, and global metrics; rows of weight 0 are left out.

        `mse` is in units of the features' variances: guessing the mean gives 1. Raises UsageProblem when the global
        batch has one example and the principle compares several.
        """
        x = torch.stack([self.model.pooled(view) for view in batch.views], dim=1)
        private, shared = self.model.codes(x)
        rebuilt = self.model.rebuilt(private, shared) if self.model.decoder else None
        real = gather(batch.weight) > 0
        with torch.autocast(x.device.type, enabled=False):
            x, shared = (gather(part.float())[real] for part in (x, shared))
            private, rebuilt = (None if part is None else gather(part.float())[real] for part in (private, rebuilt))
            excluded = self._excluded(gather(batch.index)[real])
            loss, metrics = self._weighed(x, rebuilt, private, shared, excluded)
            if not self.training:
                metrics |= {"scale": self.scale, **self._monitors(private, shared)}
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch]) -> None:
        """Measure mean and deviation of each dimension over the first views, then the scale on the first batches.

        Each example counts once in an epoch's first views. The scale is the mean of the other loss's size by the mean
        squared error of the initial weights. Raises DataProblem when there is no example.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        first: list[tuple[Tensor, Tensor]] = []
        for batch in batches:
            real = batch.weight > 0
            raw = torch.stack([self.model.raw(view)[real] for view in batch.to("cpu").views], dim=1)
            frames = raw[:, 0].flatten(end_dim=-2).double()
            count, total, squares = count + len(frames), total + frames.sum(0), squares + frames.square().sum(0)
            if len(first) < self.config.scale_batches:
                first.append((raw, batch.index[real]))
        if not count:
            raise DataProblem("There is no example to measure features on. Name a split with examples.")
        mean = total / count
        self.model.mean.copy_(mean)
        self.model.deviation.copy_((squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST_DEVIATION))
        self.scale.fill_(self._scale(first))

    def _scale(self, first: list[tuple[Tensor, Tensor]]) -> float:
        """What brings the errors of some raw batches to the size of the other loss; 1 where there is but one loss."""
        if self.model.decoder is None or self.config.reconstruction_weight == 1:
            return 1.0
        errors, others = [], []
        for raw, index in first:
            x = self.model.standardised(raw)
            private, shared = self.model.codes(x)
            loss, _ = self._compared(private, shared, self._excluded(index))
            errors.append(_error(self.model.rebuilt(private, shared), x))
            others.append(loss.abs())
        low, high = self.config.scale_range
        other = max(float(torch.stack(others).mean()), _LEAST_DISENTANGLEMENT)
        return min(max(other / float(torch.stack(errors).mean()), low), high)

    def _weighed(
        self, x: Tensor, rebuilt: Tensor | None, private: Tensor | None, shared: Tensor, excluded: Tensor | None
    ) -> Terms:
        """lambda k L_rec + (1 - lambda) L_D, and its parts; a loss that counts for nothing gives no gradient."""
        weight = self.config.reconstruction_weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight < 1):
            other, parts = self._compared(private, shared, excluded)
        metrics = {**parts, "disentanglement": other}
        if rebuilt is None:
            return other, metrics
        error = _error(rebuilt, x)
        rebuilding = weight * self.scale * error
        return rebuilding + (1 - weight) * other if weight < 1 else rebuilding, {**metrics, "mse": error}

    def _compared(self, private: Tensor | None, shared: Tensor, excluded: Tensor | None) -> Terms:
        p = None if private is None else _of_views(self._of_clips(private))
        return disentanglement(p, _of_views(self._of_clips(shared)), self.config, excluded)

    def _monitors(self, private: Tensor | None, shared: Tensor) -> dict[str, Tensor]:
        p = None if private is None else self._of_clips(private).flatten(end_dim=1)
        return monitors(p, self._of_clips(shared).flatten(end_dim=1))

    def _of_clips(self, codes: Float[Tensor, "batch views *steps own"]) -> Float[Tensor, "batch views own"]:
        """One code a view: the mean of its frames' where each has its own."""
        return codes.mean(dim=2) if self.model.config.pool == "time" else codes

    def _excluded(self, index: Int[Tensor, " batch"]) -> Bool[Tensor, "batch batch"] | None:
        """Pairs of examples of one class, which are no negatives."""
        if self.config.negatives == "all":
            return None
        if not self.classes:
            raise UsageProblem(
                "negatives=other_family needs the class of every example and none is known, so no negative could be "
                "chosen. Give --data.pair-by the label that has it."
            )
        classes = self.classes[self.training].to(index.device)[index]
        return (classes[:, None] == classes) & ~torch.eye(len(index), dtype=torch.bool, device=index.device)


def _error(rebuilt: Float[Tensor, "batch views *values"], x: Float[Tensor, "batch views *values"]) -> Float[Tensor, ""]:
    return reconstruction(_of_views(rebuilt.flatten(start_dim=2)), _of_views(x.flatten(start_dim=2)))


def _of_views(both: Float[Tensor, "batch views values"]) -> tuple[Tensor, Tensor]:
    first, second = both.unbind(1)
    return first, second


def _require_parts(model: Multiview, config: MultiviewObjectiveConfig) -> None:
    if (model.decoder is not None) != (config.reconstruction_weight > 0):
        raise UsageProblem(
            f"reconstruction_weight={config.reconstruction_weight} and model.decoder="
            f"{str(model.decoder is not None).lower()} contradict each other: a decoder would learn nothing, or "
            "nothing would be decoded. Give a weight above 0 with a decoder, or 0 with --model.decoder false."
        )
    if model.private is None and config.kind != "sim":
        raise UsageProblem(
            f"kind={config.kind} drives private codes apart and model.private=false has none, so there is nothing to "
            "train. Give kind sim, or --model.private true."
        )
