"""How fast a training goes and what it is made of: examples, waiting for data, memory, arithmetic.

Model-FLOP utilisation as in PaLM (Chowdhery et al. 2022, appendix B): the arithmetic that the model needs, forward and
backward and without recomputation, over what the processors could do in the same time.
"""

import math
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shards.example import Batch
from shards.loader import Loader
from trainers.global_batch import total

# Dense peaks of the makers' data sheets, in FLOP/s: of 16-bit matrix products, and of float32 ones without TF32.
_KNOWN = {
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
}
_PROBE_SIZE, _PROBES = 1024, 4


class Pace:
    """Measures from one call of `since_last` to the next, checkpoints and validation included."""

    def __init__(self, loader: Loader, step: int, *, flops_per_example: float, peak_flops: float) -> None:
        """`flops_per_example` of the model, `peak_flops` a second of all workers together."""
        self._loader, self._flops, self._peak = loader, flops_per_example, peak_flops
        self._mark = time.perf_counter(), loader.wait_seconds, step

    def since_last(self, step: int) -> dict[str, float]:
        """Examples and model FLOPs a second over all workers, the share of time this one waited for data, memory."""
        began, waited, first = self._mark
        self._mark = now, waits, _ = time.perf_counter(), self._loader.wait_seconds, step
        rate = (step - first) * self._loader.batch_examples / (now - began)
        return {
            "examples_per_second": rate,
            "data_wait": (waits - waited) / (now - began),
            "memory_gib": memory_gib(),
            "model_flops_per_s": rate * self._flops,
            "mfu": rate * self._flops / self._peak,
        }


def memory_gib() -> float:
    """The most that this process has used so far: of its GPU where it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def flops_per_example(build: Callable[[], nn.Module], batch: Batch, device: torch.device) -> float:
    """FLOPs of one example in a training step, counted on a small batch with a module of its own from `build`.

    Matrix products, convolutions and attention count, two for each multiplication with its addition. All ranks count
    together, since an objective may look at the batches of all; no random generator moves.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_uncounted())
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), counter:
        loss, _ = build().to(device)(batch.to(device))
        loss.backward()
    return counter.get_total_flops() / len(batch.index)


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOPs a second of all workers' processors: known of their kind, else measured with a matrix product."""
    own = _known(device, precision) or _measured(device, torch.float32 if precision == "fp32" else torch.bfloat16)
    return float(total(torch.tensor(own, dtype=torch.float64, device=device)))


def _uncounted() -> dict[Any, Callable[..., int]]:
    """Products that torch's counter does not know: linear layers through oneDNN, (..., in) by (out, in)."""
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return {fused: lambda rows, weight, *rest, **more: 2 * math.prod(rows) * weight[0]} if fused else {}


def _known(device: torch.device, precision: str) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peaks = next((peaks for word, peaks in _KNOWN.items() if word in name), None)
    return peaks and peaks[precision == "fp32"]


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    """The best of a few products of two square matrices."""
    matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype, device=device)
    best = 0.0
    for _ in range(_PROBES):
        began = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = max(best, 2 * _PROBE_SIZE**3 / (time.perf_counter() - began))
    return best
