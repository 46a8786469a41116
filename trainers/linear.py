"""A linear layer by the fastest float32 product that a CPU has in torch; everywhere else torch's own."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_POINTWISE = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Linear(nn.Linear):
    """nn.Linear, with the same parameters and gradients.

    On x86 torch multiplies float32 by MKL, whose kernels for AVX-512 leave a tenth of other makers' processors unused;
    oneDNN's, which torch keeps for its compiler, do not. Gradients of weights stay with MKL, which is no slower there.
    """

    def forward(self, rows: Float[Tensor, "... width"]) -> Float[Tensor, "... out_width"]:
        if _POINTWISE is None or not _is_plain(rows) or not _is_plain(self.weight):
            return super().forward(rows)
        return _Product.apply(rows, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(rows, weight)
        return _times(rows, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        rows, weight = context.saved_tensors
        (gradient,) = gradients
        of_rows = _times(gradient, weight.T, None) if context.needs_input_grad[0] else None
        flat = gradient.reshape(-1, gradient.shape[-1])
        of_weight = flat.T @ rows.reshape(-1, rows.shape[-1]) if context.needs_input_grad[1] else None
        return of_rows, of_weight, flat.sum(dim=0) if context.needs_input_grad[2] else None


def _times(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert _POINTWISE is not None
    return _POINTWISE(rows, weight, bias, "none", [], "")


def _is_plain(tensor: Tensor) -> bool:
    """Whether this is float32 in the memory of a CPU, to be computed as such."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
