"""Views that begin as sound: waveforms are changed, and their mel is computed, where the training runs.

For comparisons only: Myna itself trains on mels that are computed once. Twenty times the data are read, and each pair
of views takes some milliseconds of a core.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shards.example import Batch
from shards.features.mel import Mel
from shards.problem import UsageProblem
from trainers.augmentation import Chain, augmented, mixed, transposition

COLUMN = "waveform"
_CHAINS = ("clmr", "transpose:SEMITONES")


def samples_of(frames: int) -> int:
    """Samples of a crop whose mel fills so many frames: 50,000 for 96, as Myna's public code has it."""
    return 50_000 * frames // 96


def chain_of(sound: str) -> Chain:
    """`clmr`, or `transpose:6` for up to six semitones. Raises UsageProblem for anything else."""
    name, _, argument = sound.partition(":")
    if name == "clmr" and not argument:
        return Chain()
    if name == "transpose" and argument.isdecimal() and 0 < int(argument) <= 12:
        return transposition(int(argument))
    raise UsageProblem(
        f"data.sound={sound} names no change of the sound, so nothing was trained. Give one of {', '.join(_CHAINS)} "
        "(1 to 12), or leave it empty to train on the mel column."
    )


def hear(objective: nn.Module, mel: Mel, *, sound: str, frames: int) -> None:
    """Have an objective that takes mels be given waveforms (batch, 1, samples) of the mel's rate.

    A hook, so that names in its state stay what they are.
    """
    chain = chain_of(sound)

    def mels(
        view: Float[Tensor, "batch 1 samples"], seeds: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch bands frames"]:
        power = mel.power(augmented(view[:, 0], seeds, chain))
        return power[:, :frames].transpose(1, 2)

    def before(module: nn.Module, given: tuple[Batch]) -> tuple[Batch]:
        (batch,) = given
        with torch.no_grad():
            views = tuple(mels(view, seeds) for view, seeds in zip(batch.views, batch.seeds.unbind(1), strict=True))
        return (replace(batch, views=views),)

    objective.register_forward_pre_hook(before)


def mix(objective: nn.Module) -> None:
    """Have every view of an objective mixed with a little of another example's (MixUp on mels, for contrast only)."""

    def before(module: nn.Module, given: tuple[Batch]) -> tuple[Batch]:
        (batch,) = given
        views = zip(batch.views, batch.seeds.unbind(1), strict=True)
        return (replace(batch, views=tuple(mixed(view, seeds, batch.weight > 0) for view, seeds in views)),)

    objective.register_forward_pre_hook(before)
