"""A feature that kills or hangs its own process for one recording, as a broken decoder does."""

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from pipelines.example_maker import Recipe
from pipelines.plan import Work, shard_tasks, spans
from pipelines.recording import Recording
from pipelines.task import build_shard
from pipelines.workers import run_tasks
from shards.example import Clip
from shards.features.mel import MYNA

PIECE_SECONDS = 6.0
CRASHING, HANGING, GREEDY = 0.75, 0.5, 0.25
"""The amplitude of the first sample decides."""


@dataclass(frozen=True)
class Poisoned:
    sample_rate_hz: int = 16_000
    column: str = "mel"
    suffix: str = "npy"

    @property
    def word(self) -> str:
        return MYNA.word

    @property
    def contract(self) -> Mapping[str, object]:
        return MYNA.contract

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        react(float(clips[0].waveform[0, 0]))
        return MYNA(clips)


def react(amplitude: float) -> None:
    """Die of a real SIGSEGV, hang as native code does, which never gives Python's lock back, or ask for all memory."""
    if amplitude == CRASHING:
        os.kill(os.getpid(), signal.SIGSEGV)
    if amplitude == HANGING:
        ctypes.PyDLL(None).pause()
    if amplitude == GREEDY:
        take_all_memory()


def take_all_memory() -> None:
    """As native code does that believes a broken header: it aborts when the system gives no more."""
    system = ctypes.CDLL(None)
    system.malloc.restype, system.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    while system.malloc(1 << 26):
        pass
    os.abort()


def write_corpus(root: Path, first_samples: Sequence[float]) -> list[Recording]:
    root.mkdir(parents=True)
    for number, first in enumerate(first_samples):
        waveform = 0.1 * np.random.default_rng(number).standard_normal(16_000)
        waveform[0] = first
        soundfile.write(root / f"{number}.wav", waveform, 16_000, subtype="FLOAT")
    return [Recording(f"{number}", f"{number}.wav", "train") for number in range(len(first_samples))]


def build(root: Path, out: Path, first_samples: Sequence[float]) -> None:
    """Two shards of them on Ray, which prints what became of each."""
    recordings = write_corpus(root, first_samples)
    tasks = list(shard_tasks(spans(recordings), shard_examples=4, contracts={}))
    recipe = Recipe(root=root, labels={}, events={}, features=(Poisoned(),), piece_seconds=PIECE_SECONDS)
    records = list(
        run_tasks(partial(build_shard, recipe=recipe), [Work(out, task, ("mel",)) for task in tasks], workers=2)
    )
    for record in sorted(records, key=lambda record: record.number):
        print(record.number, record.examples, [(row.index, row.reason) for row in record.rejected])
