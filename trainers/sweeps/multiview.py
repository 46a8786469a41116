"""What the multi-view paper compares: principles, kinds and weights of its losses (arXiv 2507.22995)."""

from dataclasses import replace
from itertools import product

from trainers.config import Sweep, load
from trainers.configs.multiview import MultiviewTraining

SEEDS = {"paper": 3, "laptop": 3, "debug": 1}
PRINCIPLES = ("infonce", "cosine", "vicreg")
KINDS = ("sim", "sep", "both")
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # only the ends are published
STACK = 12  # on CPUs 6 to 12 are best: the state of a larger stack leaves the cache


def paper(size: str = "paper") -> Sweep:
    """Three principles, three kinds, six weights of reconstruction: 54 cells, 46 trainings a seed."""
    cells = {
        f"{principle}-{kind}-{weight:.1f}": _cell(size, principle, kind, weight)
        for principle, kind, weight in product(PRINCIPLES, KINDS, WEIGHTS)
    }
    return Sweep("cell", {name: _seeded(cell, size) for name, cell in cells.items()}, stack=STACK)


def baselines(size: str = "paper") -> Sweep:
    """Contrastive training alone, on pairs of one family and on pairs of one pitch (section 8 of the study)."""
    names = ("contrastive_instrument", "contrastive_pitch")
    return Sweep("baseline", {name: _seeded(load(f"multiview:{name}", size), size) for name in names})


def training_sizes(size: str = "paper") -> Sweep:
    """A recipe of each principle with half as many training examples, as many and twice as many."""
    members = {}
    for principle, (word, factor) in product(PRINCIPLES, {"half": 0.5, "whole": 1, "double": 2}.items()):
        cell = _cell(size, principle, "both", 0.4)
        data = replace(cell.data, examples=int(cell.data.examples * factor))
        members[f"{principle}-both-0.4@{word}"] = _seeded(replace(cell, data=data), size)
    return Sweep("examples", members, stack=STACK)


def _seeded(config: MultiviewTraining, size: str) -> tuple[MultiviewTraining, ...]:
    return tuple(replace(config, seed=seed) for seed in range(SEEDS[size]))


def _cell(size: str, principle: str, kind: str, weight: float) -> MultiviewTraining:
    """With reconstruction alone the other loss is not learned from: nine cells are one training."""
    if weight == 1:
        return load("multiview:reconstruction", size)
    best = load("multiview:best", size)
    objective = replace(best.objective, principle=principle, kind=kind, reconstruction_weight=weight)
    return replace(best, objective=objective, model=replace(best.model, decoder=weight > 0))
