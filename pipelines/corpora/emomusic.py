"""EmoMusic (1000 songs for emotional analysis): clips of 45 s in clips_45seconds/ID.mp3, arousal, valence; both ways.

Ratings are means of at least ten people on a scale of 1 to 9; `*_scaled` is (rating - 5) / 4, so -1 to 1. 744 songs
are annotated and are distinct. Split by artist 504 / 115 / 125 (jukeMIR), whose test is the published evaluation set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.corpus import Kind
from pipelines.music.layouts.emomusic import (
    CLIPS,
    RATINGS,
    RENDERED_PROXIES,
    RENDERED_SIZES,
    SET,
    SONGS,
    SPLIT_LIST,
    START_END,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.published.selection import NO_AUDIO, is_inside, refuse_unfinished, selected
from pipelines.published.tables import Row, by_key, read_rows, split_list
from pipelines.recording import Recording, safe_id
from shards.problem import DataProblem

__all__ = ["RENDERED_PROXIES", "RENDERED_SIZES", "Corpus", "finish", "is_rendered", "planned", "render_piece"]

_FOLDERS = ("", "annotations")
_MEANS = {"arousal": "mean_arousal", "valence": "mean_valence"}
_SPLIT_OF_SET = {"development": "train", "evaluation": "test"}
_REMEDY = "Unpack annotations.tar.gz and clips_45sec.tar.gz of EmoMusic into ROOT, so that there is ROOT/" + CLIPS + "."


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with clips_45seconds/, static_annotations.csv and songs_info.csv (these two also in annotations/)"""
    split: Literal["artists", "published"] = "artists"
    """artists: jukeMIR's, or emomusic_split.csv in ROOT; published: development is train, evaluation is test"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        names = ("arousal", "valence", "arousal_scaled", "valence_scaled", *(name for name, _ in START_END))
        return {name: {"type": "float", "classes": None} for name in names} | {
            "genre": {"type": "str", "classes": None}
        }

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every song with ratings, with its problem if it has one, and every clip without; sorted by split and id.

        Raises DataProblem when a table cannot be read or nothing can be used.
        """
        refuse_unfinished(self.root, RATINGS)
        columns = ("song_id", *_MEANS.values())
        ratings = list(read_rows(self._table(RATINGS), what="arousal and valence", columns=columns))
        columns = ("song_id", "file_name", "Genre", SET, *(column for _, column in START_END))
        songs = by_key(read_rows(self._table(SONGS), what="which song is which", columns=columns), "song_id")
        found = [self._recording(row, songs.get(row.fields["song_id"])) for row in ratings]
        rated = {row.fields["song_id"] for row in ratings}
        found += [
            Recording(_id_of(Path(name).stem), f"{CLIPS}/{name}", "train", problem=f"{RATINGS} does not list it")
            for name in self._audio
            if Path(name).stem not in rated
        ]
        yield from selected(found, corpus="emomusic", root=self.root, left_out={}, remedy=_REMEDY)

    def _table(self, name: str) -> Path:
        return next((path for folder in _FOLDERS if (path := self.root / folder / name).is_file()), self.root / name)

    @cached_property
    def _audio(self) -> frozenset[str]:
        if not (self.root / CLIPS).is_dir():
            raise DataProblem(f"{self.root / CLIPS} is no folder, so no song can be heard. {_REMEDY}")
        return frozenset(path.name for path in (self.root / CLIPS).iterdir() if path.suffix == ".mp3")

    @cached_property
    def _splits(self) -> dict[str, str]:
        if self.split == "published":
            return {}
        return {
            _id_of(name): row.fields["split"] for name, row in split_list(self.root, SPLIT_LIST, key="song_id").items()
        }

    def _recording(self, row: Row, song: Row | None) -> Recording:
        name = row.fields["song_id"]
        path = f"{CLIPS}/{name}.mp3"
        if problem := row.problem or _unusable(row, song):
            return Recording(_id_of(name), RATINGS, "train", problem=problem)
        assert song is not None
        published = _SPLIT_OF_SET[song.fields[SET]]
        split = published if self.split == "published" else self._splits.get(_id_of(name), "")
        if split in {"", "excluded"}:
            return Recording(_id_of(name), path, published, problem="the split list does not name it")
        if f"{name}.mp3" not in self._audio:
            return Recording(_id_of(name), path, split, problem=NO_AUDIO)
        means = {label: float(row.fields[column]) for label, column in _MEANS.items()}
        scaled = {f"{label}_scaled": (mean - 5) / 4 for label, mean in means.items()}
        segment = {label: min_sec(song.fields[column]) for label, column in START_END}
        return Recording(_id_of(name), path, split, {**means, **scaled, **segment, "genre": song.fields["Genre"]})


def min_sec(text: str) -> float:
    """Seconds of a time in EmoMusic's "min.sec": 1.2 is 1 min 20 s, a table program having dropped the last 0."""
    minutes, _, seconds = text.partition(".")
    if not (minutes.isdecimal() and (not seconds or seconds.isdecimal()) and int(seconds.ljust(2, "0")) < 60):
        raise ValueError(f"{text[:20]!r} is no time in minutes and seconds")
    return 60.0 * int(minutes) + int(seconds.ljust(2, "0"))


def _id_of(song_id: str) -> str:
    return f"{int(song_id):04}" if song_id.isdecimal() and song_id.isascii() else safe_id(song_id)


def _unusable(row: Row, song: Row | None) -> str:
    name = row.fields["song_id"]
    if not name.isdecimal():
        return f"its song_id is no number: {name[:40]!r}"
    if song is None:
        return f"{SONGS} does not list it"
    if song.problem:
        return song.problem
    if not is_inside(song.fields["file_name"]) or song.fields["file_name"] != f"{name}.mp3":
        return f"its file_name is not that of its song_id: {song.fields['file_name'][:80]!r}"
    if song.fields[SET] not in _SPLIT_OF_SET:
        return f"its set is neither development nor evaluation: {song.fields[SET][:40]!r}"
    try:
        means = [float(row.fields[column]) for column in _MEANS.values()]
        start, end = (min_sec(song.fields[column]) for _, column in START_END)
    except ValueError as error:
        return f"a number of its row is none: {error}"
    if not all(1 <= mean <= 9 for mean in means):
        return f"its ratings are not from 1 to 9: {means}"
    return "" if start < end else f"its segment ends before it begins: {start} s to {end} s"
