"""The pieces of a rendered labelled set: one composed track each, its audio, and the tables that list it."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from pipelines.music.compose import compose
from pipelines.music.performance import play_score
from pipelines.music.score import KEYS, Score
from pipelines.music.synthesis import mp3_of
from shards.problem import UsageProblem
from shards.store import whole_file

MOST_TRACKS = 50_000
_SPLITS = ("train", "test", "valid", "train", "test", "train", "train", "valid", "test", "train")


@dataclass(frozen=True)
class Piece:
    """One track: all that decides its score, and with it everything that is written of it."""

    number: int
    style: str
    key: str
    seconds: float
    seed: tuple[int, ...]

    def score(self) -> Score:
        return compose(self.style, seconds=self.seconds, seed=self.seed, key=self.key)


def pieces(
    corpus: str, size: Mapping[str, float], *, seed: int, seconds: float, style_of: Callable[[int], str]
) -> list[Piece]:
    """`size["tracks"]` pieces, whose keys go around all 24. Raises UsageProblem when so many cannot be had."""
    tracks = int(size["tracks"])
    if not 1 <= tracks <= MOST_TRACKS:
        raise UsageProblem(
            f"{tracks:,} tracks of {corpus} cannot be rendered: their ids run out. Pass --tracks between 1 and "
            f"{MOST_TRACKS:,}."
        )
    # An order of the keys for each round of 24, so that neither style nor split tells the key.
    orders = [np.random.default_rng([seed, crc32(corpus.encode()), n]).permutation(24) for n in range(tracks // 24 + 1)]
    return [
        Piece(n, style_of(n), KEYS[orders[n // 24][n % 24]], seconds, (seed, crc32(corpus.encode()), n))
        for n in range(tracks)
    ]


def cycled(number: int, classes: int, values: Sequence[str]) -> str:
    """One of `values` for a piece of class `number` modulo `classes`: each class gets each value in turn."""
    return values[(number // classes + number % classes) % len(values)]


def split_of(number: int, classes: int) -> str:
    """Half train, 2 of 10 valid, 3 of 10 test, in every class."""
    return cycled(number, classes, _SPLITS)


def write_mp3(path: Path, piece: Piece, *, channels: int, sample_rate_hz: int, soundfont: Path) -> None:
    """Compose, play and encode a piece, stereo or mono."""
    sound = play_score(piece.score(), sample_rate_hz=sample_rate_hz, soundfont=soundfont)
    write(path, mp3_of(sound if channels == 2 else sound.mean(axis=0, keepdims=True), sample_rate_hz=sample_rate_hz))


def write_table(path: Path, rows: Iterable[Sequence[object]], *, delimiter: str = ",", is_quoted: bool = False) -> None:
    """A table as its publishers write it: every field quoted or only where one must be."""
    text = io.StringIO(newline="")
    csv.writer(
        text, delimiter=delimiter, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL, lineterminator="\n"
    ).writerows(rows)
    write(path, text.getvalue().encode())


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
