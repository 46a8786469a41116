"""Tracks rendered in the layout of GiantSteps Key and GiantSteps-MTG Key, and what these call things.

They bear ids from 90,000,001; the published ones end before 10,000,000. Keys are those the composer wrote in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.music.compose import STYLES
from pipelines.music.layouts.tracks import Piece, pieces, split_of, write, write_mp3, write_table

RENDERED_SIZES = {"tracks": 48}
RENDERED_PROXIES = {"genre": "the style that the composer's rules wrote the track in"}
TEST_SET, TRAIN_SET = "giantsteps-key-dataset", "giantsteps-mtg-key-dataset"
ANNOTATIONS = "annotations/annotations.txt"
SPLIT_LIST = "giantsteps_split.csv"

_SECONDS = 120.0
_SAMPLE_RATE_HZ = 44_100
_FIRST_ID = 90_000_001
_KEYS = 24


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """Keys even, 3 of 10 in the test set. Raises UsageProblem when so many tracks cannot be had."""
    return pieces("giantsteps", size, seed=seed, seconds=_SECONDS, style_of=lambda number: STYLES[number % len(STYLES)])


def is_rendered(root: Path, piece: Piece) -> bool:
    return _audio_path(root, piece).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Write the key and the style, then the track: stereo MP3 of 44.1 kHz. Raises RunFailed when playing fails."""
    folder, name = root / _folder(piece) / "annotations", f"{track_id(piece)}.LOFI"
    # The MTG set writes keys in lower case, with the annotator's confidence beside them.
    key = piece.key if _folder(piece) == TEST_SET else f"{piece.key.lower()}\t2\t\n"
    write(folder / "key" / f"{name}.key", key.encode())
    write(folder / "genre" / f"{name}.genre", piece.style.encode())
    write_mp3(_audio_path(root, piece), piece, channels=2, sample_rate_hz=_SAMPLE_RATE_HZ, soundfont=soundfont)


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write the digests of the audio, by which readers list it, the tables of the MTG set and the split list."""
    for piece in pieces:
        digest = hashlib.md5(_audio_path(root, piece).read_bytes(), usedforsecurity=False).hexdigest()
        write(root / _folder(piece) / "md5" / f"{track_id(piece)}.LOFI.md5", f"{digest}\n".encode())
    rows = [(f"{track_id(piece):07}", piece.key, _split(piece), int(piece.seconds // 30)) for piece in pieces]
    write_table(root / SPLIT_LIST, [("audio_id", "key", "split", "clips_30s"), *rows])
    training = [piece for piece in pieces if _folder(piece) == TRAIN_SET]
    header = ("ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY")
    metadata = [header, *map(_metadata, training)]
    write_table(root / TRAIN_SET / "annotations" / "beatport_metadata.txt", metadata, delimiter="\t")
    keys = [("ID", "MANUAL KEY", "C"), *((track_id(piece), piece.key, 2) for piece in training)]
    write_table(root / TRAIN_SET / ANNOTATIONS, keys, delimiter="\t")


def track_id(piece: Piece) -> int:
    return _FIRST_ID + piece.number


def _metadata(piece: Piece) -> tuple[object, ...]:
    title = f"Track {track_id(piece)}"
    return (track_id(piece), "Sonograph", title, "Original Mix", "Sonograph", piece.style, _bpm(piece), piece.key)


def _bpm(piece: Piece) -> int:
    return round(piece.score().tempo_bpm)


def _split(piece: Piece) -> str:
    return split_of(piece.number, _KEYS)


def _folder(piece: Piece) -> str:
    return TEST_SET if _split(piece) == "test" else TRAIN_SET


def _audio_path(root: Path, piece: Piece) -> Path:
    return root / _folder(piece) / "audio" / f"{track_id(piece)}.LOFI.mp3"
