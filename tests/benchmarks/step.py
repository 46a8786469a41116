"""Training steps of Myna-Base against vit-pytorch's SimpleViT changed as Myna's public code changes it.

    python -m tests.benchmarks.step             python -m tests.benchmarks.step compiled 64    one variant, once

The peer embeds all 48 patches of each view, then drops 43 of them by a random permutation drawn for each row, runs
once for each view, and steps with torch's default Adam. Ours gathers 5 patches first, runs once for both views, and
steps with fused Adam. Same weights, same 30.6 M parameters, fp32, one thread; each measures in processes of its own,
which take turns. Batches of 64 to 4096; the rounds are few where a step takes a minute. The last rows are batches in
chunks against our own at once. What would not fit in memory is not run: its time is that of the next smaller batch in
proportion, and its row says so. About ten minutes, and 17 GiB of memory for the whole peer at 4096.

Variants of ours: `ours`, `chunked`, `compiled` (torch.compile, first step not counted), `mkl` (torch's own products).
"""

import importlib.util
import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

import trainers.linear
from shards.example import Batch
from trainers.linear import Linear
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig, info_nce
from trainers.similarity import compare, reduced

ROUNDS = {64: 5, 256: 3, 1024: 1, 4096: 1}
STEPS = {64: 4, 256: 2, 1024: 1}
"""Counted after a first one of that size; of other batches the first is the only one."""
CHUNK_EXAMPLES = 128
CHUNKED = (1024, 4096)
MASK_RATIO = 0.9
MULTIPLIED = 1024  # the largest batch whose products are taken alone; those of larger ones are in proportion
SPARE = 0.9  # of the memory that is free, what a process may plan to use
Counts = Mapping[int, int]
Step = Callable[[Batch], None]


class PublicMyna(nn.Module):
    """SimpleViT whose tokens are masked after they have been embedded."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        shape = {"image_size": (128, 96), "patch_size": 16, "channels": 1, "num_classes": 1}
        self.vit = _simple_vit().SimpleViT(**shape, dim=384, depth=depth, heads=6, mlp_dim=1536)
        layers = [(384, 2048), (2048, 2048), (2048, 2048)]
        self.vit.linear_head = nn.Sequential(*(part for widths in layers for part in (nn.Linear(*widths), nn.ReLU())))[
            :-1
        ]

    def forward(self, mel: Tensor) -> Tensor:
        tokens = self.vit.to_patch_embedding(mel[:, None])
        tokens = tokens + self.vit.pos_embedding.to(mel.device)
        hidden = int(MASK_RATIO * tokens.shape[1])
        keep = torch.stack([torch.randperm(tokens.shape[1])[hidden:] for _ in tokens]).to(mel.device)
        kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
        return self.vit.linear_head(self.vit.transformer(kept).mean(dim=1))


@dataclass(frozen=True)
class Spent:
    """CPU seconds of a step and the highest memory of its process."""

    seconds: float
    gib: float
    of_examples: int
    """The batch that was run: a smaller one where the batch itself would not fit."""


Found = dict[str, list[Spent]]
"""Of one batch: what each variant took, round by round."""


def measure(rounds: Counts = ROUNDS, chunked: tuple[int, ...] = CHUNKED) -> dict[str, object]:
    """CPU time of a step, highest memory of a process, and the least time that its products alone could take."""
    found: dict[int, Found] = {}
    for examples, count in rounds.items():
        names = ("ours", "peer", *["chunked"] * (examples in chunked))
        turns = [{name: _spent(name, examples, found) for name in names} for _ in range(count)]
        found[examples] = {name: [turn[name] for turn in turns] for name in names}
    lines = [_against_peer(examples, found[examples]) for examples in rounds]
    lines += [_in_chunks(examples, found[examples]) for examples in chunked]
    return {**lines[0], "unit": "s CPU time", "against": lines[1:]}


def _spent(variant: str, examples: int, found: Mapping[int, Found]) -> Spent:
    """Of a process of its own; in proportion to the largest batch so far where this one would not fit in memory."""
    known = [(size, _median(of[variant])) for size, of in sorted(found.items()) if variant in of]
    if len(known) >= 2:
        (few, less), (many, more) = known[-2:]
        gib = more.gib + (more.gib - less.gib) * (examples - many) / (many - few)
        if gib > SPARE * free_gib():
            return Spent(more.seconds * examples / many, gib, more.of_examples)
    ran = in_a_process("step", variant, examples)
    return Spent(ran["seconds"], ran["gib"], examples)


def _median(spent: list[Spent]) -> Spent:
    return sorted(spent, key=lambda each: each.seconds)[len(spent) // 2]


def _against_peer(examples: int, found: Found) -> dict[str, object]:
    name = f"vit-pytorch {distribution('vit-pytorch').version}, all patches embedded, a pass for each view"
    counted = min(examples, MULTIPLIED)
    products = in_a_process("step", "products", counted)["seconds"] * examples / counted
    return {
        **_compared(examples, found["ours"], found["peer"], name),
        "what": _what(examples) + _estimated(_median(found["ours"]), examples),
        "target": 1.25,
        # No step can be shorter than its products.
        "ratio_if_only_products": _median(found["peer"]).seconds / products,
    }


def _in_chunks(examples: int, found: Found) -> dict[str, object]:
    """A batch in chunks against the same at once: time, and memory of both."""
    return {
        **_compared(examples, found["chunked"], found["ours"], f"our batch of {examples:,} at once"),
        "what": f"{_what(examples)} in chunks of {CHUNK_EXAMPLES}",
        "target": 0.71,
    }


def _compared(examples: int, ours: list[Spent], peer: list[Spent], peer_name: str) -> dict[str, object]:
    ratios = [theirs.seconds / mine.seconds for mine, theirs in zip(ours, peer, strict=True)]
    mine, theirs = _median(ours), _median(peer)
    return {
        "ours": mine.seconds,
        "peer": theirs.seconds,
        "peer_name": peer_name + _estimated(theirs, examples),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "gib": {"ours": mine.gib, "peer": theirs.gib},
    }


def _estimated(spent: Spent, examples: int) -> str:
    """What a row says of a figure that was not measured."""
    return "" if spent.of_examples == examples else f" (in proportion to {spent.of_examples:,}: the batch does not fit)"


def _what(examples: int) -> str:
    return f"Myna-Base training step, fp32, {examples:,} pairs, 1 thread"


def in_a_process(benchmark: str, *words: object) -> dict[str, float]:
    """What a benchmark of this folder prints, as JSON in its last line, when it is run with these words."""
    command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", *map(str, words)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def peak_gib() -> float:
    """The most memory that this process has had resident; ru_maxrss would begin with that of who started it."""
    return _kib("/proc/self/status", "VmHWM") / 2**20


def free_gib() -> float:
    """Memory that can be had without swapping."""
    return _kib("/proc/meminfo", "MemAvailable") / 2**20


def _kib(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.M)
    assert found is not None, f"{path} has no {name}"
    return int(found[1])


def _alone(variant: str, examples: int) -> dict[str, float]:
    """What one process finds for one variant, after a step of two examples, which makes the optimiser's moments."""
    torch.set_num_threads(1)
    if variant == "products":
        return {"seconds": _products(examples)}
    step, batch = VARIANTS[variant](), batch_of(examples)
    step(batch_of(2))
    first = _seconds(lambda: step(batch))
    counted = STEPS.get(examples, int(variant == "compiled"))
    seconds = statistics.median(_seconds(lambda: step(batch)) for _ in range(counted)) if counted else first
    return {"seconds": seconds, "first": first, "gib": peak_gib()}


