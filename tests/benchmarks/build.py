"""Shards with mels from 44.1 kHz stereo music, against three lines that people write, and against its own parts.

    python -m tests.benchmarks.build            python -m tests.benchmarks.build 6 1     6 clips, 1 round

Peers: an ffmpeg child for each file, nnAudio and webdataset's ShardWriter; lhotse's Recording, resample, Fbank and
SharWriter; librosa.load, its mel and ShardWriter. Ours is the build's own task: decode in process, down-mix, soxr, mel,
a whole shard with index, statistics and digests. Clips of ten seconds, a third each FLAC, MP3 and Ogg Vorbis; every
variant has two processes of its own, started and warm, of which one or both work; one thread each. Ratios are of CPU
seconds of one worker, children included, in alternating rounds; wall time of one and two, and peak memory, beside them.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

CLIPS, SECONDS, RATE_HZ, ROUNDS = 42, 10, 44_100, 5
MEL_HZ, WINDOW, HOP, BANDS = 16_000, 2048, 512, 128
TARGETS = {"ffmpeg": 6.5, "lhotse": 2.7, "librosa": 2.7, "decode": 1 / 1.4, "sound": 0.9}
FORMATS = ("flac", "mp3", "ogg")


class Spent(NamedTuple):
    """What a variant took for all clips."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


