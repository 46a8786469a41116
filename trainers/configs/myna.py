"""Myna: contrastive learning of music with masked tokens, no augmentation. Values with a [D] are ours, see below.

[D] The paper leaves open the projector's widths, which fit the published files; the betas and the eps of Adam; the
epochs of the 85M hybrid and of the masked autoencoder, and the latter's learning rate.
"""

from dataclasses import replace
from typing import Any

from trainers.config import DataConfig, EngineConfig, OptimizerConfig, TrainConfig
from trainers.models.mae import MaeConfig
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig
from trainers.objectives.masked import MaskedConfig

MynaTraining = TrainConfig[MynaConfig, ContrastiveConfig]
_PROJECTORS = {"paper": (2048, 2048, 2048), "laptop": (512, 128), "debug": (32, 32)}


def base(size: str = "paper") -> MynaTraining:
    """Myna-Base, 22M: square patches, 90 % hidden, InfoNCE."""
    return _contrastive("base", size, _encoder(size))


def vertical(size: str = "paper") -> MynaTraining:
    """Myna-Vertical, 22M: patches of all 128 bands."""
    return _contrastive("vertical", size, replace(_encoder(size), patch_bands=128, patch_frames=2, frames=98))


def hybrid(size: str = "paper") -> MynaTraining:
    """Myna-Hybrid, 22M: both kinds of patch in one encoder."""
    return _contrastive("hybrid", size, replace(_encoder(size), second_patch=(128, 2)))


def _hybrid_85m(size: str = "paper") -> MynaTraining:
    """Myna-85M-Hybrid: the same at twice the width.

    Batches of 6144 on four A100, half the rate of the others and a quarter of their decay.
    """
    narrow = _encoder(size)
    wide = replace(narrow, width=2 * narrow.width, heads=2 * narrow.heads, mlp_width=2 * narrow.mlp_width)
    training = _contrastive("85m", size, replace(wide, second_patch=(128, 2)))
    optimizer = replace(training.optimizer, lr=training.optimizer.lr / 2, weight_decay=2.5e-6)
    batch_examples = 6144 if size == "paper" else training.data.batch_examples
    return replace(training, optimizer=optimizer, data=replace(training.data, batch_examples=batch_examples))


globals()["85m"] = _hybrid_85m  # its word on the command line; no name in Python begins with a digit


def mae(size: str = "paper") -> TrainConfig[MaeConfig, MaskedConfig]:
    """The masked autoencoder that Myna is compared with, 32M."""
    encoder = _encoder(size)
    model = MaeConfig(
        width=encoder.width,
        depth=encoder.depth,
        decoder_depth=encoder.depth // 2,
        heads=encoder.heads,
        head_width=encoder.head_width,
        mlp_width=encoder.mlp_width,
    )
    training = _training("mae", size, model, MaskedConfig(mask_ratio=0.75))
    batch_examples = 1024 if size == "paper" else training.data.batch_examples
    optimizer = replace(training.optimizer, name="adamw")
    return replace(training, optimizer=optimizer, data=replace(training.data, batch_examples=batch_examples))


def _encoder(size: str) -> MynaConfig:
    """Myna-Base at the paper's size, or smaller by depth and width."""
    if size == "laptop":
        return MynaConfig(width=192, depth=4, heads=3, mlp_width=768)
    if size == "debug":
        return MynaConfig(width=32, depth=2, heads=2, head_width=16, mlp_width=64)
    return MynaConfig(
        patch_bands=16,
        patch_frames=16,
        bands=128,
        frames=96,
        width=384,
        depth=12,
        heads=6,
        head_width=64,
        mlp_width=1536,
        log1p=False,
    )


def _contrastive(variant: str, size: str, model: MynaConfig) -> MynaTraining:
    objective = ContrastiveConfig(temperature=0.1, mask_ratio=0.9, projector_widths=_PROJECTORS[size])
    return _training(variant, size, model, objective)


def _training(variant: str, size: str, model: Any, objective: Any) -> TrainConfig[Any, Any]:
    """The same budget for every variant of a size, so that they can be compared."""
    return {"paper": _paper, "laptop": _laptop, "debug": _debug}[size](variant, model, objective)


def _paper(variant: str, model: Any, objective: Any) -> TrainConfig[Any, Any]:
    """500 epochs of AudioSet's music in batches of 4096 on one A100."""
    return TrainConfig(
        system="myna",
        variant=variant,
        size="paper",
        data=DataConfig(dataset="datasets/audioset", column="mel", batch_examples=4096, frames=model.frames),
        model=model,
        objective=objective,
        optimizer=OptimizerConfig(
            name="adam", lr=3e-4, weight_decay=1e-5, warmup_epochs=10, betas=(0.9, 0.999), eps=1e-8, schedule="step"
        ),
        engine=EngineConfig(zero_stage=0, precision="fp32", accumulation_steps=1, clip_norm=None),
        epochs=500,
        seed=0,
        log_every_steps=50,
        save_every_steps=1000,
    )


def _laptop(variant: str, model: Any, objective: Any) -> TrainConfig[Any, Any]:
    """The same training of a small encoder on a few thousand notes: minutes on two CPU cores."""
    return TrainConfig(
        system="myna",
        variant=variant,
        size="laptop",
        data=DataConfig(dataset="datasets/nsynth", column="mel", batch_examples=256, frames=model.frames),
        model=model,
        objective=objective,
        optimizer=OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-5, warmup_epochs=5),
        engine=EngineConfig(),
        epochs=46,
        log_every_steps=10,
        save_every_steps=100,
    )


def _debug(variant: str, model: Any, objective: Any) -> TrainConfig[Any, Any]:
    """The same code path with two tiny blocks: seconds, in tests."""
    return TrainConfig(
        system="myna",
        variant=variant,
        size="debug",
        data=DataConfig(dataset="datasets/nsynth", column="mel", batch_examples=8, frames=model.frames),
        model=model,
        objective=objective,
        optimizer=OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-5, warmup_epochs=1),
        engine=EngineConfig(),
        epochs=2,
        log_every_steps=1,
        save_every_steps=5,
    )
