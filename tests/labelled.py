"""A small labelled corpus whose names and labels are hostile to whatever shows them, and datasets of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from shards.manifest import Manifest
from tests.building import build_here

RATE_HZ = 16_000
SCRIPT = "</script><script>document.title='owned'</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
MARKDOWN = "a | b ``` [x](javascript:alert(1)) <b>"
MOODS = (SCRIPT, IMAGE, MARKDOWN, "calm\x1b[31m\u202e")
SPLITS = {"train": 6, "valid": 2, "test": 2}


def labelled_corpus(root: Path) -> Path:
    """Tones of 1 to 2.8 s in three splits, each with a mood, tags and a tempo; one file is no audio."""
    rows = []
    for number, split in enumerate(split for split, count in SPLITS.items() for _ in range(count)):
        path = root / split / f"{number} {IMAGE if number == 0 else 'tone'}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        time_s = np.arange(round((1 + 0.2 * number) * RATE_HZ)) / RATE_HZ
        tone = 0.8 * 0.7**number * np.sin(2 * np.pi * 220 * 1.2**number * time_s)
        soundfile.write(path, tone, RATE_HZ)
        rows.append(_row(path.relative_to(root), number, split))
    (root / "train" / "broken.wav").write_bytes(b"RIFF nothing")
    rows.append(_row(Path("train", "broken.wav"), 3, "train"))
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def _row(path: Path, number: int, split: str) -> dict[str, object]:
    tags = ["loud"] * (number < 3) + [SCRIPT] * (number % 2)
    labels = {"mood": MOODS[number % len(MOODS)], "tags": tags or ["none"], "tempo": 100 + number / 4, "take": number}
    return {"path": path.as_posix(), "split": split, **labels}


def labelled_dataset(folder: Path, *features: str) -> Path:
    """The datasets of that corpus, by the real build in this process."""
    root = labelled_corpus(folder / "corpus")
    words = (
        "folder",
        "--root",
        root,
        "--labels",
        root / "labels.jsonl",
        "--out",
        folder / "tones",
        "--shard-examples",
        4,
    )
    build_here(*words, "--features", *features)
    return folder / "tones"


def changed(dataset: Path, to: Path, **manifest: object) -> Path:
    """A copy of one split whose manifest says something else; of columns that it is not to have, nothing."""
    shutil.copytree(dataset, to)
    found = replace(Manifest.read(dataset), **manifest)  # type: ignore[arg-type]
    kept = {"index", *found.features}
    shards = [
        replace(shard, files={name: stored for name, stored in shard.files.items() if name.split("/")[0] in kept})
        for shard in found.shards
    ]
    statistics = {name: said for name, said in found.statistics.items() if name in kept}
    replace(found, shards=shards, statistics=statistics).write(to)
    return to
