"""MagnaTagATune: 25,863 clips of 29 s in folders 0 to f, 188 tags by players of a game; read and rendered.

Labelled with the 50 most frequent tags, as usual, and split by folder, as usual: 0 to b train, c valid, d to f test.
Three clips are published as empty files. With clips that have none of the 50 tags (the default, as in jukeMIR and the
Myna paper) that gives 18,706 / 1,825 / 5,329, without them (as in Lee et al. 2017 and others) 15,247 / 1,529 / 4,332.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.corpus import Kind
from pipelines.music.layouts.magnatagatune import (
    ALL_TAGS,
    ANNOTATIONS,
    CLIPS,
    RENDERED_PROXIES,
    RENDERED_SIZES,
    TAGS,
    finish,
    is_rendered,
    planned,
    render_piece,
    split_of,
)
from pipelines.published.selection import MARKER, NO_AUDIO, is_inside, refuse_unfinished, selected
from pipelines.published.tables import Row, by_key, read_rows, split_list
from pipelines.recording import Recording, safe_id
from shards.problem import DataProblem

__all__ = ["RENDERED_PROXIES", "RENDERED_SIZES", "Corpus", "finish", "is_rendered", "planned", "render_piece"]

log = logging.getLogger(__name__)

CORRUPT = ("35644", "55753", "57881")
SPLIT_LIST = "magnatagatune_split.csv"

_FOLDERS = ("", "mp3")
_DIGITS = "0123456789abcdef"
_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg")
_ALL_TAGS = frozenset(ALL_TAGS)
_PATH = re.compile(r"[0-9a-f]/[^/]+")
_REMEDY = "Join mp3.zip.001 to .003 of MagnaTagATune and unpack them into ROOT, so that there are ROOT/0 to ROOT/f."


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with annotations_final.csv, clip_info_final.csv and the folders 0 to f (these also in mp3/)"""
    untagged: Literal["keep", "drop"] = "keep"
    """clips without any of the 50 tags"""
    split: Literal["folders", "list"] = "folders"
    """folders: by the clip's folder; list: by magnatagatune_split.csv (clip_id, split) in ROOT, without the others"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        """One label: 0 or 1 for each of the 50 tags, in the usual order."""
        return {"tags": {"type": "list[int]", "classes": list(TAGS)}}

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every annotated clip, with its problem if it has one, and every file that no table lists; by split and id.

        Raises DataProblem when a table cannot be read or nothing can be used.
        """
        refuse_unfinished(self.root, ANNOTATIONS)
        found, left_out, counts, listed = [], Counter[str](), Counter[str](), set()
        for row in self._rows(ANNOTATIONS, "the tags of every clip", TAGS):
            listed.add(row.fields["mp3_path"])
            counts.update(tag for tag, given in row.fields.items() if given == "1" and tag in _ALL_TAGS)
            recording = self._recording(row)
            if rule := "" if recording.problem else self._rule_against(recording):
                left_out[rule] += 1
            else:
                found.append(recording)
        self._compare(counts)
        unlisted = self._audio.keys() - listed
        not_annotated = unlisted & {*self._clip_paths.values()}
        left_out["nobody tagged them"] = len(not_annotated)
        found += [self._stray(path) for path in unlisted - not_annotated]
        yield from selected(found, corpus="magnatagatune", root=self.root, left_out=left_out, remedy=_REMEDY)

    def _rows(self, name: str, what: str, columns: Sequence[str]) -> Iterator[Row]:
        return read_rows(self.root / name, what=what, columns=("clip_id", *columns, "mp3_path"), delimiter="\t")

    @cached_property
    def _clip_paths(self) -> dict[str, str]:
        rows = by_key(self._rows(CLIPS, "which clip is which", ("segmentStart", "segmentEnd")), "clip_id")
        return {_id_of(name): row.fields["mp3_path"] for name, row in rows.items() if not row.problem}

    @cached_property
    def _audio(self) -> dict[str, str]:
        """Path of every file below the folders 0 to f, by the path that the tables give it."""
        folder = next(
            (name for name in _FOLDERS if any((self.root / name / digit).is_dir() for digit in _DIGITS)), None
        )
        if folder is None:
            raise DataProblem(f"{self.root} holds none of the folders 0 to f, so no clip can be heard. {_REMEDY}")
        paths = (path for digit in _DIGITS for path in (self.root / folder / digit).glob("*"))
        audio = (path for path in paths if path.suffix in _SUFFIXES)
        return {f"{path.parent.name}/{path.name}": path.relative_to(self.root).as_posix() for path in audio}

    @cached_property
    def _splits(self) -> dict[str, str]:
        if self.split == "folders":
            return {}
        listed = split_list(self.root, SPLIT_LIST, key="clip_id")
        return {_id_of(name): row.fields["split"] for name, row in listed.items()}

    def _recording(self, row: Row) -> Recording:
        clip, path = row.fields["clip_id"], row.fields["mp3_path"]
        if problem := row.problem or _unusable(row):
            return Recording(_id_of(clip), ANNOTATIONS, "train", problem=problem)
        in_list = self._splits.get(_id_of(clip), "excluded")
        split = split_of(path) if self.split == "folders" or in_list == "excluded" else in_list
        problem = ""
        if clip.lstrip("0") in CORRUPT:
            problem = "it is published as an empty file"
        elif self._clip_paths.get(_id_of(clip)) != path:
            problem = f"{CLIPS} does not give it the same mp3_path: {path[:80]!r}"
        elif path not in self._audio:
            problem = NO_AUDIO
        labels = {} if problem else {"tags": tuple(int(row.fields[tag]) for tag in TAGS)}
        return Recording(_id_of(clip), self._audio.get(path, path), split, labels, problem=problem)

    def _rule_against(self, recording: Recording) -> str:
        if self.untagged == "drop" and not any(recording.labels["tags"]):  # type: ignore[arg-type]
            return "they have none of the 50 tags"
        is_listed = self._splits.get(recording.recording_id, "excluded") != "excluded"
        return "" if self.split == "folders" or is_listed else "the split list leaves them out"

    def _stray(self, path: str) -> Recording:
        problem = f"neither {ANNOTATIONS} nor {CLIPS} lists it"
        return Recording(safe_id(path), self._audio[path], split_of(path), problem=problem)

    def _compare(self, counts: Mapping[str, int]) -> None:
        """Say it when the 50 most frequent tags of this copy are not the usual ones; labels are those all the same."""
        # Only a tag that is truly more frequent counts: ties at the 50th place may fall either way.
        least = min(counts[tag] for tag in TAGS)
        others = [tag for tag in ALL_TAGS if tag not in TAGS and counts[tag] > least]
        if others and not (self.root / MARKER).is_file():
            log.warning(
                "%s  is not the whole published table: %s are more frequent in it than the rarest of the usual 50 "
                "tags. Labels are the usual 50 all the same.", self.root / ANNOTATIONS, ", ".join(others[:5]),
            )  # fmt: skip


def _id_of(clip: str) -> str:
    return f"{int(clip):05}" if clip.isdecimal() and clip.isascii() else safe_id(clip)


def _unusable(row: Row) -> str:
    clip, path = row.fields["clip_id"], row.fields["mp3_path"]
    if not clip.isdecimal():
        return f"its clip_id is no number: {clip[:40]!r}"
    if not is_inside(path) or not _PATH.fullmatch(path):
        return f"its mp3_path is not FOLDER/NAME with a folder of 0 to f: {path[:80]!r}"
    wrong = next((tag for tag in TAGS if row.fields[tag] not in {"0", "1"}), "")
    return f"a tag is neither 0 nor 1: {wrong} is {row.fields[wrong][:20]!r}" if wrong else ""
