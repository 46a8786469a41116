"""ViT-1D: frames as tokens, NT-Xent on a class token. The paper's abstract is all that is public: most values are ours.

From the abstract: tokens of one frame, a learned class token plus their average, NT-Xent on it. From the same group's
other work: the mel, 4 s, depth, width and heads, temperature. The rest, optimiser included, is nobody's but ours.

Build the column with --features mel:vit1d. The mean and deviation of its levels are measured on the training split,
unless --model.mean-db and --model.deviation-db are given.
"""

from trainers.config import DataConfig, EngineConfig, OptimizerConfig, TrainConfig
from trainers.models.vit1d import Vit1dConfig
from trainers.objectives.contrastive import ContrastiveConfig

Vit1dTraining = TrainConfig[Vit1dConfig, ContrastiveConfig]
COLUMN = "mel-vit1d"


def base(size: str = "paper") -> Vit1dTraining:
    """ViT-1D, 5.4M: frames as tokens, NT-Xent on a class token."""
    return {"paper": _paper, "laptop": _laptop, "debug": _debug}[size]()


def _paper() -> Vit1dTraining:
    """100,000 steps of 512 pairs of 4 s; 62 epochs of AudioSet's music. lr is 5e-4 x batch / 256, at most 1e-3."""
    return TrainConfig(
        system="vit1d",
        variant="base",
        size="paper",
        data=DataConfig(dataset="datasets/audioset", column=COLUMN, batch_examples=512, frames=126),
        model=Vit1dConfig(
            bands=128,
            frames=126,
            width=192,
            depth=12,
            heads=3,
            head_width=64,
            mlp_width=768,
            range_db=100.0,
            readout="cls",
        ),
        objective=_objective(192, 128),
        optimizer=_optimizer(1e-3),
        engine=EngineConfig(precision="bf16"),
        epochs=62,
        log_every_steps=50,
        save_every_steps=1000,
    )


def _laptop() -> Vit1dTraining:
    """The same of a small encoder on segments of 2 s, which differ even in notes of 4 s: a quarter of an hour."""
    return TrainConfig(
        system="vit1d",
        variant="base",
        size="laptop",
        data=DataConfig(dataset="datasets/nsynth", column=COLUMN, batch_examples=256, frames=63),
        model=Vit1dConfig(frames=63, width=96, depth=4, heads=3, head_width=32, mlp_width=384),
        objective=_objective(96, 64),
        optimizer=_optimizer(5e-4),
        engine=EngineConfig(),
        epochs=20,
        log_every_steps=10,
        save_every_steps=100,
    )


def _debug() -> Vit1dTraining:
    """The same code path with two tiny blocks: seconds, in tests."""
    return TrainConfig(
        system="vit1d",
        variant="base",
        size="debug",
        data=DataConfig(dataset="datasets/nsynth", column=COLUMN, batch_examples=8, frames=63),
        model=Vit1dConfig(frames=63, width=32, depth=2, heads=2, head_width=16, mlp_width=64),
        objective=_objective(32, 32),
        optimizer=_optimizer(5e-4),
        engine=EngineConfig(),
        epochs=2,
        log_every_steps=1,
        save_every_steps=5,
    )


def _objective(*projector_widths: int) -> ContrastiveConfig:
    return ContrastiveConfig(
        loss="ntxent", temperature=0.1, mask_ratio=0.0, projector="gelu", projector_widths=projector_widths
    )


def _optimizer(lr: float) -> OptimizerConfig:
    return OptimizerConfig(
        name="adamw",
        lr=lr,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        warmup_share=0.05,
        final_lr=1e-6,
        decay_vectors=False,
    )
