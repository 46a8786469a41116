"""The multi-view autoencoder on frozen features of notes (arXiv 2507.22995). Values with a [D] are ours, see below.

[D] The paper's formulas and numbers are lost but for 100 epochs of batches of 16 pairs with AdamW: widths and depths,
rates, temperatures, weights of the losses and sizes of the subsets are ours. The paper's best recipe is lost too.

Build the column with --features audiomae@WEIGHTS, or logmel_stats, which needs no weights.
"""

from dataclasses import dataclass, replace

from trainers.config import DataConfig, EngineConfig, OptimizerConfig, TrainConfig
from trainers.models.multiview import MultiviewConfig
from trainers.objectives.multiview import MultiviewObjectiveConfig

MultiviewTraining = TrainConfig[MultiviewConfig, MultiviewObjectiveConfig]
FAMILY, PITCH = "instrument_family", "pitch"


def best(size: str = "paper") -> MultiviewTraining:
    """Both losses, 2.5M: InfoNCE on private and shared codes, four tenths of the weight on reconstruction."""
    return _training("best", size, _objective(0.4))


def reconstruction(size: str = "paper") -> MultiviewTraining:
    """The same without the other loss, which is only watched."""
    return _training("reconstruction", size, _objective(1.0))


def contrastive_instrument(size: str = "paper") -> MultiviewTraining:
    """One shared encoder of twice the width, 0.9M, no decoder: InfoNCE on pairs of one instrument family."""
    return _contrastive("contrastive_instrument", size)


def contrastive_pitch(size: str = "paper") -> MultiviewTraining:
    """The same on pairs of one pitch and different families."""
    training = _contrastive("contrastive_pitch", size)
    return replace(training, data=replace(training.data, pair_by=PITCH, pair_unlike=FAMILY))


@dataclass(frozen=True)
class _Size:
    """What differs between the sizes."""

    column: str
    bands: int
    frames: int
    examples: int
    valid_examples: int
    epochs: int
    batch_examples: int = 16
    hidden: int = 512
    latent: int = 256
    log_every_steps: int = 50
    save_every_steps: int = 625  # an epoch of the paper's size


_SIZES = {
    "paper": _Size("audiomae", 768, 25, 10_000, 2_000, 100),
    "laptop": _Size("logmel_stats", 384, 1, 2_000, 400, 20, log_every_steps=25, save_every_steps=250),
    "debug": _Size("logmel_stats", 384, 1, 0, 0, 2, 8, 32, 16, log_every_steps=1, save_every_steps=5),
}


def _contrastive(variant: str, size: str) -> MultiviewTraining:
    training = _training(variant, size, replace(_objective(0.0), kind="sim"))
    return replace(training, model=replace(training.model, private=False, decoder=False))


def _objective(reconstruction_weight: float) -> MultiviewObjectiveConfig:
    return MultiviewObjectiveConfig(
        principle="infonce",
        kind="both",
        reconstruction_weight=reconstruction_weight,
        temperature=0.1,
        symmetric=True,
        sep_scope="all",
        negatives="all",
        scale_batches=20,
    )


def _training(variant: str, size: str, objective: MultiviewObjectiveConfig) -> MultiviewTraining:
    """The same data, network and budget for every variant of a size, so that they can be compared."""
    own = _SIZES[size]
    return TrainConfig(
        system="multiview",
        variant=variant,
        size=size,
        data=DataConfig(
            dataset="datasets/nsynth",
            column=own.column,
            batch_examples=own.batch_examples,
            frames=own.frames,
            pair_by=FAMILY,
            pair_unlike=PITCH,
            examples=own.examples,
            valid_examples=own.valid_examples,
            stratify=(FAMILY, PITCH) if own.examples else (),
        ),
        model=MultiviewConfig(
            bands=own.bands, frames=own.frames, hidden=own.hidden, latent=own.latent, layers=3, pool="clip"
        ),
        objective=objective,
        optimizer=OptimizerConfig(
            name="adamw", lr=1e-4, weight_decay=1e-2, betas=(0.9, 0.999), final_lr=1e-4, eps=1e-8, schedule="step"
        ),
        engine=EngineConfig(zero_stage=0, precision="fp32"),
        epochs=own.epochs,
        log_every_steps=own.log_every_steps,
        save_every_steps=own.save_every_steps,
    )
