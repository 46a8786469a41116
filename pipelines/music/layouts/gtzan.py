"""Tracks rendered in the layout of GTZAN, and what that layout calls things.

They are numbered from 500; the published ones end at 99 in each genre. About 25 s of music a second and core.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.music.layouts.tracks import Piece, pieces, split_of, write, write_table
from pipelines.music.performance import play_score
from pipelines.music.score import Score
from pipelines.music.synthesis import wav_of

RENDERED_SIZES = {"tracks": 100}
RENDERED_PROXIES = {
    "genre": "the style that the composer's rules wrote the track in, under GTZAN's name; nobody judged it to be of it",
}
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
SPLIT_LIST = "gtzan_split.csv"
BEATS = "gtzan_tempo_beat-main/beats"
"""Where GTZAN-Rhythm (TempoBeatDownbeat/gtzan_tempo_beat) unpacks its gtzan_GENRE_NNNNN.beats."""

_SECONDS = 30.0
_SAMPLE_RATE_HZ = 22_050
_FIRST_NUMBER = 500


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """Genres even, half train. Raises UsageProblem when so many tracks cannot be had."""
    return pieces("gtzan", size, seed=seed, seconds=_SECONDS, style_of=lambda number: GENRES[number % len(GENRES)])


def is_rendered(root: Path, piece: Piece) -> bool:
    return _audio_path(root, piece).is_file()


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Write the beats, then the track: mono, 22,050 Hz, 16 bits. Raises RunFailed when the synthesiser fails."""
    score = piece.score()
    beats = zip(score.beats, _positions(score), strict=True)
    lines = "".join(f"{seconds:.6f}\t{position}\n" for seconds, position in beats)
    write(root / BEATS / f"gtzan_{name_of(piece).replace('.', '_')}.beats", lines.encode())
    sound = play_score(score, sample_rate_hz=_SAMPLE_RATE_HZ, soundfont=soundfont).mean(axis=0)
    peak = float(abs(sound).max())
    write(_audio_path(root, piece), wav_of(sound, peak=peak, sample_rate_hz=_SAMPLE_RATE_HZ))


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write the split list, in the form of the one that ships for the published tracks."""
    rows = [(name_of(piece), piece.style, split_of(piece.number, len(GENRES))) for piece in pieces]
    write_table(root / SPLIT_LIST, [("id", "genre", "split"), *sorted(rows)])


def name_of(piece: Piece) -> str:
    return f"{piece.style}.{_FIRST_NUMBER + piece.number:05}"


def _positions(score: Score) -> list[int]:
    """Of every beat in its bar, 1 on the downbeat."""
    pickup = sum(beat < score.downbeats[0] for beat in score.beats)
    return [(place - pickup) % score.beats_per_bar + 1 for place in range(len(score.beats))]


def _audio_path(root: Path, piece: Piece) -> Path:
    return root / "genres" / piece.style / f"{name_of(piece)}.wav"