def _our_step(*, chunk: int = 0, is_compiled: bool = False) -> Step:
    objective = ContrastiveConfig(mask_ratio=MASK_RATIO, chunk_examples=chunk).build(MynaConfig().build())
    if is_compiled:
        objective.model.compile()
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-4, weight_decay=1e-5, fused=True)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(batch)[0].backward()
        optimizer.step()

    return step


def _step_by_mkl() -> Step:
    trainers.linear._POINTWISE = None
    return _our_step()


def _peer_step() -> Step:
    model = PublicMyna()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5)
    return lambda batch: public_step(model, optimizer, batch)


def public_step(model: PublicMyna, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """A pass for each view, the loss of ours, plain backward."""
    optimizer.zero_grad(set_to_none=True)
    pairs = torch.stack([model(view) for view in batch.views])
    similar = compare(pairs, batch.weight, temperature=0.1, block_rows=1024)
    reduced(similar, info_nce(similar))[0].backward()
    optimizer.step()


def batch_of(examples: int) -> Batch:
    """Two views of noise as loud as music's mels."""
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.empty(examples, 128, 96).exponential_(1.0, generator=generator) for _ in range(2))
    seeds = torch.randint(-(2**62), 2**62, (examples, 2), generator=generator)
    return Batch(torch.arange(examples), torch.ones(examples), views, seeds)


def _products(examples: int) -> float:
    """Seconds of the matrix products of a step alone, each shape as fast as either library ever was in ten tries."""
    objective = ContrastiveConfig(mask_ratio=MASK_RATIO).build(MynaConfig().build())
    head = set(objective.linear_head)
    layers = [layer for layer in objective.modules() if isinstance(layer, nn.Linear)]
    rows = {layer: 2 * examples * (1 if layer in head else 5) for layer in layers}
    shapes = Counter((rows[layer], layer.in_features, layer.out_features) for layer in layers)
    return sum(count * _three_products(*shape) for shape, count in shapes.items())


def _three_products(rows: int, inputs: int, outputs: int) -> float:
    """Forward, gradient of the input, gradient of the weight."""
    shapes = (rows, inputs, outputs), (rows, outputs, inputs), (outputs, rows, inputs)
    return sum(_product(*shape) for shape in shapes)


@torch.no_grad()
def _product(rows: int, inner: int, columns: int) -> float:
    given, libraries = torch.randn(rows, inner), (kind(inner, columns, bias=False) for kind in (Linear, nn.Linear))
    return min(_seconds(partial(library, given)) for library in libraries for _ in range(5))


def _seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


VARIANTS: dict[str, Callable[[], Step]] = {
    "ours": _our_step,
    "peer": _peer_step,
    "chunked": partial(_our_step, chunk=CHUNK_EXAMPLES),
    "compiled": partial(_our_step, is_compiled=True),
    "mkl": _step_by_mkl,
}


def _simple_vit() -> ModuleType:
    # The package itself would import torchvision, which has no build for every torch: load the one file.
    path = distribution("vit-pytorch").locate_file("vit_pytorch/simple_vit.py")
    spec = importlib.util.spec_from_file_location("simple_vit", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_alone(sys.argv[1], int(sys.argv[2]))))
    else:
        print(json.dumps(measure(), indent=1))
