"""Music with files of chords, beats or keys beside it, in the forms of Isophonics, Billboard and GTZAN-Rhythm.

    sonograph build annotated --root beatles --chords chordlab/{path}.lab --beats beat/{path}.txt
    sonograph build annotated --root billboard --chords McGill-Billboard/{name}/majmin.lab

Split by a hash of each file's path.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pipelines.corpora import folder
from pipelines.corpus import Kind
from pipelines.published.annotations import KEYS, NO_KEY, UNKNOWN_KEY, read_beats, read_chords, read_keys
from pipelines.published.selection import selected
from pipelines.published.tables import read_text
from pipelines.recording import Event, Recording
from shards.problem import DataProblem, UsageProblem

_READERS: dict[str, Callable[..., tuple[Event, ...]]] = {"chords": read_chords, "beats": read_beats, "keys": read_keys}
_KINDS: dict[str, Kind] = {
    "chords": {"type": "str", "classes": None},
    "beats": {"type": "int", "classes": None},
    "keys": {"type": "str", "classes": [*KEYS, NO_KEY, UNKNOWN_KEY]},
}


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder below which the audio lies"""
    chords: str = ""
    """chord file, relative to ROOT: {path} is the path of the audio without extension, {name} the last part of it"""
    beats: str = ""
    """beat file, likewise"""
    keys: str = ""
    """key file, likewise"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        return {}

    def events(self) -> Mapping[str, Kind]:
        """Chords as ROOT:QUALITY, "N" or "X"; beats as positions in the bar, 0 if unknown; keys as their names."""
        return {name: _KINDS[name] for name in self._patterns}

    def recordings(self) -> Iterator[Recording]:
        """Every audio file below the root, sorted by split and id; one that lacks an annotation has a problem.

        Raises UsageProblem when no kind of annotation is asked for, DataProblem when nothing can be used.
        """
        if not self._patterns:
            raise UsageProblem(
                "Neither --chords nor --beats nor --keys is given, so nothing would be annotated. Say where the files "
                "are, such as --chords chordlab/{path}.lab, or build the music without: sonograph build folder"
            )
        for option, pattern in self._patterns.items():
            if "{path}" not in pattern and "{name}" not in pattern:
                raise UsageProblem(
                    f"--{option} {pattern} is the same file for all audio, so nothing was read. Put {{path}} or "
                    "{name} where the audio's path without extension, or its last part, belongs."
                )
        found = (self._annotated(recording) for recording in folder.Corpus(self.root).recordings())
        remedy = f"Check {' '.join(f'--{option} {pattern}' for option, pattern in self._patterns.items())}."
        yield from selected(found, corpus="annotated", root=self.root, left_out={}, remedy=remedy)

    @property
    def _patterns(self) -> dict[str, str]:
        given = {"chords": self.chords, "beats": self.beats, "keys": self.keys}
        return {name: pattern for name, pattern in given.items() if pattern}

    def _annotated(self, recording: Recording) -> Recording:
        if recording.problem:
            return recording
        stem = PurePosixPath(recording.path).with_suffix("")
        events = {}
        for name, pattern in self._patterns.items():
            file = pattern.replace("{path}", str(stem)).replace("{name}", stem.name)
            if not (self.root / file).is_file():
                return replace(recording, problem=f"it has no {name}: there is no {file}"[:300])
            try:
                text = read_text(self.root / file, what=f"its {name}")
                events[name] = _READERS[name](text, source=file)
            except DataProblem as error:
                return replace(recording, problem=f"its {name} cannot be read: {error}"[:300])
        return replace(recording, events=events)
