"""Myna: contrastive learning of music with masked tokens, no augmentation. Values with a [D] are ours, see below.

[D] The paper leaves the projector's widths, the betas and the eps of Adam open; these fit its published files.
"""

from trainers.config import DataConfig, EngineConfig, OptimizerConfig, TrainConfig
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig

MynaTraining = TrainConfig[MynaConfig, ContrastiveConfig]


def base(size: str = "paper") -> MynaTraining:
    """Myna-Base: square patches of 16 x 16, 90 % of them hidden, InfoNCE."""
    return {"paper": _paper, "laptop": _laptop, "debug": _debug}[size]()


def _paper() -> MynaTraining:
    """22M parameters, 500 epochs of AudioSet's music in batches of 4096 on one A100."""
    return TrainConfig(
        system="myna",
        variant="base",
        size="paper",
        data=DataConfig(dataset="datasets/audioset", column="mel", batch_examples=4096, frames=96),
        model=MynaConfig(
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
        ),
        objective=ContrastiveConfig(temperature=0.1, mask_ratio=0.9, projector_widths=(2048, 2048, 2048)),
        optimizer=OptimizerConfig(
            name="adam", lr=3e-4, weight_decay=1e-5, warmup_epochs=10, betas=(0.9, 0.999), eps=1e-8, schedule="step"
        ),
        engine=EngineConfig(zero_stage=0, precision="fp32", accumulation_steps=1, clip_norm=None),
        epochs=500,
        seed=0,
        log_every_steps=50,
        save_every_steps=1000,
    )


def _laptop() -> MynaTraining:
    """The same training of a small encoder on a few thousand notes: minutes on two CPU cores."""
    return TrainConfig(
        system="myna",
        variant="base",
        size="laptop",
        data=DataConfig(dataset="datasets/nsynth", column="mel", batch_examples=256, frames=96),
        model=MynaConfig(width=192, depth=4, heads=3, mlp_width=768),
        objective=ContrastiveConfig(temperature=0.1, mask_ratio=0.9, projector_widths=(512, 128)),
        optimizer=OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-5, warmup_epochs=5),
        engine=EngineConfig(),
        epochs=46,
        log_every_steps=10,
        save_every_steps=100,
    )


def _debug() -> MynaTraining:
    """The same code path with two tiny blocks: seconds, in tests."""
    return TrainConfig(
        system="myna",
        variant="base",
        size="debug",
        data=DataConfig(dataset="datasets/nsynth", column="mel", batch_examples=8, frames=96),
        model=MynaConfig(width=32, depth=2, heads=2, head_width=16, mlp_width=64),
        objective=ContrastiveConfig(temperature=0.1, mask_ratio=0.9, projector_widths=(32, 32)),
        optimizer=OptimizerConfig(name="adam", lr=1e-3, weight_decay=1e-5, warmup_epochs=1),
        engine=EngineConfig(),
        epochs=2,
        log_every_steps=1,
        save_every_steps=5,
    )
