"""Training steps of Myna-Base against vit-pytorch's SimpleViT changed as Myna's public code changes it.

    python -m tests.benchmarks.step

The peer embeds all 48 patches of each view, then drops 43 of them by a random permutation drawn for each row, runs
once for each view, and steps with torch's default Adam. Ours gathers 5 patches first, runs once for both views, and
steps with fused Adam. Same weights, same 30.6 M parameters, fp32, one thread; each measures in processes of its own,
which take turns. The last row is a batch in chunks against our own largest whole one. About ten minutes.
"""

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from types import ModuleType

import torch
from torch import Tensor, nn

from shards.example import Batch
from trainers.linear import Linear
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig, info_nce
from trainers.similarity import compare, reduced

ROUNDS = {64: 5, 256: 3, 1024: 1}
STEPS = {64: 4, 256: 2, 1024: 1}
LARGEST, CHUNKED, CHUNK_EXAMPLES = 1024, 4096, 256
MASK_RATIO = 0.9


class PublicMyna(nn.Module):
    """SimpleViT whose tokens are masked after they have been embedded."""

    def __init__(self) -> None:
        super().__init__()
        shape = {"image_size": (128, 96), "patch_size": 16, "channels": 1, "num_classes": 1}
        self.vit = _simple_vit().SimpleViT(**shape, dim=384, depth=12, heads=6, mlp_dim=1536)
        layers = [(384, 2048), (2048, 2048), (2048, 2048)]
        self.vit.linear_head = nn.Sequential(*(part for widths in layers for part in (nn.Linear(*widths), nn.ReLU())))[
            :-1
        ]

    def forward(self, mel: Tensor) -> Tensor:
        tokens = self.vit.to_patch_embedding(mel[:, None])
        tokens = tokens + self.vit.pos_embedding
        hidden = int(MASK_RATIO * tokens.shape[1])
        keep = torch.stack([torch.randperm(tokens.shape[1])[hidden:] for _ in tokens])
        kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
        return self.vit.linear_head(self.vit.transformer(kept).mean(dim=1))


def measure() -> dict[str, object]:
    """CPU time of a step, highest memory of a process, and the least time that its products alone could take."""
    rows = [_against_peer(examples) for examples in ROUNDS]
    chunked = _in_a_process("chunked", CHUNKED)
    ours, theirs = chunked["seconds"] / CHUNKED, rows[-1]["ours"] / LARGEST
    by_chunks = {
        "what": f"{_what(CHUNKED)} in chunks of {CHUNK_EXAMPLES}, a pair",
        "ours": ours,
        "peer": theirs,
        "peer_name": f"our batch of {LARGEST} at once",
        "ratio": theirs / ours,
        "ratio_spread": [theirs / ours, theirs / ours],
        "target": 0.71,
        "gib": {"ours": chunked["gib"], "peer": rows[-1]["gib"]["ours"]},
    }
    return {**rows[0], "unit": "s CPU time", "against": [*rows[1:], by_chunks]}


def _against_peer(examples: int) -> dict[str, object]:
    rounds = [(_in_a_process("ours", examples), _in_a_process("peer", examples)) for _ in range(ROUNDS[examples])]
    ratios = [peer["seconds"] / ours["seconds"] for ours, peer in rounds]
    ours, peer = (statistics.median(found[side]["seconds"] for found in rounds) for side in (0, 1))
    return {
        "what": _what(examples),
        "ours": ours,
        "peer": peer,
        "peer_name": f"vit-pytorch {distribution('vit-pytorch').version}, all patches embedded, a pass for each view",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 1.25,
        # No step can be shorter than its products.
        "ratio_if_only_products": peer / min(found["products"] for found, _ in rounds),
        "gib": {"ours": rounds[0][0]["gib"], "peer": rounds[0][1]["gib"]},
    }


def _what(examples: int) -> str:
    return f"Myna-Base training step, fp32, {examples} pairs, 1 thread"


def _in_a_process(variant: str, examples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.step", variant, str(examples)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def _alone(variant: str, examples: int) -> dict[str, float]:
    """What one process finds for one variant. The first step, which fills caches, counts where it is the only one."""
    torch.set_num_threads(1)
    step = (
        _peer_step(examples)
        if variant == "peer"
        else _our_step(examples, chunk=CHUNK_EXAMPLES * (variant == "chunked"))
    )
    counted = STEPS.get(examples, 0)
    first = _seconds(step)
    seconds = statistics.median(_seconds(step) for _ in range(counted)) if counted else first
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "gib": gib, "products": _products(examples)}


def _our_step(examples: int, chunk: int = 0) -> Callable[[], None]:
    objective = ContrastiveConfig(mask_ratio=MASK_RATIO, chunk_examples=chunk).build(MynaConfig().build())
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-4, weight_decay=1e-5, fused=True)
    batch = _batch(examples)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(batch)[0].backward()
        optimizer.step()

    return step


def _peer_step(examples: int) -> Callable[[], None]:
    model = PublicMyna()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5)
    batch = _batch(examples)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        pairs = torch.stack([model(view) for view in batch.views])
        similar = compare(pairs, batch.weight, temperature=0.1, block_rows=1024)
        reduced(similar, info_nce(similar))[0].backward()
        optimizer.step()

    return step


def _batch(examples: int) -> Batch:
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
