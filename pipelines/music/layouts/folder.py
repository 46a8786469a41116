"""Tracks in a folder for each style, with a table of their labels: what a tidy collection of one's own looks like."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.music.compose import STYLES, compose
from pipelines.music.performance import play_score
from pipelines.music.score import Score
from pipelines.music.synthesis import flac_of
from shards.problem import UsageProblem
from shards.store import whole_file

RENDERED_SIZES = {"tracks": 40}
SAMPLE_RATE_HZ = 44_100
LABELS = "labels.csv"
COLUMNS = ("path", "style", "key", "tempo_bpm", "meter", "instruments")

_LEAST_SECONDS, _MOST_SECONDS = 20, 60
_MOST_TRACKS = 100_000


@dataclass(frozen=True)
class Piece:
    """One track, and what decides its music."""

    number: int
    style: str
    seconds: float
    seed: int

    @property
    def path(self) -> str:
        return f"{self.style}/{self.style}-{self.number:05}.flac"


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """`size["tracks"]` pieces of 20 to 60 s, the styles in turn."""
    tracks = int(size["tracks"])
    if not 1 <= tracks <= _MOST_TRACKS:
        raise UsageProblem(f"{tracks:,} tracks cannot be rendered. Pass --tracks between 1 and {_MOST_TRACKS:,}.")
    return [_piece(number, seed) for number in range(tracks)]


def is_rendered(root: Path, piece: Piece) -> bool:
    return (root / piece.path).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Raises RunFailed when the synthesiser fails."""
    waveform = play_score(composed(piece), sample_rate_hz=SAMPLE_RATE_HZ, soundfont=soundfont)
    with whole_file(root / piece.path) as file:
        file.write(flac_of(waveform, sample_rate_hz=SAMPLE_RATE_HZ))


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write the table of labels."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(_row(piece, composed(piece)) for piece in pieces)
    with whole_file(root / LABELS) as file:
        file.write(text.getvalue().encode())


def composed(piece: Piece) -> Score:
    """The music of a piece, the same each time."""
    return compose(piece.style, seconds=piece.seconds, seed=(piece.seed, piece.number))


def _piece(number: int, seed: int) -> Piece:
    seconds = np.random.default_rng([seed, number]).integers(_LEAST_SECONDS, _MOST_SECONDS + 1)
    return Piece(number, STYLES[number % len(STYLES)], float(seconds), seed)


def _row(piece: Piece, score: Score) -> list[object]:
    instruments = sorted({part.instrument_class for part in score.parts if part.notes})
    return [piece.path, score.style, score.key, score.tempo_bpm, score.meter, json.dumps(instruments)]
