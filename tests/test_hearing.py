"""Views that begin as sound: the mel of the changed sound reaches the objective, whatever batch it is in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from shards.example import Batch, Clip
from shards.features.mel import MYNA
from shards.problem import UsageProblem
from trainers.augmentation import augmented
from trainers.hearing import chain_of, hear, mix, samples_of

FRAMES = 96


class Ear(nn.Module):
    """An objective that returns what it was given."""

    def forward(self, batch: Batch) -> Batch:
        return batch


def batch_of(rows: int, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = tuple(0.1 * torch.randn(rows, 1, samples_of(FRAMES), generator=generator) for _ in range(2))
    seeds = torch.randint(2**62, (rows, 2), generator=generator)
    return Batch(torch.arange(rows), torch.ones(rows), views, seeds)


@pytest.fixture
def ear() -> Ear:
    made = Ear()
    hear(made, MYNA, sound="clmr", frames=FRAMES)
    return made


def test_views_are_mels_of_the_changed_sound(ear):
    batch = batch_of(3)
    heard = ear(batch)
    changed = augmented(batch.views[1][:, 0], batch.seeds[:, 1], chain_of("clmr"))
    for row, view in enumerate(heard.views[1]):
        stored = MYNA([Clip(changed[row : row + 1].numpy(), 16_000)])[0]
        expected = MYNA.restore(torch.from_numpy(np.ascontiguousarray(stored)))[:, :FRAMES]
        assert view.shape == (128, FRAMES)
        torch.testing.assert_close(view, expected, rtol=2e-3, atol=1e-4)


def test_what_is_heard_of_an_example_does_not_depend_on_its_batch(ear):
    batch = batch_of(4)
    alone = replace(
        batch,
        index=batch.index[2:3],
        weight=batch.weight[2:3],
        views=tuple(view[2:3] for view in batch.views),
        seeds=batch.seeds[2:3],
    )
    torch.testing.assert_close(ear(alone).views[0][0], ear(batch).views[0][2])


def test_a_crop_fills_its_frames_as_in_the_public_code():
    assert samples_of(96) == 50_000
    assert all(MYNA.frames(samples_of(frames)) >= frames for frames in (63, 96, 98))


def test_mixed_views_keep_padding_out():
    ear = Ear()
    mix(ear)
    batch = batch_of(3)
    padded = replace(batch, weight=torch.tensor([1.0, 1.0, 0.0]))
    heard = ear(padded).views[0]
    assert not torch.equal(heard[:2], batch.views[0][:2])
    assert torch.equal(heard[2], batch.views[0][2])
    spoiled = replace(padded, views=tuple(torch.cat([view[:2], view[2:] * torch.nan]) for view in batch.views))
    assert torch.equal(ear(spoiled).views[0][:2], heard[:2])


@pytest.mark.parametrize("sound", ["clrm", "clmr:2", "transpose", "transpose:0", "transpose:13", "transpose:x"])
def test_an_unknown_change_of_the_sound_is_refused(sound):
    with pytest.raises(UsageProblem, match="names no change of the sound"):
        chain_of(sound)
