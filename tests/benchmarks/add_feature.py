"""What a worker of add-feature does for codec latents, against the codec network alone: decoding, writing, digests.

    python -m tests.benchmarks.add_feature      python -m tests.benchmarks.add_feature 2 1     clips, rounds

EnCodec in its published size, 24 kHz, with weights that nobody trained, so that nothing has to be fetched. A dataset of
mels of ten-second clips (44.1 kHz stereo, FLAC, MP3 and Ogg) gets a column of its latents: the sources are decoded
again and resampled, the shard is written with all its digests and statistics. CPU seconds, one thread; those within the
network are taken in the same run, so that both meet the same machine.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.example_maker import Recipe
from pipelines.plan import ShardTask, Work, shard_tasks, spans
from pipelines.recording import Recording
from pipelines.task import build_shard
from shards.feature import load_feature
from shards.features.codec import Latents
from shards.features.mel import MYNA
from tests.benchmarks.build import SECONDS, write_clip
from tests.tiny_codecs import write

CLIPS, ROUNDS = 6, 5


@dataclass
class Timed:
    """A codec that counts the CPU seconds of its network."""

    codec: Any
    cpu_seconds: list[float] = field(default_factory=list)

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        begin = time.thread_time()
        latents = self.codec.encode(waveform)
        self.cpu_seconds.append(time.thread_time() - begin)
        return latents

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)


def measure(clips: int = CLIPS, rounds: int = ROUNDS) -> dict[str, object]:
    """Clips per CPU second of the whole and of the network within it, and the share of the network in each round."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        feature, timed = _codec(folder / "weights")
        (task,) = shard_tasks(_spans(folder, clips), shard_examples=clips, contracts={})
        recipe = Recipe(root=folder, labels={}, events={}, features=(MYNA, feature))
        build_shard(Work(folder / "dataset", task, ("mel",)), recipe=recipe)
        added = [_added(folder / "dataset", task, recipe, feature.column, timed) for _ in range(rounds + 1)][1:]
    shares = [network / whole for whole, network in added]
    return {
        "what": f"add a column of EnCodec latents to {clips} clips of {SECONDS} s",
        "unit": "clips per CPU second",
        "ours": statistics.median(clips / whole for whole, _ in added),
        "peer": statistics.median(clips / network for _, network in added),
        "peer_name": "the codec network alone (24 kHz, 24 kbit/s, random weights), in the same run",
        "ratio": statistics.median(shares),
        "ratio_spread": [min(shares), max(shares)],
        "target": 0.95,
        "outside_milliseconds_per_clip": statistics.median(
            1000 * (whole - network) / clips for whole, network in added
        ),
    }


def _added(dataset: Path, task: ShardTask, recipe: Recipe, column: str, timed: Timed) -> tuple[float, float]:
    """CPU seconds of one shard's column, and of the network within."""
    timed.cpu_seconds.clear()
    begin = time.thread_time()
    record = build_shard(Work(dataset, task, (column,), has_index=True), recipe=recipe)
    whole = time.thread_time() - begin
    assert record.examples == len(task.spans), record.rejected
    return whole, sum(timed.cpu_seconds)


def _codec(folder: Path) -> tuple[Latents, Timed]:
    from transformers import EncodecConfig, EncodecModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig())
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.3)  # untrained ones are zero, which no codec opens
    feature = load_feature(f"codec:encodec_24khz@{write(model, folder)}")
    assert isinstance(feature, Latents)
    timed = Timed(feature.opened())
    return replace(feature, opener=lambda device: timed), timed


def _spans(folder: Path, clips: int) -> Any:
    names = [write_clip(folder, number) for number in range(clips)]
    return spans([Recording(Path(name).stem, name, "train", {}, float(SECONDS)) for name in names])


if __name__ == "__main__":
    for name, value in measure(*map(int, sys.argv[1:])).items():
        print(f"{name:16}{value}")
