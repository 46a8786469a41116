"""The linear layer is torch's own in all but speed."""

import pytest
import torch
from torch import nn

from trainers.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (12,), (0, 12)])
def test_values_and_gradients_are_torchs(shape, bias):
    torch.manual_seed(0)
    ours, torchs = Linear(12, 8, bias=bias), nn.Linear(12, 8, bias=bias)
    torchs.load_state_dict(ours.state_dict())
    found, expected = torch.randn(shape).requires_grad_(), None
    expected = found.detach().clone().requires_grad_()
    slopes = torch.randn(*shape[:-1], 8)
    for layer, rows in ((ours, found), (torchs, expected)):
        (layer(rows) * slopes).sum().backward()
    torch.testing.assert_close(ours(found), torchs(expected))
    torch.testing.assert_close(found.grad, expected.grad)
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in torchs.parameters()])


def test_rows_that_are_laid_out_otherwise_give_the_same():
    torch.manual_seed(0)
    layer, rows = Linear(6, 4), torch.randn(5, 3, 6)
    torch.testing.assert_close(layer(rows.transpose(0, 1)), layer(rows).transpose(0, 1))
    torch.testing.assert_close(layer(rows[:, ::2]), layer(rows)[:, ::2])


def test_other_precisions_are_left_to_torch():
    layer, rows = Linear(6, 4), torch.randn(5, 6)
    assert layer.double()(rows.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(rows).dtype == torch.bfloat16


def test_a_frozen_weight_gets_no_gradient():
    layer, rows = Linear(6, 4), torch.randn(5, 6).requires_grad_()
    layer.requires_grad_(False)
    layer(rows).sum().backward()
    assert rows.grad is not None and layer.weight.grad is None
