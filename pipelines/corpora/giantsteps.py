"""GiantSteps keys: giantsteps-key-dataset (604 tracks, test) and giantsteps-mtg-key-dataset (1,486, train and valid).

Electronic dance music, previews of two minutes in DATASET/audio/ID.LOFI.mp3 (or .wav). Of the MTG set only confident
single keys are used (C is 2, no "/"; Korzeniowski and Widmer 2018): 923 train and 236 valid, split by artist (jukeMIR).
Classes are 12 majors from C upwards, then 12 minors. Read and rendered.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.corpus import Kind
from pipelines.music.layouts.giantsteps import (
    ANNOTATIONS,
    RENDERED_PROXIES,
    RENDERED_SIZES,
    SPLIT_LIST,
    TEST_SET,
    TRAIN_SET,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.published.annotations import KEYS, key_name
from pipelines.published.selection import NO_AUDIO, refuse_unfinished, selected
from pipelines.published.tables import Row, read_rows, read_text, split_list
from pipelines.recording import Recording, safe_id
from shards.problem import DataProblem

__all__ = ["RENDERED_PROXIES", "RENDERED_SIZES", "Corpus", "finish", "is_rendered", "planned", "render_piece"]

_CONFIDENT = "2"
_REMEDY = (
    f"Clone https://github.com/GiantSteps/{TEST_SET} and https://github.com/GiantSteps/{TRAIN_SET} into ROOT and put "
    "the audio into the audio folder of each (audio_dl.sh)."
)


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with giantsteps-key-dataset and giantsteps-mtg-key-dataset, or with one of them"""
    split: Literal["artists", "datasets"] = "artists"
    """artists: jukeMIR's, or giantsteps_split.csv in ROOT; datasets: all of the MTG set is train, there is no valid"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        return {"key": {"type": "int", "classes": list(KEYS)}}

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every annotated track, with its problem if it has one, sorted by split and id; doubtful keys are counted.

        Raises DataProblem when neither dataset is there, a table cannot be read, or nothing can be used.
        """
        refuse_unfinished(self.root, f"{TRAIN_SET}/{ANNOTATIONS}")
        found: list[Recording] = []
        left_out = Counter[str]()
        test, train = self._folder(TEST_SET), self._folder(TRAIN_SET)
        if test is None and train is None:
            raise DataProblem(f"{self.root} holds neither {TEST_SET} nor {TRAIN_SET}, so there are no keys. {_REMEDY}")
        if test is not None:
            found += self._test_recordings(test)
        if train is not None:
            rows = list(_annotations(train))
            left_out.update(rule for row in rows if (rule := _doubt(row)))
            found += [self._train_recording(train, row) for row in rows if not _doubt(row)]
            found += _strays(train, self._train_audio, {row.fields["ID"] for row in rows})
        yield from selected(found, corpus="giantsteps", root=self.root, left_out=left_out, remedy=_REMEDY)

    def _folder(self, name: str) -> Path | None:
        """The dataset's folder; an archive of GitHub unpacks as NAME-BRANCH or NAME-COMMIT."""
        folders = sorted(path for path in self.root.glob(f"{name}*") if (path / "annotations").is_dir())
        if len(folders) > 1:
            raise DataProblem(
                f"{self.root} holds {len(folders)} copies of {name} ({', '.join(path.name for path in folders)}), so "
                "it is not clear which one is meant. Leave one of them there."
            )
        return folders[0] if folders else None

    @cached_property
    def _splits(self) -> dict[str, str]:
        if self.split == "datasets":
            return {}
        return {
            _id_of(name): row.fields["split"] for name, row in split_list(self.root, SPLIT_LIST, key="audio_id").items()
        }

    def _test_recordings(self, folder: Path) -> Iterator[Recording]:
        audio = _audio(folder)
        paths = (folder / "annotations" / "key").glob("*.LOFI.key")
        keys = {path.name.removesuffix(".LOFI.key"): path for path in paths}
        for name, path in keys.items():
            try:
                key = read_text(path, what="its key")
            except DataProblem as error:
                problem = f"its key cannot be read: {error}"[:300]
                yield Recording(_id_of(name), path.relative_to(self.root).as_posix(), "test", problem=problem)
            else:
                yield self._recording(folder, audio.get(name, ""), name, key, "test")
        yield from _strays(folder, audio, keys.keys())

    def _train_recording(self, folder: Path, row: Row) -> Recording:
        name = row.fields["ID"]
        split = "train" if self.split == "datasets" else self._splits.get(_id_of(name), "")
        if row.problem or not name.isdecimal() or split in {"", "excluded"}:
            problem = row.problem or f"the split list does not name it: {name[:40]!r}"
            return Recording(_id_of(name), f"{folder.name}/{ANNOTATIONS}", "train", problem=problem)
        return self._recording(folder, self._train_audio.get(name, ""), name, row.fields["MANUAL KEY"], split)

    @cached_property
    def _train_audio(self) -> dict[str, str]:
        folder = self._folder(TRAIN_SET)
        return {} if folder is None else _audio(folder)

    def _recording(self, folder: Path, file: str, name: str, key: str, split: str) -> Recording:
        path = f"{folder.name}/audio/{file or f'{name}.LOFI.mp3'}"
        try:
            label = KEYS.index(key_name(key))
        except ValueError as error:
            return Recording(_id_of(name), path, split, problem=f"its key is none of the 24: {error}")
        if not file:
            return Recording(_id_of(name), path, split, problem=NO_AUDIO)
        return Recording(_id_of(name), path, split, {"key": label})


def _annotations(folder: Path) -> Iterator[Row]:
    path = folder / ANNOTATIONS
    return read_rows(path, what="the keys of the MTG set", columns=("ID", "MANUAL KEY", "C"), delimiter="\t")


def _strays(folder: Path, audio: Mapping[str, str], annotated: Set[str]) -> Iterator[Recording]:
    split = "test" if folder.name.startswith(TEST_SET) else "train"
    for name in audio.keys() - annotated:
        path = f"{folder.name}/audio/{audio[name]}"
        yield Recording(_id_of(name), path, split, problem="no key is annotated for it")


def _doubt(row: Row) -> str:
    """The rule by which a row of the MTG set is left out; empty for a confident single key."""
    if row.problem:
        return ""
    if row.fields["C"] != _CONFIDENT:
        return "the annotator was not confident"
    return "it has several keys" if "/" in row.fields["MANUAL KEY"] else ""


def _audio(folder: Path) -> dict[str, str]:
    """File name by id; of an .mp3 and a .wav the .mp3."""
    names = sorted((path.name for path in (folder / "audio").glob("*.LOFI.*")), reverse=True)
    kept = [name for name in names if name.endswith((".mp3", ".wav"))]
    return {name.partition(".LOFI.")[0]: name for name in kept}


def _id_of(name: str) -> str:
    return f"{int(name):07}" if name.isdecimal() and name.isascii() else safe_id(name)
