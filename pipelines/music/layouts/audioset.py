"""Clips of 10 s in the layout of AudioSet: segment lists, ontology, class list, and the audio as downloaders name it.

No YouTube id of a rendered clip can be a real one: those are 64 bits in 11 letters of 6 bits, so that the last letter
is one of 16, and ours end in another. What a clip is, exactly, lies in scores/LIST/YTID.json beside the audio.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.music.compose import STYLES, compose
from pipelines.music.performance import play_score
from pipelines.music.score import Score
from pipelines.music.synthesis import flac_of
from pipelines.published.ontology import CLASSES, MUSIC, ONTOLOGY, PUBLISHED, below, read_children, read_class_names
from shards.problem import UsageProblem
from shards.store import whole_file, write_json

RENDERED_SIZES = {"hours": 1.0}
SAMPLE_RATE_HZ = 44_100
SECONDS = 10.0
EVAL_SHARE = 0.2

STYLE_NAMES = {
    "ambient": ("Electronic music", "Ambient music"),
    "blues": ("Blues",),
    "classical": ("Classical music",),
    "country": ("Country",),
    "disco": ("Disco",),
    "electronic": ("Electronic music",),
    "folk": ("Folk music",),
    "hiphop": ("Hip hop music",),
    "jazz": ("Jazz",),
    "latin": ("Music of Latin America",),
    "metal": ("Heavy metal",),
    "pop": ("Pop music",),
    "reggae": ("Reggae",),
    "rock": ("Rock music",),
}
"""What AudioSet calls our styles; everything above a name in the ontology is a label too."""
_PROGRAMS: dict[str, Sequence[int]] = {
    "Piano": range(4),
    "Electric piano": (4, 5, 7),
    "Harpsichord": (6,),
    "Mallet percussion": (8, 10),
    "Glockenspiel": (9,),
    "Vibraphone": (11,),
    "Marimba, xylophone": (12, 13),
    "Tubular bells": (14,),
    "Zither": (15,),
    "Hammond organ": (16, 17, 18),
    "Organ": (19, 20),
    "Accordion": (21, 23),
    "Harmonica": (22,),
    "Acoustic guitar": (24, 25),
    "Electric guitar": range(26, 32),
    "Double bass": (32, 43),
    "Bass guitar": range(33, 38),
    "Synthesizer": (38, 39, 50, 51, 54, 62, 63, *range(80, 104)),
    "Violin, fiddle": (40, 110),
    "Bowed string instrument": (41,),
    "Cello": (42,),
    "String section": (44, 48, 49),
    "Pizzicato": (45,),
    "Harp": (46,),
    "Timpani": (47,),
    "Choir": (52, 53),
    "Orchestra": (55,),
    "Trumpet": (56, 59),
    "Trombone": (57,),
    "Brass instrument": (58, 61),
    "French horn": (60,),
    "Saxophone": range(64, 68),
    "Wind instrument, woodwind instrument": (68, 69, 70, 74, 76, 77, 78, 79, 111),
    "Clarinet": (71,),
    "Flute": (72, 73, 75),
    "Sitar": (104,),
    "Banjo": (105,),
    "Plucked string instrument": (106, 107),
    "Percussion": (108, 112, 113, 119),
    "Bagpipes": (109,),
    "Steelpan": (114,),
    "Wood block": (115,),
    "Drum": (116, 117, 118),
}
"""AudioSet's names of the melodic General MIDI programs; sound effects (120 to 127) have none."""
NAME_OF = {program: name for name, programs in _PROGRAMS.items() for program in programs}
_DRUMS = "Drum kit"
RENDERED_PROXIES = {
    "Happy music": "major, at least 110 beats a minute",
    "Tender music": "major, below 90 beats a minute",
    "Sad music": "minor, below 90 beats a minute",
    "Exciting music": "minor, at least 120 beats a minute",
}
"""Labels of mood that nobody's ears gave: mode and tempo stand for them, under AudioSet's names."""
_MOST_HOURS = 1_000
_LISTS = ("balanced_train", "eval")
_LAST_LETTER = "_"  # of no real YTID: it stands for 6 bits of which 2 are always zero there


@dataclass(frozen=True)
class Piece:
    """One clip: its place in a list, and what decides its music."""

    number: int
    listed: str
    ytid: str
    start_seconds: int
    style: str
    seed: int
    seconds: float = SECONDS


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """Clips of `size["hours"]`, a fifth of them in eval, the styles even in both lists."""
    clips = round(size["hours"] * 3600 / SECONDS)
    evaluated = round(clips * EVAL_SHARE)
    if not evaluated or size["hours"] > _MOST_HOURS:
        raise UsageProblem(
            f"{size['hours']:g} hours cannot be rendered: both lists need a clip of {SECONDS:g} s. Pass --hours of "
            f"{3 * SECONDS / 3600:.3f} to {_MOST_HOURS:,}."
        )
    listed = [_LISTS[0]] * (clips - evaluated) + [_LISTS[1]] * evaluated
    return [_piece(number, listed[number], seed) for number in range(clips)]


