"""What Myna's paper compares: patch shapes and objectives, masking ratios, batch sizes, ways to make views."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainers.config import Sweep, TrainConfig, load

SEEDS = {"paper": 3, "laptop": 3, "debug": 1}
_VARIANTS = ("myna:base", "myna:vertical", "myna:hybrid", "myna:mae", "vit1d:base")
_RATIOS = (0.5, 0.75, 0.9, 0.95)
_BATCHES = {"paper": (256, 512, 1024, 2048, 4096), "laptop": (64, 256, 512), "debug": (8, 16)}


def variants(size: str = "paper") -> Sweep:
    """Base, vertical, hybrid and MAE with equal budgets (table 1), and ViT-1D."""
    configs = {name.removeprefix("myna:").removesuffix(":base"): load(name, size) for name in _VARIANTS}
    return _seeded("variant", size, configs)


def masking_ratio(size: str = "paper") -> Sweep:
    """Base with half to nineteen twentieths of its tokens hidden (figure 4)."""
    base = load("myna:base", size)
    ratios = {str(r): replace(base, objective=replace(base.objective, mask_ratio=r)) for r in _RATIOS}
    return _seeded("masking ratio", size, ratios)


def batch_size(size: str = "paper") -> Sweep:
    """Base in batches of different sizes, for the same epochs (table 2)."""
    base = load("myna:base", size)
    batches = {str(n): replace(base, data=replace(base.data, batch_examples=n)) for n in _BATCHES[size]}
    return _seeded("batch size (examples)", size, batches)


def views(size: str = "paper") -> Sweep:
    """Base with masks, CLMR's changes of the sound, both, crops alone, transposition."""
    base = load("myna:base", size)
    made = {
        "masking": ("", base.objective.mask_ratio),
        "augment": ("clmr", 0.0),
        "augment+masking": ("clmr", base.objective.mask_ratio),
        "crop_only": ("", 0.0),
        "transpose": ("transpose:6", 0.0),
    }
    configs = {
        name: replace(base, data=replace(base.data, sound=sound), objective=replace(base.objective, mask_ratio=ratio))
        for name, (sound, ratio) in made.items()
    }
    return _seeded("views", size, configs)


def _seeded(axis: str, size: str, configs: Mapping[str, TrainConfig[Any, Any]]) -> Sweep:
    seeds = range(SEEDS[size])
    return Sweep(axis, {name: tuple(replace(config, seed=s) for s in seeds) for name, config in configs.items()})
