"""One training step of Myna-Base against vit-pytorch's SimpleViT changed as Myna's public code changes it.

    python -m tests.benchmarks.step

The peer embeds all 48 patches of each view, then drops 43 of them by a random permutation drawn for each row, runs
once for each view, and steps with torch's default Adam. Ours gathers 5 patches first, runs once for both views, and
steps with fused Adam. Same weights, same 30.6 M parameters, fp32, 64 pairs, one thread; rounds alternate.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from importlib.metadata import distribution
from types import ModuleType

import torch
from torch import Tensor, nn

from shards.example import Batch
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig, info_nce, projector

EXAMPLES = 64
ROUNDS = 5
MASK_RATIO = 0.9


class PublicMyna(nn.Module):
    """SimpleViT whose tokens are masked after they have been embedded."""

    def __init__(self) -> None:
        super().__init__()
        shape = {
            "image_size": (128, 96),
            "patch_size": 16,
            "channels": 1,
            "num_classes": 1,
        }
        self.vit = _simple_vit().SimpleViT(**shape, dim=384, depth=12, heads=6, mlp_dim=1536)
        self.vit.linear_head = projector(384, 2048, 2048, 2048)

    def forward(self, mel: Tensor) -> Tensor:
        tokens = self.vit.to_patch_embedding(mel[:, None])
        tokens = tokens + self.vit.pos_embedding
        hidden = int(MASK_RATIO * tokens.shape[1])
        keep = torch.stack([torch.randperm(tokens.shape[1])[hidden:] for _ in tokens])
        kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
        return self.vit.linear_head(self.vit.transformer(kept).mean(dim=1))


def measure() -> dict[str, object]:
    """Seconds a step of both, their ratio in each of five alternating rounds, and how much of it is the optimiser's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, fused, peer = _our_step(fused=False), _our_step(fused=True), _peer_step()
        for step in (ours, fused, peer):
            step()
        rounds = [(_seconds(fused), _seconds(ours), _seconds(peer)) for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    ratios = [peer / fused for fused, _, peer in rounds]
    return {
        "what": "Myna-Base training step, fp32, 64 pairs, 1 thread",
        "unit": "s CPU time",
        "ours": statistics.median(fused for fused, _, _ in rounds),
        "peer": statistics.median(peer for _, _, peer in rounds),
        "peer_name": f"vit-pytorch {distribution('vit-pytorch').version}, all patches embedded, a pass for each view",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "ratio_same_optimiser": statistics.median(peer / ours for _, ours, peer in rounds),
        "target": 1.25,
    }


def _our_step(*, fused: bool) -> Callable[[], None]:
    objective = ContrastiveConfig(mask_ratio=MASK_RATIO).build(MynaConfig().build())
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-4, weight_decay=1e-5, fused=fused)
    batch = _batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(batch)[0].backward()
        optimizer.step()

    return step


def _peer_step() -> Callable[[], None]:
    model = PublicMyna()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5)
    batch = _batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        first, second = (model(view) for view in batch.views)
        info_nce(first, second, batch.weight, temperature=0.1)[0].backward()
        optimizer.step()

    return step


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.empty(EXAMPLES, 128, 96).exponential_(1.0, generator=generator) for _ in range(2))
    seeds = torch.randint(-(2**62), 2**62, (EXAMPLES, 2), generator=generator)
    return Batch(torch.arange(EXAMPLES), torch.ones(EXAMPLES), views, seeds)


def _seconds(step: Callable[[], None]) -> float:
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
    for name, value in measure().items():
        print(f"{name:24}{value}")
