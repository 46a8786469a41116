"""The learning rate of every step: a linear rise, then half a cosine down."""

import math

from trainers.config import OptimizerConfig


def learning_rate(step: int, *, optimizer: OptimizerConfig, steps_per_epoch: int, epochs: int) -> float:
    """The rate of step `step` (from 0): Myna's curve over epochs e, lr·(e+1)/warmup, then lr·½(1+cos(π(e-w)/(E-w))).

    Whole epochs give the public code's values; between them e grows step by step unless `schedule` is "epoch". A
    warm-up given as a share of the steps rises by steps: lr·(step+1)/(share·steps). The cosine ends at `final_lr`.
    """
    by_epoch = optimizer.schedule == "epoch"
    epoch = step // steps_per_epoch if by_epoch else step / steps_per_epoch
    warmup = optimizer.warmup_epochs or optimizer.warmup_share * epochs
    if epoch < warmup:
        first = 1 if by_epoch or optimizer.warmup_epochs else 1 / steps_per_epoch
        return optimizer.lr * min(1.0, (epoch + first) / warmup)
    height = 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    return optimizer.final_lr + (optimizer.lr - optimizer.final_lr) * height