def measure(clips: int = CLIPS, rounds: int = ROUNDS) -> dict[str, object]:
    """Clips per CPU second of ours and of each peer, with their ratio in each of the alternating rounds."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        names = [write_clip(Path(name), number) for number in range(clips)]
        pools = {variant: [stack.enter_context(_process()) for _ in range(2)] for variant in VARIANTS}
        for variant, pool in pools.items():
            _run(variant, pool, Path(name), names[:6])
        spent = list(_rounds(pools, Path(name), names, rounds))
    ours = [each["ours", 1] for each in spent]
    lines = [_against(peer, ours, [each[peer, 1] for each in spent], clips) for peer in TARGETS]
    return {
        "what": f"build shards of mels from {clips} stereo clips of {SECONDS} s at 44.1 kHz, FLAC, MP3 and Ogg",
        "unit": "clips per CPU second",
        "ours": statistics.median(clips / each.cpu_seconds for each in ours),
        **lines[0],
        "against": lines[1:],
        "wall_clips_per_second": _medians(spent, lambda one: clips / one.wall_seconds),
        "peak_mib": _medians(spent, lambda one: one.peak_mib),
    }


def _against(peer: str, ours: Sequence[Spent], theirs: Sequence[Spent], clips: int) -> dict[str, object]:
    ratios = [their.cpu_seconds / our.cpu_seconds for our, their in zip(ours, theirs, strict=True)]
    return {
        "peer": statistics.median(clips / each.cpu_seconds for each in theirs),
        "peer_name": _NAMES[peer](),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "target": round(TARGETS[peer], 2),
    }


def _rounds(pools: dict, folder: Path, names: Sequence[str], rounds: int) -> Iterator[dict[tuple[str, int], Spent]]:
    """By variant and number of workers; the order turns, so that none is always after the same one."""
    variants = list(pools)
    for number in range(rounds):
        turned = variants[number % len(variants) :] + variants[: number % len(variants)]
        yield {
            (variant, workers): _run(variant, pools[variant][:workers], folder, names)
            for variant in turned
            for workers in (1, 2)
        }


def _medians(spent: Sequence[dict], value: Callable[[Spent], float]) -> dict[str, dict[str, float]]:
    return {
        variant: {
            str(workers): statistics.median(value(each[variant, workers]) for each in spent) for workers in (1, 2)
        }
        for variant in VARIANTS
    }


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _run(variant: str, pool: Sequence[ProcessPoolExecutor], folder: Path, names: Sequence[str]) -> Spent:
    begin = time.perf_counter()
    parts = [names[number :: len(pool)] for number in range(len(pool))]
    done = [one.submit(_work, variant, folder, part) for one, part in zip(pool, parts, strict=True)]
    found = [each.result() for each in done]
    return Spent(sum(cpu for cpu, _ in found), time.perf_counter() - begin, sum(peak for _, peak in found))


def _work(variant: str, folder: Path, names: Sequence[str]) -> tuple[float, float]:
    """In a process of its own: CPU seconds of it and its children, and the most memory that it ever had, in MiB."""
    torch.set_num_threads(1)
    begin = _cpu_seconds()
    with tempfile.TemporaryDirectory() as out:
        VARIANTS[variant](folder, names, Path(out))
    return _cpu_seconds() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# What is compared


def _ours(folder: Path, names: Sequence[str], out: Path) -> None:
    from pipelines.example_maker import Recipe
    from pipelines.plan import Work, shard_tasks, spans
    from pipelines.recording import Recording
    from pipelines.task import build_shard
    from shards.features.mel import MYNA

    recordings = [Recording(Path(name).stem, name, "train", {}, float(SECONDS)) for name in names]
    (task,) = shard_tasks(spans(recordings), shard_examples=len(names), contracts={})
    recipe = Recipe(root=folder, labels={}, events={}, features=(MYNA,))
    record = build_shard(Work(out, task, ("mel",)), recipe=recipe)
    assert record.examples == len(names), record.rejected


def _decoding_alone(folder: Path, names: Sequence[str], out: Path) -> None:
    from shards.decode import decode

    for name in names:
        decode((folder / name).read_bytes())


def _sound_alone(folder: Path, names: Sequence[str], out: Path) -> None:
    from shards.decode import decode
    from shards.features.mel import MYNA

    for name in names:
        MYNA([decode((folder / name).read_bytes(), sample_rate_hz=MEL_HZ)])


def _ffmpeg_line(folder: Path, names: Sequence[str], out: Path) -> None:
    mel = nnaudio_mel()
    with _shard_writer(out) as writer:
        for name in names:
            waveform = torch.from_numpy(_decoded_by_ffmpeg(folder / name))
            writer.write(_sample(name, mel(waveform[None])[0].half().numpy()))


@cache
def nnaudio_mel() -> Any:
    from nnAudio.features.mel import MelSpectrogram

    return MelSpectrogram(sr=MEL_HZ, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS, verbose=False)


def _decoded_by_ffmpeg(path: Path) -> np.ndarray:
    words = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-ac", "1", "-ar", "16000", "-f", "f32le", "-"]
    return np.frombuffer(subprocess.run(words, capture_output=True, check=True).stdout, np.float32).copy()


def _lhotse_line(folder: Path, names: Sequence[str], out: Path) -> None:
    from lhotse import MonoCut, Recording
    from lhotse.shar import SharWriter

    extractor = _lhotse_fbank()
    with SharWriter(str(out), fields={"mel": "numpy"}, shard_size=512) as writer:
        for name in names:
            recording = Recording.from_file(folder / name).resample(MEL_HZ)
            mel = extractor.extract(recording.load_audio().mean(axis=0), MEL_HZ).astype(np.float16)
            cut = MonoCut(id=recording.id, start=0, duration=recording.duration, channel=0)
            writer.write(cut.attach_tensor("mel", mel))


@cache
def _lhotse_fbank() -> Any:
    from lhotse import Fbank, FbankConfig

    frames = {"frame_length": WINDOW / MEL_HZ, "frame_shift": HOP / MEL_HZ}
    return Fbank(FbankConfig(sampling_rate=MEL_HZ, num_filters=BANDS, dither=0.0, **frames))


def _librosa_line(folder: Path, names: Sequence[str], out: Path) -> None:
    import librosa

    with _shard_writer(out) as writer:
        for name in names:
            waveform, _ = librosa.load(folder / name, sr=MEL_HZ, mono=True)
            frames = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": BANDS}
            mel = librosa.feature.melspectrogram(y=waveform, sr=MEL_HZ, **frames)
            writer.write(_sample(name, mel.astype(np.float16)))


def _shard_writer(out: Path) -> Any:
    import webdataset

    return webdataset.ShardWriter(f"{out}/%06d.tar", verbose=0)


def _sample(name: str, mel: np.ndarray) -> dict[str, object]:
    return {"__key__": Path(name).stem, "mel.npy": mel, "json": {"path": name}}


VARIANTS: dict[str, Callable[[Path, Sequence[str], Path], None]] = {
    "ours": _ours,
    "ffmpeg": _ffmpeg_line,
    "lhotse": _lhotse_line,
    "librosa": _librosa_line,
    "decode": _decoding_alone,
    "sound": _sound_alone,
}
_NAMES = {
    "ffmpeg": lambda: f"ffmpeg child + nnAudio {version('nnaudio')} + webdataset {version('webdataset')} ShardWriter",
    "lhotse": lambda: f"lhotse {version('lhotse')}: Recording, resample, Fbank, SharWriter",
    "librosa": lambda: f"librosa {version('librosa')} load and mel + webdataset {version('webdataset')} ShardWriter",
    "decode": lambda: "decoding the same files and nothing else, with the same decoder: the floor",
    "sound": lambda: "decoding, soxr and the mel of the same files, nothing checked and nothing written",
}


def write_clip(folder: Path, number: int) -> str:
    """A decaying chord with noise, different in both channels: neither silent nor trivial for a codec."""
    rng = np.random.default_rng(number)
    seconds = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    hertz = 110 * 2 ** (rng.integers(0, 36, 6) / 12)
    voices = [np.sin(2 * np.pi * f * k * seconds) * np.exp(-2 * (seconds % 1)) / k for f in hertz for k in (1, 2, 3, 5)]
    left, right = sum(voices[::2], 0 * seconds), sum(voices[1::2], 0 * seconds)
    stereo = 0.05 * np.stack([left, right], axis=1) + 0.01 * rng.standard_normal((len(seconds), 2))
    name = f"clip-{number:03d}.{FORMATS[number % len(FORMATS)]}"
    soundfile.write(folder / name, stereo, RATE_HZ)
    return name


if __name__ == "__main__":
    for name, value in measure(*map(int, sys.argv[1:])).items():
        print(f"{name:16}{value}")
