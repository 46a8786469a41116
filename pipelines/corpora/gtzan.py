"""GTZAN: 1,000 tracks of 30 s in genres/GENRE/GENRE.NNNNN.wav, or .au as published, ten genres; read and rendered.

Read by the fault-filtered split, which leaves out 70 repeated, mislabelled and distorted tracks (Kereliuk, Sturm and
Larsen 2015): 443 / 197 / 290. jazz.00054 is among the others; some copies of the dataset hold it broken, and decoding
rejects it there. Where ROOT holds the beats of GTZAN-Rhythm, they become events.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pipelines.corpus import Kind
from pipelines.music.layouts.gtzan import (
    BEATS,
    GENRES,
    RENDERED_PROXIES,
    RENDERED_SIZES,
    SPLIT_LIST,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.published.annotations import read_beats
from pipelines.published.selection import NO_AUDIO, refuse_unfinished, selected
from pipelines.published.tables import Row, read_text, split_list
from pipelines.recording import Event, Recording, safe_id
from shards.problem import DataProblem

__all__ = ["RENDERED_PROXIES", "RENDERED_SIZES", "Corpus", "finish", "is_rendered", "planned", "render_piece"]

_FOLDERS = ("genres", "genres_original", "Data/genres_original", "")  # as published, as on Kaggle, and bare
_SUFFIXES = (".wav", ".au")
_NAME = re.compile(rf"({'|'.join(GENRES)})\.\d{{5}}")
_REMEDY = "Unpack genres.tar.gz of GTZAN into ROOT, so that there is ROOT/genres/blues/blues.00000.wav."


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder that holds genres/; a gtzan_split.csv (id, genre, split) in it is read in place of the published split"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        return {"genre": {"type": "int", "classes": list(GENRES)}}

    def events(self) -> Mapping[str, Kind]:
        """Beats with their position in the bar, 1 on the downbeat, where ROOT holds gtzan_tempo_beat-main/beats."""
        return {"beats": {"type": "int", "classes": None}} if (self.root / BEATS).is_dir() else {}

    def recordings(self) -> Iterator[Recording]:
        """Every track of the split, with its problem if it has one, sorted by split and id.

        Tracks that the split leaves out are counted only. Raises DataProblem when there is no folder of a genre, or
        nothing of the split is there.
        """
        refuse_unfinished(self.root, SPLIT_LIST)
        listed = split_list(self.root, SPLIT_LIST, key="id")
        rows = {name: row for name, row in listed.items() if row.fields["split"] != "excluded"}
        found = [self._recording(name, row) for name, row in rows.items()]
        strays = {name for name in self._audio.keys() - rows.keys() if not _NAME.fullmatch(name)}
        found += [self._stray(name) for name in strays]
        left_out = {"the split leaves them out": len(self._audio.keys() - rows.keys() - strays)}
        yield from selected(found, corpus="gtzan", root=self.root, left_out=left_out, remedy=_REMEDY)

    @cached_property
    def _audio(self) -> dict[str, str]:
        """Path of every audio file by its stem; of a .wav and an .au the .wav."""
        folder = next((name for name in _FOLDERS if any((self.root / name / genre).is_dir() for genre in GENRES)), None)
        if folder is None:
            raise DataProblem(f"{self.root} holds no folder of a genre, so there is no GTZAN to read. {_REMEDY}")
        paths = (path for genre in GENRES for path in (self.root / folder / genre).glob("*"))
        audio = sorted((path for path in paths if path.suffix in _SUFFIXES), key=lambda path: path.suffix)
        return {path.stem: path.relative_to(self.root).as_posix() for path in audio}

    def _recording(self, name: str, row: Row) -> Recording:
        genre, split = row.fields.get("genre", ""), row.fields["split"]
        path = self._audio.get(name, f"genres/{genre}/{name}.wav")
        recording_id = name.replace(".", "_")
        if not _NAME.fullmatch(name) or name.partition(".")[0] != genre:
            problem = f"its line in the split list is wrong: {name[:40]!r} is no track of {genre[:40]!r}"
            return Recording(safe_id(name), SPLIT_LIST, split, problem=problem)
        if name not in self._audio:
            return Recording(recording_id, path, split, problem=NO_AUDIO)
        try:
            events = self._events(name)
        except DataProblem as error:
            return Recording(recording_id, path, split, problem=f"its beats cannot be read: {error}"[:300])
        return Recording(recording_id, path, split, {"genre": GENRES.index(genre)}, events=events)

    def _events(self, name: str) -> dict[str, tuple[Event, ...]]:
        path = self.root / BEATS / f"gtzan_{name.replace('.', '_')}.beats"
        if not path.is_file():
            return {}
        return {"beats": read_beats(read_text(path, what="where its beats are"), source=path.name)}

    def _stray(self, name: str) -> Recording:
        return Recording(safe_id(name), self._audio[name], "train", problem="its name is not GENRE.NNNNN")