def counts(pieces: Sequence[Piece]) -> dict[str, int]:
    return {f"{listed} clips": count for listed, count in Counter(piece.listed for piece in pieces).items()}


def is_rendered(root: Path, piece: Piece) -> bool:
    return _audio(root, piece).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Write the clip's score, then its audio. Raises RunFailed when the synthesiser fails."""
    score = compose(piece.style, seconds=SECONDS, seed=(piece.seed, piece.number))
    waveform = play_score(score, sample_rate_hz=SAMPLE_RATE_HZ, soundfont=soundfont)
    write_json(_score(root, piece), _described(score))
    with whole_file(_audio(root, piece)) as file:
        file.write(flac_of(waveform, sample_rate_hz=SAMPLE_RATE_HZ))


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write ontology and class list, then the segment lists: by them the corpus counts as whole."""
    for name in (ONTOLOGY, CLASSES, "LICENSE.md"):
        with whole_file(root / name) as file:
            file.write((PUBLISHED / name).read_bytes())
    for listed in _LISTS:
        rows = [(piece, _mids(root, piece)) for piece in pieces if piece.listed == listed]
        with whole_file(root / f"{listed}_segments.csv") as file:
            file.write("".join(_lines(rows)).encode())


def labels_of(score: Score) -> list[str]:
    """Ids of AudioSet's classes that a score bears, with those above them, sorted as in the published lists."""
    sounding = [part for part in score.parts if part.notes]
    names = {*STYLE_NAMES[score.style], *_mood(score)}
    names |= {_DRUMS if part.is_drum else NAME_OF[part.program] for part in sounding}
    return sorted({mid for name in names for mid in _with_those_above(name)})


def _piece(number: int, listed: str, seed: int) -> Piece:
    rng = np.random.default_rng([seed, number])
    letters = base64.urlsafe_b64encode(rng.bytes(4) + number.to_bytes(3, "big")).decode()  # of the number: all differ
    start_seconds = 10 * int(rng.integers(30))
    return Piece(number, listed, letters[:10] + _LAST_LETTER, start_seconds, STYLES[number % len(STYLES)], seed)


def _audio(root: Path, piece: Piece) -> Path:
    start_ms, end_ms = 1000 * piece.start_seconds, round(1000 * (piece.start_seconds + SECONDS))
    return root / "audio" / piece.listed / f"{piece.ytid}_{start_ms}_{end_ms}.flac"


def _score(root: Path, piece: Piece) -> Path:
    return root / "scores" / piece.listed / f"{piece.ytid}.json"


def _described(score: Score) -> dict[str, object]:
    return {
        "labels": labels_of(score),
        "style": score.style,
        "key": score.key,
        "tempo_bpm": score.tempo_bpm,
        "instruments": [part.name for part in score.parts if part.notes],
        "beats": list(score.beats),
        "downbeats": list(score.downbeats),
        "chords": [[mark.start_seconds, mark.end_seconds, mark.value] for mark in score.chords],
    }


def _mood(score: Score) -> list[str]:
    is_major = score.key.endswith("major")
    holds = {
        "Happy music": is_major and score.tempo_bpm >= 110,
        "Tender music": is_major and score.tempo_bpm < 90,
        "Sad music": not is_major and score.tempo_bpm < 90,
        "Exciting music": not is_major and score.tempo_bpm >= 120,
    }
    return [name for name in RENDERED_PROXIES if holds[name]]


@cache
def _with_those_above(name: str) -> frozenset[str]:
    """The class of this name and every labelled one that it lies under, up to Music."""
    mid = next(mid for mid, known in _labelled().items() if known == name)
    children = read_children(PUBLISHED / ONTOLOGY)
    music = below(MUSIC, children)
    return frozenset(above for above in _labelled() if above in music and mid in below(above, children))


@cache
def _labelled() -> dict[str, str]:
    return read_class_names(PUBLISHED / CLASSES)


def _mids(root: Path, piece: Piece) -> list[str]:
    mids: list[str] = json.loads(_score(root, piece).read_bytes())["labels"]
    return mids


def _lines(rows: Sequence[tuple[Piece, Sequence[str]]]) -> list[str]:
    mids = [mid for _, row in rows for mid in row]
    return [
        "# Segments rendered by sonograph: no video has these ids\n",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len({*mids})}, "
        f"num_positive_labels={len(mids)}\n",
        "# YTID, start_seconds, end_seconds, positive_labels\n",
        *(
            f'{piece.ytid}, {piece.start_seconds:.3f}, {piece.start_seconds + SECONDS:.3f}, "{",".join(row)}"\n'
            for piece, row in sorted(rows, key=lambda row: row[0].ytid)
        ),
    ]
