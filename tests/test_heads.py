"""Stacked heads: each is the head that plain torch trains alone, whoever stands beside it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainers.heads import Answer, HeadConfig, Parts, Target, fit_heads

ROWS, WIDTH, CLASSES = 240, 12, 5
PARTS = Parts(np.arange(160), np.arange(160, 200), np.arange(200, ROWS))
SHORT = HeadConfig(epochs=6, batch_examples=32)


def clouds(members: int, seed: int = 0, noise: float = 1.0) -> tuple[Tensor, Target]:
    """Members see the same classes through noise of their own, at scales and places of their own."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(CLASSES, (ROWS,), generator=generator)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    seen = centres[numbers] + noise * torch.randn(members, ROWS, WIDTH, generator=generator)
    return 10.0 * torch.arange(1, members + 1)[:, None, None] * seen + 3.0, Target(numbers, CLASSES)


def plain_head(inputs: Tensor, target: Target, rate: float, config: HeadConfig, seed: int) -> tuple[Tensor, float, int]:
    """The same training written with torch's own parts: predictions of test, accuracy on valid, epoch."""
    train, valid, test = (torch.from_numpy(rows) for rows in (PARTS.train, PARTS.valid, PARTS.test))
    deviation, mean = torch.std_mean(inputs[train], dim=0, correction=0)
    inputs = (inputs - mean) / deviation
    torch.manual_seed(seed)
    head = nn.Linear(inputs.shape[1], target.classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    best = (torch.empty(0), -1.0, 0)
    for epoch in range(1, config.epochs + 1):
        order = train[torch.randperm(len(train), generator=generator)]
        for rows in order.split(config.batch_examples):
            dropped = torch.rand(len(rows), inputs.shape[1], generator=generator) < config.dropout
            seen = inputs[rows].masked_fill(dropped, 0.0) / (1 - config.dropout)
            optimizer.zero_grad()
            F.cross_entropy(head(seen), target.numbers[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = float((head(inputs[valid]).argmax(dim=1) == target.numbers[valid]).double().mean())
            if accuracy > best[1]:
                best = (head(inputs[test]).argmax(dim=1), accuracy, epoch)
        if epoch - best[2] >= config.patience:
            break
    return best


def chosen_by_hand(inputs: Tensor, target: Target, config: HeadConfig, seed: int) -> tuple[Tensor, float, float, int]:
    runs = [(rate, *plain_head(inputs, target, rate, config, seed)) for rate in config.rates]
    rate, predictions, accuracy, epoch = max(runs, key=lambda run: run[2])
    return predictions, accuracy, rate, epoch


def row(answer: Answer, member: int) -> tuple[list[int], float, float, int]:
    parts = (answer.predictions, answer.valid_accuracy, answer.rate, answer.epoch)
    return tuple(part[member].tolist() for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("config", [SHORT, HeadConfig(epochs=60, patience=4, batch_examples=64)])
def test_each_member_is_the_head_that_plain_torch_trains_alone(config):
    inputs, target = clouds(3, noise=2.0)
    (answer,) = fit_heads(inputs, [target], PARTS, config, seed=5)
    for member in range(3):
        predictions, accuracy, rate, epoch = chosen_by_hand(inputs[member], target, config, 5)
        assert row(answer, member) == (predictions.tolist(), pytest.approx(accuracy), pytest.approx(rate), epoch)


@settings(max_examples=12)
@given(members=st.integers(2, 5), seed=st.integers(0, 9), patience=st.integers(1, 4))
def test_who_stands_beside_a_member_changes_nothing_for_it(members, seed, patience):
    inputs, target = clouds(members, seed, noise=2.0)
    other = Target(target.numbers % 2, 2)
    config = HeadConfig(epochs=12, batch_examples=64, patience=patience)
    together = fit_heads(inputs, [target, other], PARTS, config, seed=seed)
    for member in range(members):
        for found, asked in zip(together, (target, other), strict=True):
            (alone,) = fit_heads(inputs[member : member + 1], [asked], PARTS, config, seed=seed)
            assert row(found, member) == row(alone, 0)


def test_equal_inputs_get_equal_heads():
    inputs, target = clouds(1)
    (answer,) = fit_heads(inputs.expand(2, -1, -1), [target], PARTS, SHORT, seed=1)
    assert row(answer, 0) == row(answer, 1)


def test_separable_classes_are_told_and_noise_is_not():
    inputs, target = clouds(1, noise=0.05)
    inputs = torch.cat([inputs, torch.randn(1, ROWS, WIDTH)])
    (answer,) = fit_heads(inputs, [target], PARTS, HeadConfig(batch_examples=32), seed=0)
    right = (answer.predictions == target.numbers[PARTS.test]).double().mean(dim=1)
    assert right[0] == 1.0 and right[1] < 0.6


def test_test_labels_have_no_say():
    inputs, target = clouds(2)
    hidden = target.numbers.clone()
    hidden[PARTS.test] = -1
    before = fit_heads(inputs, [target], PARTS, SHORT, seed=0)
    after = fit_heads(inputs, [Target(hidden, CLASSES)], PARTS, SHORT, seed=0)
    assert [row(before[0], member) for member in range(2)] == [row(after[0], member) for member in range(2)]


def test_the_global_generator_and_the_number_of_threads_stay_as_they_were():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    inputs, target = clouds(1)
    fit_heads(inputs, [target], PARTS, SHORT, seed=0)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_constant_column_does_no_harm():
    inputs, target = clouds(1)
    inputs[:, :, 0] = 7.3
    (answer,) = fit_heads(inputs, [target], PARTS, SHORT, seed=0)
    assert answer.valid_accuracy.isfinite().all() and answer.valid_accuracy[0] > 0.3
