"""Clips rendered in the layout of MagnaTagATune, and what that layout calls things.

They bear clip ids from 100,001; the published ones end at 58,920. Tags say which instruments play, how fast, and in
which style, each as the score has it; nobody listened.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.music.compose import STYLES
from pipelines.music.layouts.tracks import Piece, cycled, pieces, write_mp3, write_table
from pipelines.music.score import Part, Score
from pipelines.published.tables import SHIPPED, read_rows

RENDERED_SIZES = {"tracks": 96}
SLOW_BPM, FAST_BPM = 84, 128
RENDERED_PROXIES = {
    "slow, fast": f"a tempo of at most {SLOW_BPM} and at least {FAST_BPM} beats per minute; nobody judged it",
    "styles": "the style that the composer's rules wrote the clip in, under the tags that are nearest to it",
    "instruments": "those of the General MIDI programs that play; a tag that is not given may still be heard",
}
ANNOTATIONS, CLIPS = "annotations_final.csv", "clip_info_final.csv"

_RANKS = {
    row.fields["tag"]: row.fields["rank"]
    for row in read_rows(SHIPPED / "magnatagatune_tags.csv", what="MagnaTagATune's tags", columns=("tag", "rank"))
}
ALL_TAGS = tuple(_RANKS)
"""The 188 of the published table, in the order of its columns."""
TAGS = tuple(sorted((tag for tag in ALL_TAGS if _RANKS[tag]), key=lambda tag: int(_RANKS[tag])))
"""The 50 most frequent, in their usual order."""

_SECONDS = 29.1
_SAMPLE_RATE_HZ = 16_000
_FIRST_ID = 100_001
_FOLDERS = "0cd1e2f3456789ab"  # one after another, so that a few clips are in all splits
_CLIP_COLUMNS = (
    *("clip_id", "track_number", "title", "artist", "album", "url", "segmentStart", "segmentEnd"),
    *("original_url", "mp3_path"),
)
_PROGRAM_TAGS = {
    **dict.fromkeys(range(4), "piano"),
    **{6: "harpsichord", 40: "violin,strings", 41: "viola,strings", 42: "cello,strings", 46: "harp", 52: "choir"},
    **dict.fromkeys(range(16, 21), "organ"),
    **dict.fromkeys(range(24, 32), "guitar"),
    **{24: "guitar,classical guitar,acoustic guitar", 25: "guitar,acoustic guitar"},
    **dict.fromkeys(range(26, 32), "guitar,electric guitar"),
    **dict.fromkeys(range(32, 38), "bass"),
    **dict.fromkeys((38, 39), "bass,synth"),
    **dict.fromkeys((43, 44, 45, 48, 49), "strings"),
    **dict.fromkeys((50, 51, 62, 63, *range(80, 96)), "synth"),
    **{56: "trumpet", 60: "horn", 68: "oboe", 71: "clarinet", 73: "flute", 104: "sitar", 105: "banjo", 110: "fiddle"},
    **dict.fromkeys(range(64, 68), "sax"),
}
_VOICES = {52, 53, 54, 85, 91}
_STYLE_TAGS = {
    **{"ambient": "ambient", "blues": "blues", "classical": "classical,classic", "country": "country"},
    **{"disco": "disco,dance", "electronic": "electronic,techno,dance", "folk": "folk", "hiphop": "hip hop"},
    **{"jazz": "jazz", "metal": "metal,heavy metal", "pop": "pop", "reggae": "reggae", "rock": "rock"},
}


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """Styles and keys even, a sixteenth in each folder. Raises UsageProblem when so many clips cannot be had."""
    return pieces(
        "magnatagatune", size, seed=seed, seconds=_SECONDS, style_of=lambda number: STYLES[number % len(STYLES)]
    )


def is_rendered(root: Path, piece: Piece) -> bool:
    return (root / mp3_path(piece)).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Write the clip: mono MP3 of 16 kHz. Raises RunFailed when the synthesiser fails."""
    write_mp3(root / mp3_path(piece), piece, channels=1, sample_rate_hz=_SAMPLE_RATE_HZ, soundfont=soundfont)


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write which clip is which, and last their tags."""
    write_table(root / CLIPS, [_CLIP_COLUMNS, *map(_clip, pieces)], delimiter="\t", is_quoted=True)
    rows = [(clip_id(piece), *_flags(tags_of(piece.score())), mp3_path(piece)) for piece in pieces]
    header = ("clip_id", *ALL_TAGS, "mp3_path")
    write_table(root / ANNOTATIONS, [header, *rows], delimiter="\t", is_quoted=True)


def tags_of(score: Score) -> set[str]:
    """The tags that a score implies, all of them among ALL_TAGS."""
    playing = [part for part in score.parts if part.notes]
    tags = {tag for part in playing for tag in _part_tags(part)} | {*_STYLE_TAGS.get(score.style, "").split(",")} - {""}
    if not any(part.program in _VOICES for part in playing if not part.is_drum):
        tags |= {"no vocals", "no vocal", "no voice", "no singing", "instrumental"}
    tags |= {f"no {tag}" for tag in ("drums", "flute", "guitar", "piano", "strings", "violin") if tag not in tags}
    if score.tempo_bpm <= SLOW_BPM:
        tags.add("slow")
    if score.tempo_bpm >= FAST_BPM:
        tags.add("fast")
    return tags | ({"solo"} if len(playing) == 1 else set())


def split_of(path: str) -> str:
    """The usual split, by the folder of an mp3_path: 0 to b train, c valid, d to f test."""
    return {"c": "valid", "d": "test", "e": "test", "f": "test"}.get(path[:1], "train")


def clip_id(piece: Piece) -> int:
    return _FIRST_ID + piece.number


def mp3_path(piece: Piece) -> str:
    folder = cycled(piece.number, len(STYLES), _FOLDERS)
    return f"{folder}/sonograph-rendered-{clip_id(piece)}-{piece.style}-0-{round(piece.seconds)}.mp3"


def _part_tags(part: Part) -> Iterator[str]:
    if part.is_drum:
        yield from ("drums", "drum")
    elif part.program in _PROGRAM_TAGS:
        yield from _PROGRAM_TAGS[part.program].split(",")


def _flags(tags: set[str]) -> Iterator[int]:
    return (int(tag in tags) for tag in ALL_TAGS)


def _clip(piece: Piece) -> tuple[object, ...]:
    number, title = clip_id(piece), f"Clip {clip_id(piece)}"
    place = ("http://localhost/", 0, round(piece.seconds), "http://localhost/", mp3_path(piece))
    return number, piece.number + 1, title, "Sonograph", "Rendered", *place
