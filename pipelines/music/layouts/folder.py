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
from pipelines.music.score import KEYS, Score
from pipelines.music.synthesis import flac_of
from shards.problem import UsageProblem
from shards.store import whole_file

RENDERED_SIZES = {"tracks": 40}
SAMPLE_RATE_HZ = 44_100
LABELS = "labels.csv"
COLUMNS = ("path", "style", "key", "tempo_bpm", "tempo", "meter", "instruments")
SLOW_BPM, FAST_BPM = 95.0, 125.0
"""Tempi below and above which a track is called slow and fast: about a third of all tracks each."""

_LEAST_SECONDS, _MOST_SECONDS = 20, 60
_MOST_TRACKS = 100_000
_KEY_STREAM = 1  # keeps the order of keys apart from the lengths, which are drawn from the seed as well


@dataclass(frozen=True)
class Piece:
    """One track, and what decides its music."""

    number: int
    style: str
    key: str
    seconds: float
    seed: int

    @property
    def path(self) -> str:
        return f"{self.style}/{self.style}-{self.number:05}.flac"


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """`size["tracks"]` pieces of 20 to 60 s, the styles in turn, the keys evenly: neither tells the other."""
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
    return compose(piece.style, seconds=piece.seconds, seed=(piece.seed, piece.number), key=piece.key)


def _piece(number: int, seed: int) -> Piece:
    seconds = np.random.default_rng([seed, number]).integers(_LEAST_SECONDS, _MOST_SECONDS + 1)
    order = np.random.default_rng([seed, number // len(KEYS), _KEY_STREAM]).permutation(len(KEYS))
    key = KEYS[order[number % len(KEYS)]]
    return Piece(number, STYLES[number % len(STYLES)], key, float(seconds), seed)


def _row(piece: Piece, score: Score) -> list[object]:
    instruments = sorted({part.instrument_class for part in score.parts if part.notes})
    tempo = "slow" if score.tempo_bpm < SLOW_BPM else "fast" if score.tempo_bpm > FAST_BPM else "medium"
    return [piece.path, score.style, score.key, score.tempo_bpm, tempo, score.meter, json.dumps(instruments)]
