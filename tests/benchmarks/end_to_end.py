"""From files of music to trained steps: our shards, loader and engine, against decoding while the training waits.

    python -m tests.benchmarks.end_to_end       python -m tests.benchmarks.end_to_end 8 4 2 1 1   see `measure`

Myna-Base in batches of 64 on all cores, from the same clips of ten seconds of 44.1 kHz stereo, a third each FLAC, MP3
and Ogg Vorbis. The peers are Myna's public construction and loop, fed by a DataLoader with its default of four workers,
shuffled: its example's way from file to mel, whole files decoded and resampled by torchcodec (what torchaudio.load
calls) or by librosa, then nnAudio; and the pickled mels that its training script reads, made beforehand. All take the
same number of steps, each in a process of its own, in turns; time is from the first request for data to the last step.
Building our shards is a one-off, timed by itself with the real command. About ten minutes.
"""

import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from shards.example import Batch
from shards.loader import Loader
from shards.reader import Reader
from shards.views import Views
from tests.benchmarks.build import SECONDS, nnaudio_mel, write_clip
from tests.benchmarks.step import PublicMyna, batch_of, in_a_process, public_step
from trainers.models.myna import MynaConfig
from trainers.objectives.contrastive import ContrastiveConfig

CLIPS, BATCH, STEPS, ROUNDS, DEPTH = 128, 64, 12, 3, 12
RATE_HZ, FRAMES, WORKERS = 16_000, 96, 4
EPOCHS = (1, 10, 100)  # over which the one-off is spread
_OURS, _TORCHCODEC, _LIBROSA, _PICKLED = "ours", "torchcodec", "librosa", "pickled"
_PEERS = {
    _TORCHCODEC: (4, lambda: f"torchcodec {version('torchcodec')} + nnAudio {version('nnaudio')} in a DataLoader"),
    _LIBROSA: (4, lambda: f"librosa {version('librosa')} + nnAudio {version('nnaudio')} in a DataLoader"),
    _PICKLED: (1, lambda: "mels pickled beforehand, in a DataLoader"),
}


