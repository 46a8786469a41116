"""Whether a gradient may be applied: not when it, or its loss, is no number or far above what the run has seen.

Decides by numbers that are equal on all ranks, so all ranks decide alike; its memory is part of a checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_MEMORY = 0.98  # weight of the past in the running means: about 50 steps
_UNJUDGED = 20  # steps after which the running means say something
_LEAST_DEVIATION = 0.01  # of the mean: a quantity that hardly moves has no outliers yet


@dataclass
class _Usual:
    """Running mean of a quantity, and of how far it lies from that mean."""

    mean: float = 0.0
    deviation: float = 0.0
    seen: int = 0

    def distance(self, value: float) -> float:
        """How many mean deviations `value` lies above the mean."""
        return (value - self.mean) / max(self.deviation, _LEAST_DEVIATION * abs(self.mean), 1e-12)

    def take(self, value: float) -> None:
        self.seen += 1
        memory = min(_MEMORY, 1 - 1 / self.seen)
        self.deviation = memory * self.deviation + (1 - memory) * abs(value - self.mean) * (self.seen > 1)
        self.mean = memory * self.mean + (1 - memory) * value


class Guard:
    """Judges step after step; what it admits becomes what is usual."""

    def __init__(self, spike_deviations: float | None) -> None:
        """Without `spike_deviations` only numbers that are none are refused."""
        self._limit = spike_deviations
        self._usual = {"loss": _Usual(), "gradient norm": _Usual()}
        self.refused = 0

    def judge(self, loss: float, norm: float) -> str:
        """Why this step must not be taken, such as `its loss is nan`; empty when it may."""
        values = {"loss": loss, "gradient norm": norm}
        reason = next((text for name, value in values.items() if (text := self._reason(name, value))), "")
        if reason:
            self.refused += 1
            return reason
        for name, value in values.items():
            self._usual[name].take(value)
        return ""

    def state(self) -> dict[str, Any]:
        """What `restore` takes, in JSON types."""
        return {"refused": self.refused, "usual": {name: asdict(usual) for name, usual in self._usual.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the guard that gave this state."""
        self.refused = state["refused"]
        self._usual = {name: _Usual(**values) for name, values in state["usual"].items()}

    def _reason(self, name: str, value: float) -> str:
        if not math.isfinite(value):
            return f"its {name} is {value}"
        usual = self._usual[name]
        if self._limit is None or usual.seen < _UNJUDGED or usual.distance(value) <= self._limit:
            return ""
        return (
            f"its {name} is {value:.4g}, {usual.distance(value):.0f} mean deviations above the usual {usual.mean:.4g}"
        )
