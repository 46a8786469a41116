"""Segment lists, and files named after their rows, for tests of AudioSet."""

import csv
import shutil
from pathlib import Path

from pipelines.corpora.audioset import Corpus
from pipelines.published.ontology import MUSIC
from pipelines.recording import Recording

EXCERPTS = Path(__file__).parent / "data" / "audioset"
GUITAR, SPEECH = "/m/0342h", "/m/09x0r"
YTID = "-a_bcdefgh8"
HEADER = (
    "# Segments csv created\n# num_ytids={n}, num_segs={n}, num_unique_labels=1, num_positive_labels=1\n# YTID, ...\n"
)


def put(path: Path) -> str:
    """An empty file: listing never looks inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path.name


def write_list(root: Path, name: str, *rows: str, header: str = "") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}_segments.csv").write_text(header + "".join(f"{row}\n" for row in rows))


def row(ytid: str = YTID, start: str = "30.000", end: str = "40.000", labels: str = f"{MUSIC},{GUITAR}") -> str:
    return f'{ytid}, {start}, {end}, "{labels}"'


def listed(root: Path, **options: object) -> list[Recording]:
    return list(Corpus(root, **options).recordings())


def published_rows(path: Path) -> list[list[str]]:
    """The plain way: the csv module, and no line that begins with #."""
    with path.open() as file:
        return [row for row in csv.reader(file, skipinitialspace=True) if not row[0].startswith("#")]


def excerpts(folder: Path) -> Path:
    """The excerpts of the published lists in `folder`, with an empty file for every segment."""
    for path in EXCERPTS.glob("*.csv"):
        shutil.copy(path, folder)
        for ytid, *_ in published_rows(path):
            put(folder / "audio" / f"{ytid}.wav")
    return folder