def measure(
    clips: int = CLIPS, batch: int = BATCH, steps: int = STEPS, rounds: int = ROUNDS, depth: int = DEPTH
) -> dict[str, object]:
    """Examples a second of `steps` steps in `rounds` rounds; `depth` is that of the model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "music").mkdir()
        for number in range(clips):
            write_clip(folder / "music", number)
        built = _seconds(lambda: build(folder, clips))
        pickled = in_a_process("end_to_end", "pickle", folder)["seconds"]
        variants = deque([_OURS, *_PEERS])
        turns = []
        for _ in range(rounds):
            turns.append({each: in_a_process("end_to_end", each, folder, batch, steps, depth) for each in variants})
            variants.rotate(-1)
    first, *others = (_line(peer, turns) for peer in _PEERS)
    cores = len(os.sched_getaffinity(0))
    return {
        "what": f"Myna-Base from files: {clips} clips of {SECONDS} s, {steps} steps of {batch} pairs, {cores} cores",
        "unit": "examples/s",
        **first,
        "against": others,
        "step_share": {each: _median(turns, each, "step_share") for each in (_OURS, *_PEERS)},
        "one_off_seconds": {"our build": built, "pickling": pickled},
        **_amortised(clips, built, {each: _median(turns, each, "rate") for each in (_OURS, *_PEERS)}),
    }


def _line(peer: str, turns: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    ratios = [turn[_OURS]["rate"] / turn[peer]["rate"] for turn in turns]
    target, peer_name = _PEERS[peer]
    return {
        "ours": _median(turns, _OURS, "rate"),
        "peer": _median(turns, peer, "rate"),
        "peer_name": f"{peer_name()}, {WORKERS} workers; vit-pytorch's SimpleViT, Adam",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": target,
    }


def _median(turns: list[dict[str, dict[str, float]]], variant: str, name: str) -> float:
    return statistics.median(turn[variant][name] for turn in turns)


def _amortised(clips: int, built: float, rates: dict[str, float]) -> dict[str, object]:
    """The ratio to the faster of those that decode when the build counts too, and the epochs after which it paid."""
    theirs = max(rates[_TORCHCODEC], rates[_LIBROSA])
    saved = clips / theirs - clips / rates[_OURS]
    ours = {epochs: epochs * clips / (built + epochs * clips / rates[_OURS]) for epochs in EPOCHS}
    return {
        "ratio_with_the_build": {str(epochs): rate / theirs for epochs, rate in ours.items()},
        "build_pays_after_epochs": built / saved if saved > 0 else None,
    }


def build(folder: Path, clips: int) -> None:
    """`folder`/dataset/train from all of `folder`/music, by the command that anyone would run."""
    words = ["build", "folder", "--root", folder / "music", "--out", folder / "dataset", "--features", "mel"]
    words += ["--valid-share", 0, "--test-share", 0, "--shard-examples", -(-clips // len(os.sched_getaffinity(0)))]
    subprocess.run([sys.executable, "-m", "sonograph", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


# In a process of its own


def _alone(variant: str, folder: Path, batch: int, steps: int, depth: int) -> dict[str, float]:
    """Examples a second of one variant, the share of the time that its steps took."""
    step = _our_step(batch, depth) if variant == _OURS else _public_step(depth)
    step(batch_of(batch))
    next(iter(_batches(variant, folder, batch, 1))) if variant == _OURS else _source(variant, folder)[0]
    # What is imported, allocated and compiled once is there by now, in workers too.
    begin, busy, done = time.perf_counter(), 0.0, 0
    for each in _batches(variant, folder, batch, steps):
        busy += _seconds(lambda each=each: step(each))
        done += 1
    taken = time.perf_counter() - begin
    assert done == steps, f"{done} steps of {steps}"
    return {"rate": steps * batch / taken, "step_share": busy / taken}


def _our_step(batch: int, depth: int) -> Callable[[Batch], object]:
    from trainers.config import load
    from trainers.engine import Engine

    config = load("myna:base", size="paper")
    return Engine(
        ContrastiveConfig().build(MynaConfig(depth=depth).build()),
        optimizer=config.optimizer,
        engine=config.engine,
        learning_rate=lambda step: 3e-4,
        batch_examples=batch,
    ).step


def _public_step(depth: int) -> Callable[[Batch], object]:
    model = PublicMyna(depth)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, weight_decay=1e-5)
    return lambda batch: public_step(model, optimizer, batch)


def _batches(variant: str, folder: Path, batch: int, steps: int) -> Iterable[Batch]:
    if variant == _OURS:
        reader, views = Reader(folder / "dataset" / "train"), Views(count=2, frames=FRAMES)
        return Loader(reader, batch_examples=batch, seed=0, views=views).from_step(0, steps)
    return _public_batches(_source(variant, folder), batch, steps)


def _public_batches(source: "Dataset[Any]", batch: int, steps: int) -> Iterator[Batch]:
    # One long epoch: with as few clips as these, starting workers for each would cost more than in a real corpus.
    order = RandomSampler(source, replacement=True, num_samples=steps * batch)  # type: ignore[arg-type]
    for index, views in DataLoader(source, batch, sampler=order, num_workers=WORKERS, drop_last=True):
        yield Batch(index, torch.ones(len(index)), tuple(views), torch.zeros(len(index), 2, dtype=torch.int64))


def _source(variant: str, folder: Path) -> "Dataset[Any]":
    if variant == _PICKLED:
        return Crops(sorted((folder / "pickled").iterdir()), _unpickled)
    return Crops(_music(folder), _decoded_mel if variant == _TORCHCODEC else _librosa_mel)


def _music(folder: Path) -> list[Path]:
    return sorted((folder / "music").iterdir())


class Crops(Dataset[tuple[int, list[torch.Tensor]]]):
    """Two random crops of the mel of each file."""

    def __init__(self, paths: list[Path], mel: Callable[[Path], torch.Tensor]) -> None:
        self._paths, self._mel = paths, mel

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[int, list[torch.Tensor]]:
        mel = self._mel(self._paths[number])
        starts = [random.randint(0, mel.shape[-1] - FRAMES) for _ in range(2)]
        return number, [mel[:, start : start + FRAMES] for start in starts]


def _decoded_mel(path: Path) -> torch.Tensor:
    from torchcodec.decoders import AudioDecoder

    return _nnaudio(AudioDecoder(path, sample_rate=RATE_HZ, num_channels=1).get_all_samples().data)


def _librosa_mel(path: Path) -> torch.Tensor:
    import librosa

    return _nnaudio(torch.from_numpy(librosa.load(path, sr=RATE_HZ, mono=True)[0])[None])


def _nnaudio(waveform: torch.Tensor) -> torch.Tensor:
    return nnaudio_mel()(waveform)[0]  # its basis is made once a worker; the public example makes it for every file


def _unpickled(path: Path) -> torch.Tensor:
    with path.open("rb") as file:
        return torch.from_numpy(pickle.load(file))


def _pickle_all(folder: Path) -> dict[str, float]:
    """Seconds in which all cores write the mel of each clip to a file of its own."""
    (folder / "pickled").mkdir()

    def write_all() -> None:
        for number, mel in DataLoader(WholeMels(_music(folder)), None, num_workers=len(os.sched_getaffinity(0))):
            (folder / "pickled" / f"{number:06d}.pkl").write_bytes(pickle.dumps(np.asarray(mel)))

    return {"seconds": _seconds(write_all)}


class WholeMels(Dataset[tuple[int, torch.Tensor]]):
    """The mel of each file, whole."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, _decoded_mel(self._paths[number])


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[1:2] == ["pickle"]:
        print(json.dumps(_pickle_all(Path(sys.argv[2]))))
    elif sys.argv[1:2] and sys.argv[1] in (_OURS, *_PEERS):
        print(json.dumps(_alone(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))))
    else:
        print(json.dumps(measure(*map(int, sys.argv[1:])), indent=1))
