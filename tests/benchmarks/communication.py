"""Bytes that each worker of a training sends in a step, against the least that an exact step could send.

    python -m tests.benchmarks.communication    python -m tests.benchmarks.communication debug 2    size, workers

Real worker processes under gloo with the real engine, Myna-Base, 16 examples a worker, ZeRO 0 to 3. What is sent is
read twice: from the kernel, which counts the payload of each of a process's sockets (TCP_INFO), and from the arguments
of every collective that torch dispatches, priced as a ring. The least is a ring all-reduce of the gradient, which is
also its reduce-scatter and one gather of the weights (Rajbhandari et al. 2020, section 7), and everybody's projections
for the negatives. The row becomes docs/scaling.md, with a projection to 8 and 64 GPUs. Three minutes, 6 GiB of memory.
"""

import json
import os
import socket
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.benchmarks.step import batch_of
from trainers.checkpoint import build_objective
from trainers.config import EngineConfig, load
from trainers.pace import flops_per_example

WORKERS, STAGES, ROWS, STEPS = (2, 4), (0, 1, 2, 3), 16, 3
PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
_BYTES_SENT = 200  # of bytes_sent and bytes_retrans in Linux's struct tcp_info, since 4.19


@dataclass(frozen=True)
class Traffic:
    """Bytes of one worker in one step."""

    sent: float
    """Payload that the kernel sent from this process's sockets, of the worker that sent most."""
    called: float
    """What the collectives' arguments mean when each is a ring."""
    loopback: float
    """All that went over the loopback device, divided by the workers: headers and other programs too."""
    least: float
    """What an exact step cannot do without."""
    collectives: Mapping[str, float]
    """How often each was called."""


def measure(size: str = "paper", workers: tuple[int, ...] = WORKERS) -> dict[str, object]:
    """MB sent by a worker in each setting, and how much of it is the least."""
    found = {(world, stage): _traffic(size, world, stage) for world in workers for stage in STAGES}
    config = load("myna:base", size=size)
    objective = build_objective(config)
    lines = [_line(world, stage, found[world, stage]) for world in reversed(workers) for stage in STAGES]
    return {
        **lines[0],
        "unit": "MB sent by a worker",
        "against": lines[1 : len(STAGES)],
        "settings": [{"workers": world, "stage": stage, **asdict(found[world, stage])} for world, stage in found],
        "model": {
            "parameters": sum(weight.numel() for weight in objective.parameters()),
            "dim": config.objective.projector_widths[-1],
            "rows": ROWS,
            "flops_per_example": flops_per_example(lambda: build_objective(config), batch_of(2), torch.device("cpu")),
        },
    }


def _line(world: int, stage: int, found: Traffic) -> dict[str, object]:
    ratio = found.least / found.sent
    return {
        "what": f"Myna-Base training step, {world} workers, ZeRO {stage}, {ROWS} examples each",
        "ours": found.sent / 1e6,
        "peer": found.least / 1e6,
        "peer_name": "ring all-reduce of the gradient, and the others' projections",
        "ratio": ratio,
        "ratio_spread": [ratio, ratio],
        "target": 0.95,
    }


def _traffic(size: str, world: int, stage: int) -> Traffic:
    """Of a group of processes of its own, which ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, args=(size, world, stage, Path(folder)), nprocs=world)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]
    parameters, dim = ranks[0]["parameters"], ranks[0]["dim"]
    return Traffic(
        sent=max(each["sent"] for each in ranks),
        called=max(each["called"] for each in ranks),
        loopback=ranks[0]["loopback"] / world,
        least=least_bytes(parameters, dim, ROWS, world),
        collectives=ranks[0]["collectives"],
    )


def least_bytes(parameters: int, dim: int, rows: int, world: int) -> float:
    """Float32 gradients reduced in a ring, and both views of everybody's `rows` projections gathered."""
    return (world - 1) * (2 * 4 * parameters / world + 2 * rows * 4 * dim)


# In a worker


