"""Gathering over ranks: real processes, real gloo."""

from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing

from trainers.global_batch import gather, rank, total, world_size


def test_without_a_process_group_everything_is_the_identity():
    rows = torch.arange(6.0).reshape(3, 2)
    assert (world_size(), rank()) == (1, 0)
    assert torch.equal(gather(rows), rows)
    assert torch.equal(total(rows), rows)


def test_rows_of_all_ranks_come_in_rank_order_and_gradients_return_to_their_rank(tmp_path):
    multiprocessing.spawn(_gather_and_check, args=(3, tmp_path), nprocs=3)
    assert len(list(tmp_path.glob("checked-*"))) == 3


def _gather_and_check(own_rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=own_rank,
        world_size=world,
    )
    rows = torch.full((2, 3), float(own_rank), requires_grad=True)
    gathered = gather(rows)
    assert torch.equal(gathered, torch.arange(float(world)).repeat_interleave(2)[:, None].expand(-1, 3))
    # Rank r weighs global row i by (r + 1) * i, so every rank's loss contributes to every gradient.
    weight = torch.arange(2.0 * world)[:, None]
    ((own_rank + 1) * weight * gathered).sum().backward()
    assert torch.equal(
        rows.grad,
        sum(range(1, world + 1)) * weight[2 * own_rank : 2 * own_rank + 2].expand(-1, 3),
    )
    assert total(torch.tensor([1.0, own_rank])).tolist() == [world, sum(range(world))]
    dist.destroy_process_group()
    (folder / f"checked-{own_rank}").touch()
