"""Shards with mels from 44.1 kHz stereo music, against the line most people write first.

    python -m tests.benchmarks.build

The peer starts an ffmpeg child for each file, computes the mel with nnAudio and writes with webdataset's ShardWriter.
Ours is the build's own task: decode in process, down-mix, soxr, mel, a whole shard with index and digests. 40 clips of
ten seconds, half FLAC, half MP3; CPU seconds of the process and its children, one thread, alternating rounds.
"""

import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import torch
import webdataset

from pipelines.plan import ShardTask, Work, shard_tasks, spans
from pipelines.recording import Recording
from pipelines.task import Recipe, build_shard
from shards.features.mel import MYNA

CLIPS, SECONDS, RATE_HZ, ROUNDS = 40, 10, 44_100, 5


def measure() -> dict[str, object]:
    """Clips per CPU second of both and their ratio in each of five alternating rounds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [_write_clip(folder, number) for number in range(CLIPS)]
        recordings = [Recording(Path(name).stem, name, "train", {}, float(SECONDS)) for name in names]
        (task,) = shard_tasks(spans(recordings), shard_examples=CLIPS, contracts={})
        peer = _peer(folder, names)
        peer()  # nnAudio builds its bases once
        rounds = [(_rate(lambda: _ours(folder, task)), _rate(peer)) for _ in range(ROUNDS)]
    ratios = [ours / theirs for ours, theirs in rounds]
    return {
        "what": f"build shards of mels from {CLIPS} stereo clips of {SECONDS} s at 44.1 kHz, FLAC and MP3",
        "unit": "clips per CPU second",
        "ours": statistics.median(ours for ours, _ in rounds),
        "peer": statistics.median(theirs for _, theirs in rounds),
        "peer_name": f"ffmpeg child + nnAudio {version('nnaudio')} + webdataset {webdataset.__version__} ShardWriter",
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": 4,
    }


def _ours(folder: Path, task: ShardTask) -> None:
    with tempfile.TemporaryDirectory() as out:
        recipe = Recipe(root=folder, labels={}, events={}, features=(MYNA,))
        record = build_shard(Work(Path(out), task, ("mel",)), recipe=recipe)
        assert record.examples == CLIPS, record.rejected


def _peer(folder: Path, names: list[str]) -> Callable[[], None]:
    from nnAudio.features.mel import MelSpectrogram

    mel = MelSpectrogram(sr=16_000, n_fft=2048, hop_length=512, n_mels=128, verbose=False)

    def build() -> None:
        with tempfile.TemporaryDirectory() as out, webdataset.ShardWriter(f"{out}/%06d.tar", verbose=0) as writer:
            for name in names:
                waveform = torch.from_numpy(_decoded_by_ffmpeg(folder / name))
                power = mel(waveform[None])[0].half().numpy()
                writer.write({"__key__": Path(name).stem, "mel.npy": power, "json": {"path": name}})

    return build


def _decoded_by_ffmpeg(path: Path) -> np.ndarray:
    words = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-ac", "1", "-ar", "16000", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(words, capture_output=True, check=True).stdout, np.float32).copy()


def _write_clip(folder: Path, number: int) -> str:
    """A decaying chord with noise, different in both channels: neither silent nor trivial for a codec."""
    rng = np.random.default_rng(number)
    seconds = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    hertz = 110 * 2 ** (rng.integers(0, 36, 6) / 12)
    voices = [np.sin(2 * np.pi * f * k * seconds) * np.exp(-2 * (seconds % 1)) / k for f in hertz for k in (1, 2, 3, 5)]
    left, right = sum(voices[::2], 0 * seconds), sum(voices[1::2], 0 * seconds)
    stereo = 0.05 * np.stack([left, right], axis=1) + 0.01 * rng.standard_normal((len(seconds), 2))
    name = f"clip-{number:03d}." + ("flac" if number % 2 else "mp3")
    soundfile.write(folder / name, stereo, RATE_HZ)
    return name


def _rate(work: Callable[[], None]) -> float:
    begin = sum(os.times()[:4])
    work()
    return CLIPS / (sum(os.times()[:4]) - begin)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16}{value}")
