"""Composed pieces in the layout of Slakh2100: flac, a folder a split as in redux. About 7 s a track and core.

They bear numbers from 50,001; the published ones end at 2,100, so both may stand in one corpus.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import numpy as np
import yaml

from pipelines.music.compose import STYLES, compose
from pipelines.music.performance import play_stems
from pipelines.music.score import Part, Score, midi_bytes
from pipelines.music.synthesis import flac_of
from pipelines.published.midi import program_name
from shards.problem import UsageProblem
from shards.store import whole_file

RENDERED_SIZES = {"tracks": 20}
RENDERED_TRACKS = "tracks.csv"
SAMPLE_RATE_HZ = 44_100

_FIRST_NUMBER = 50_001
_LEAST_TRACKS, _MOST_TRACKS = 3, 40_000  # one in every split; until numbers run out of digits
_VALIDATION_SHARE, _TEST_SHARE = 375 / 2100, 225 / 2100
_LEAST_SECONDS, _MOST_SECONDS = 60, 120
_DRUM_PROGRAM = 128  # what Slakh calls every kit


@dataclass(frozen=True)
class Piece:
    """A track to compose and play; its score is a function of style, length and seed."""

    folder: str
    """of its split"""
    track: str
    style: str
    seconds: float
    seed: tuple[int, ...]


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """`size["tracks"]` tracks of one to two minutes, split as Slakh is, all styles in turn in every split."""
    tracks = int(size["tracks"])
    if not _LEAST_TRACKS <= tracks <= _MOST_TRACKS:
        raise UsageProblem(
            f"{tracks:,} tracks cannot be rendered: every split needs one, and a track's number has five digits. Pass "
            f"--tracks between {_LEAST_TRACKS} and {_MOST_TRACKS:,}."
        )
    validation, test = (max(1, round(tracks * share)) for share in (_VALIDATION_SHARE, _TEST_SHARE))
    folders = ["train"] * (tracks - validation - test) + ["validation"] * validation + ["test"] * test
    seconds = np.random.default_rng([seed, tracks]).integers(_LEAST_SECONDS, _MOST_SECONDS + 1, tracks)
    return [
        Piece(folder, f"Track{_FIRST_NUMBER + number:05}", STYLES[number % len(STYLES)], float(length), (seed, number))
        for number, (folder, length) in enumerate(zip(folders, seconds, strict=True))
    ]


def is_rendered(root: Path, piece: Piece) -> bool:
    return (root / piece.folder / piece.track / "metadata.yaml").is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Compose, play and write one track: stems and MIDI, their exact sum, and what describes them last."""
    score = compose(piece.style, seconds=piece.seconds, seed=piece.seed)
    stems = dict(zip(_names(score), _quantised(score, soundfont), strict=True))
    files = {f"stems/{name}.flac": flac_of(stem[None], sample_rate_hz=SAMPLE_RATE_HZ) for name, stem in stems.items()}
    files |= {f"MIDI/{name}.mid": _midi([part], score) for name, part in zip(_names(score), score.parts, strict=True)}
    mix = np.stack(list(stems.values())).sum(axis=0, dtype=np.int16)
    files["mix.flac"] = flac_of(mix[None], sample_rate_hz=SAMPLE_RATE_HZ)
    files["all_src.mid"] = _midi(score.parts, score)
    files["chords.lab"] = _lab(score)
    files["metadata.yaml"] = yaml.safe_dump(_metadata(score, piece, files["all_src.mid"], soundfont)).encode()
    for name, content in files.items():
        with whole_file(root / piece.folder / piece.track / name) as file:
            file.write(content)


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """List the tracks in a table. Slakh itself has none: where it is missing, rendering was interrupted."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["track", "folder", "style", "seconds"])
    writer.writerows((piece.track, piece.folder, piece.style, piece.seconds) for piece in pieces)
    with whole_file(root / RENDERED_TRACKS) as file:
        file.write(table.getvalue().encode())


def counts(pieces: Sequence[Piece]) -> dict[str, int]:
    """Tracks of each split."""
    return {f"{folder} tracks": count for folder, count in Counter(piece.folder for piece in pieces).items()}


def _names(score: Score) -> list[str]:
    return [f"S{number:02}" for number in range(len(score.parts))]


def _quantised(score: Score, soundfont: Path) -> list[np.ndarray]:
    """16-bit stems. They are rounded before they are summed, so that the mix is their sum to the last bit."""
    stems = play_stems(score, sample_rate_hz=SAMPLE_RATE_HZ, soundfont=soundfont)
    return [np.round(stem * 32768).astype(np.int16) for stem in stems]


def _midi(parts: Sequence[Part], score: Score) -> bytes:
    return midi_bytes(parts, tempo_bpm=score.tempo_bpm, meter=score.meter, key=score.key)


def _lab(score: Score) -> bytes:
    lines = [f"{chord.start_seconds:.6f}\t{chord.end_seconds:.6f}\t{chord.value}\n" for chord in score.chords]
    return "".join(lines).encode()


def _metadata(score: Score, piece: Piece, all_src: bytes, soundfont: Path) -> dict[str, object]:
    """Slakh's fields, but those on loudness, which describe how Slakh was normalised; and what this really is."""
    entries = zip(_names(score), score.parts, strict=True)
    return {
        "UUID": md5(all_src, usedforsecurity=False).hexdigest(),
        "audio_dir": "stems",
        "lmd_midi_dir": "None",
        "midi_dir": "MIDI",
        "normalized": False,
        "rendered": {
            "what": "Composed and rendered in the layout of Slakh2100; not a track of it.",
            "style": score.style,
            "key": score.key,
            "tempo_bpm": float(score.tempo_bpm),
            "meter": score.meter,
            "seconds": float(score.seconds),
            "seed": list(piece.seed),
        },
        "stems": {name: _stem(part, soundfont) for name, part in entries},
    }


def _stem(part: Part, soundfont: Path) -> dict[str, object]:
    return {
        "audio_rendered": True,
        "inst_class": part.instrument_class,
        "is_drum": part.is_drum,
        "midi_program_name": "Drums" if part.is_drum else program_name(part.program),
        "midi_saved": True,
        "plugin_name": soundfont.name,
        "program_num": _DRUM_PROGRAM if part.is_drum else part.program,
    }