def _work(rank: int, size: str, world: int, stage: int, folder: Path) -> None:
    from trainers.engine import Engine

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    config = load("myna:base", size=size)
    engine = Engine(
        build_objective(config),
        optimizer=config.optimizer,
        engine=replace(EngineConfig(), zero_stage=stage),
        learning_rate=lambda step: 1e-4,
        batch_examples=ROWS * world,
    )
    batch = batch_of(ROWS)
    engine.step(batch)  # opens sockets, allocates moments
    engine.wait()
    calls, sent, loopback = Calls(), sent_bytes(), _loopback_bytes()
    with calls:
        for _ in range(STEPS):
            engine.step(batch)
    engine.wait()
    found = {
        "sent": (sent_bytes() - sent) / STEPS,
        "loopback": (_loopback_bytes() - loopback) / STEPS,
        "called": sum(ring_bytes(name, whole, world) for name, whole in calls.seen) / STEPS,
        "collectives": {name: count / STEPS for name, count in Counter(name for name, _ in calls.seen).items()},
        "parameters": sum(weight.numel() for weight in build_objective(config).parameters()),
        "dim": config.objective.projector_widths[-1],
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    engine.wait()
    dist.destroy_process_group()


class Calls(TorchDispatchMode):
    """Sees every collective, whoever calls it: its name, and the bytes of the whole that the ranks share."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "c10d":
            # Of a gather's inputs and outputs the larger is the whole; a barrier's tensor is only a place.
            sizes = [sum(leaf.nbytes for leaf in tree_leaves(arg) if isinstance(leaf, torch.Tensor)) for arg in args]
            name = func.overloadpacket.__name__.strip("_")
            self.seen.append((name, 0 if name == "barrier" else max(sizes)))
        return func(*args, **(kwargs or {}))


def ring_bytes(name: str, whole: int, world: int) -> float:
    """What each rank sends on average: once around for what is gathered or scattered, twice to reduce for all."""
    return (2 if "allreduce" in name else 1) * whole * (world - 1) / world


def sent_bytes() -> int:
    """Payload that the TCP sockets of this process have sent since they were opened, each byte once."""
    return sum(_sent_by(one) for one in _sockets())


def _sockets() -> Iterator[socket.socket]:
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # what listed the folder is closed by now
            if str(path.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(path.name))) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                        yield one


def _sent_by(one: socket.socket) -> int:
    sent, again = struct.unpack_from("=QQ", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), _BYTES_SENT)
    return sent - again


def _loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


# The page


@dataclass(frozen=True)
class Cluster:
    """GPUs of a kind and what joins them; rates in bytes and FLOPs a second, as the data sheets have them."""

    name: str
    gpus: int
    bus: float
    """What a ring moves through each GPU: NVLink inside a machine, all its network cards together between machines."""


CLUSTERS = (
    Cluster("one machine, NVLink", 8, 450e9),
    Cluster("8 machines, 8 x 400 Gbit/s InfiniBand each", 64, 400e9),
    Cluster("8 machines, 100 Gbit/s Ethernet each", 64, 12.5e9),
)
PEAK_16, PEAK_32 = 989e12, 67e12  # H100 SXM, dense, without TF32
MFU, MFU_32, BUS_SHARE, CALL_SECONDS = 0.3, 0.7, 0.8, 5e-5
BATCHES = (4096, 16_384, 65_536)  # over all GPUs


@dataclass(frozen=True)
class Projection:
    """One GPU in one step."""

    sent: float
    compute_seconds: float
    communication_seconds: float

    @property
    def efficiency(self) -> float:
        """Share of the step in which a GPU computes, when nothing is sent meanwhile."""
        return self.compute_seconds / (self.compute_seconds + self.communication_seconds)


def projected(model: Mapping[str, float], found: Mapping[str, Any], cluster: Cluster, batch: int) -> Projection:
    """A step at ZeRO 0 and bf16, in which float32 gradients and projections travel and similarities are float32.

    It sends as much more than the least as the measured setting `found`, in as many collectives.
    """
    rows, calls = batch // cluster.gpus, sum(found["collectives"].values())
    least = least_bytes(int(model["parameters"]), int(model["dim"]), rows, cluster.gpus)
    sent = least * found["sent"] / found["least"]
    encoder = rows * model["flops_per_example"] / (MFU * PEAK_16)
    compared = similarity_flops(rows, int(model["dim"]), cluster.gpus) / (MFU_32 * PEAK_32)
    return Projection(sent, encoder + compared, sent / (BUS_SHARE * cluster.bus) + calls * CALL_SECONDS)


def similarity_flops(rows: int, dim: int, world: int) -> float:
    """Of both views of one rank's rows with everybody's, forward and backward (trainers/similarity.py).

    Logits are computed twice and multiplied once more for the gradient. Of a rank's own square of anchors half the
    logits are computed, and serve both ways.
    """
    anchors = 2 * rows
    own, others = anchors**2, anchors**2 * (world - 1)
    return 2 * dim * (2 * own + 3 * others)


def page(row: Mapping[str, Any]) -> str:
    """docs/scaling.md: what was measured, and what follows from it under the assumptions that it names."""
    model = row["model"]
    found = [each for each in row["settings"] if each["stage"] == 0][-1]
    return _PAGE.format(
        date=row["date"],
        machine=row["machine"],
        rows=model["rows"],
        parameters=model["parameters"] / 1e6,
        gradient=4 * model["parameters"] / 1e6,
        gflop=model["flops_per_example"] / 1e9,
        measured="\n".join(map(_measured_line, row["settings"])),
        projected="\n".join(_projected_line(model, found, one, batch) for one in CLUSTERS for batch in BATCHES),
        calls=sum(found["collectives"].values()),
        excess=found["sent"] / found["least"] - 1,
        mfu=MFU,
        mfu_32=MFU_32,
        bus=BUS_SHARE,
        microseconds=CALL_SECONDS * 1e6,
    )


def _measured_line(found: Mapping[str, Any]) -> str:
    names = ", ".join(f"{count:g} {name}" for name, count in sorted(found["collectives"].items()) if count >= 1)
    figures = [found[name] / 1e6 for name in ("sent", "called", "least")]
    shown = " | ".join(f"{figure:,.2f}" for figure in figures)
    return f"| {found['workers']} | {found['stage']} | {shown} | {found['least'] / found['sent']:.2f} | {names} |"


def _projected_line(model: Mapping[str, float], found: Mapping[str, Any], cluster: Cluster, batch: int) -> str:
    one = projected(model, found, cluster, batch)
    seconds = one.compute_seconds + one.communication_seconds
    return (
        f"| {cluster.gpus}: {cluster.name} | {batch:,} | {one.sent / 1e6:,.0f} | {1e3 * one.compute_seconds:.2f} "
        f"| {1e3 * one.communication_seconds:.2f} | {one.efficiency:.0%} | {batch / seconds / 1e3:,.0f} |"
    )


_PAGE = """# What a step sends, and how far it scales

Written by `python -m tests.benchmarks.run communication`, {date}, {machine}. No figure here is of a GPU.

## Measured

Myna-Base with its projector, {parameters:.1f} M parameters, whose float32 gradient is {gradient:.0f} MB; {rows}
examples a worker; worker processes under gloo with the engine that trains. MB of 10^6 bytes that a worker sends in a
step. *Sent* is what the kernel counts for the worker's sockets, of the worker that sends most. *Called* is what the
arguments of all collectives come to when each is a ring. *Least* is a ring all-reduce of the gradient, or its
reduce-scatter and one gather of the weights, and both views' projections of everybody. Where more is sent than is
called, gloo's own way to scatter a sum is an all-reduce; NCCL has a ring for it.

| workers | ZeRO | sent | called | least | least / sent | collectives in a step |
|---|---|---|---|---|---|---|
{measured}

## Projected, not measured

ZeRO 0 in bf16 on H100 SXM, one process a GPU. Gradients travel in float32, and so do the projections of both views,
with which every worker compares its own; nothing is sent while a GPU computes. Assumed:

- {gflop:.2f} GFLOP an example, counted on the CPU, at {mfu:.0%} of the 989 TFLOP/s of dense 16-bit products;
- similarities with all rows of all GPUs in float32, at {mfu_32:.0%} of 67 TFLOP/s;
- rings at {bus:.0%} of the links: NVLink 450 GB/s each way; between machines all network cards of one, which NCCL's
  rings use side by side: 8 x 400 Gbit/s, or one of 100 Gbit/s;
- {calls:g} collectives a step and {excess:.1%} more bytes than the least, as measured at the most workers; each
  collective takes {microseconds:.0f} microseconds beside its bytes.

*Efficiency* is the computing share of a step, beside a perfect division of that batch. The loss compares every pair, so
computing grows with the square of the batch.

| GPUs | batch | MB sent by one | computing, ms | communicating, ms | efficiency | thousand examples/s |
|---|---|---|---|---|---|---|
{projected}
"""


if __name__ == "__main__":
    words = sys.argv[1:]
    print(json.dumps(measure(*words[:1], **({"workers": tuple(map(int, words[1:]))} if words[1:] else {})), indent=1))
