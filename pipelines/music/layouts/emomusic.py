"""Clips rendered in the layout of EmoMusic, and what that layout calls things.

They bear song ids from 5001; the published ones end at 1000. Ratings are computed from the score, and so are proxies.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.music.compose import STYLES
from pipelines.music.layouts.tracks import Piece, pieces, split_of, write_mp3, write_table
from pipelines.music.score import Score

RENDERED_SIZES = {"tracks": 60}
RENDERED_PROXIES = {
    "arousal": "5 + (tempo - 105 bpm) / 25 + (mean velocity - 80) / 15, within 1 to 9; nobody rated it",
    "valence": "5 + 2 in major or - 2 in minor + (tempo - 105 bpm) / 50, within 1 to 9; nobody rated it",
    "genre": "the style that the composer's rules wrote the song in",
}
CLIPS, RATINGS, SONGS, SPLIT_LIST = "clips_45seconds", "static_annotations.csv", "songs_info.csv", "emomusic_split.csv"
SET = "Mediaeval 2013 set"
START_END = (
    ("segment_start_seconds", "start of the segment (min.sec)"),
    ("segment_end_seconds", "end of the segment (min.sec)"),
)

_SECONDS = 45.0
_SAMPLE_RATE_HZ = 44_100
_FIRST_ID = 5001


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """Styles and keys even, half train. Raises UsageProblem when so many songs cannot be had."""
    return pieces("emomusic", size, seed=seed, seconds=_SECONDS, style_of=lambda number: STYLES[number % len(STYLES)])


def is_rendered(root: Path, piece: Piece) -> bool:
    return _audio_path(root, piece).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Write the clip: stereo MP3 of 44.1 kHz. Raises RunFailed when the synthesiser fails."""
    write_mp3(_audio_path(root, piece), piece, channels=2, sample_rate_hz=_SAMPLE_RATE_HZ, soundfont=soundfont)


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write the split list, the songs and, last, the ratings."""
    splits = {song_id(piece): split_of(piece.number, len(STYLES)) for piece in pieces}
    write_table(root / SPLIT_LIST, [("song_id", "split"), *((f"{song:04}", split) for song, split in splits.items())])
    columns = ("song_id", "file_name", "Artist", "Song title", *(column for _, column in START_END), "Genre", SET)
    write_table(root / SONGS, [columns, *(_song(piece, splits[song_id(piece)]) for piece in pieces)])
    rated = ((song_id(piece), *ratings(piece.score())) for piece in pieces)
    rows = [(song, f"{arousal:.4f}", "0.0000", f"{valence:.4f}", "0.0000") for song, arousal, valence in rated]
    header = ("song_id", "mean_arousal", "std_arousal", "mean_valence", "std_valence")
    write_table(root / RATINGS, [header, *rows])


def ratings(score: Score) -> tuple[float, float]:
    """Arousal and valence by the formulas of RENDERED_PROXIES, from 1 to 9."""
    velocities = [note.velocity for part in score.parts for note in part.notes]
    arousal = 5 + (score.tempo_bpm - 105) / 25 + (sum(velocities) / len(velocities) - 80) / 15
    valence = 5 + (2 if score.key.endswith("major") else -2) + (score.tempo_bpm - 105) / 50
    return min(9.0, max(1.0, arousal)), min(9.0, max(1.0, valence))


def song_id(piece: Piece) -> int:
    return _FIRST_ID + piece.number


def _song(piece: Piece, split: str) -> tuple[object, ...]:
    song, (minutes, seconds) = song_id(piece), divmod(round(piece.seconds), 60)
    published = "evaluation" if split == "test" else "development"
    title = f"Song {song} in {piece.key}"
    return song, f"{song}.mp3", "Sonograph", title, "0.00", f"{minutes}.{seconds:02}", piece.style, published


def _audio_path(root: Path, piece: Piece) -> Path:
    return root / CLIPS / f"{song_id(piece)}.mp3"
