"""AudioSet's music: segment lists, ontology, and the audio that a downloader left beside them; read and rendered.

Audio may lie in any folder. YTID.ext, Y<YTID>.ext and id_<YTID>.ext may hold the whole video and are then cut to the
segment; YTID_START.ext and YTID_START_END.ext (or START-END) in seconds or milliseconds are cut already.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import xxhash

from pipelines.corpus import Kind
from pipelines.music.layouts.audioset import (
    RENDERED_PROXIES,
    RENDERED_SIZES,
    counts,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.published.audio_files import path_text
from pipelines.published.ontology import (
    CLASSES,
    MUSIC,
    ONTOLOGY,
    PUBLISHED,
    SITE,
    below,
    read_children,
    read_class_names,
)
from pipelines.published.segment_audio import NO_FILE, WHOLE_VIDEO, SegmentAudio, audio_of
from pipelines.published.segments import SegmentList, Segments, TagReader, Tags, read_list, sorted_segments
from pipelines.recording import Label, Recording
from shards.problem import DataProblem, UsageProblem
from shards.words import nearest

__all__ = ["RENDERED_PROXIES", "RENDERED_SIZES", "Corpus", "counts", "finish", "is_rendered", "planned", "render_piece"]

log = logging.getLogger(__name__)

SPLIT_OF = {"balanced_train": "train", "unbalanced_train": "train", "eval": "test"}
"""The published lists, each a file LIST_segments.csv, and the split that it makes."""
EVERYTHING = "all"
MISSING = "no audio file is named after it"

_FOLDERS = ("", "metadata", "csv", "csvs", "meta", "data", "segments")  # where downloaders keep the lists
_NOTHING: dict[str, Any] = {}  # one for all that have none
_AT_A_TIME = 1 << 13


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with the segment lists, also in its metadata/ or csv/, and anywhere below it the audio"""
    below: str = MUSIC
    """keep segments with a label at or under this id of the ontology, which is Music; `all` keeps every one"""
    lists: tuple[str, ...] = tuple(SPLIT_OF)
    """lists to read where they are there: the trains make train and valid, eval makes test"""
    valid_share: float = 0.02
    """share of train's videos, by a hash of their YTID, that makes valid; AudioSet publishes none"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        """`tags` has a 0 or 1 for each kept class, in the published order; `mids` and `names` have every label."""
        return {
            "tags": {"type": "list[int]", "classes": [self._names[mid] for mid in self._classes]},
            "mids": {"type": "list[str]", "classes": None},
            "names": {"type": "list[str]", "classes": None},
            "ytid": {"type": "str", "classes": None},
            "start_seconds": {"type": "float", "classes": None},
            "list": {"type": "str", "classes": None},
        }

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every kept segment, sorted by YTID and start, then the lines that are no rows; missing audio is a problem.

        Raises DataProblem when there is no list, a file is not what it should be, or no segment has audio;
        UsageProblem for options without a meaning.
        """
        self._check_options()
        tags = TagReader(self._kept, self._classes, self._names)
        found = self._found_lists()
        read = [read_list(name, number, self.root, path, tags) for number, (name, path) in enumerate(found.items())]
        lists, parts = [one for one, _ in read], [part for _, part in read]
        read.clear()
        segments = sorted_segments(parts)
        audio = audio_of(self.root, segments)
        missing = np.bincount(segments.lists[audio.files == NO_FILE], minlength=len(lists)).tolist()
        for one, without in zip(lists, missing, strict=True):
            log.info("%s", _counts(one, self.below, without))
        if sum(missing) == len(segments):
            raise DataProblem(_nothing_left(self.root, self.below, lists))
        return self._recordings(lists, segments, audio, tags.combinations)

    @cached_property
    def _names(self) -> dict[str, str]:
        return read_class_names(_metadata(self.root, CLASSES) or PUBLISHED / CLASSES)

    @cached_property
    def _kept(self) -> Set[str] | None:
        """Ids at or under `below`; None for everything."""
        if self.below == EVERYTHING:
            return None
        path = _metadata(self.root, ONTOLOGY) or PUBLISHED / ONTOLOGY
        children = read_children(path)
        if self.below not in children:
            raise DataProblem(
                f"{path} has no {self.below}, so nothing can be said to lie at or under it. Put the whole {ONTOLOGY} "
                f"of AudioSet into {self.root} ({SITE}), or pass an id that is in it, or --below {EVERYTHING}."
            )
        return below(self.below, children)

    @cached_property
    def _classes(self) -> list[str]:
        return [mid for mid in self._names if self._kept is None or mid in self._kept]

    def _check_options(self) -> None:
        for name in self.lists:
            if name not in SPLIT_OF:
                raise UsageProblem(f"AudioSet has no list '{name}', so nothing was read. {nearest(name, SPLIT_OF)}")
        if not 0 <= self.valid_share < 1:
            raise UsageProblem(
                f"--valid-share is {self.valid_share}, so nothing was read: it is the part of train that becomes "
                "valid. Pass 0 or more and less than 1."
            )

    def _found_lists(self) -> dict[str, Path]:
        paths = {name: _metadata(self.root, f"{name}_segments.csv") for name in SPLIT_OF if name in self.lists}
        found = {name: path for name, path in paths.items() if path is not None}
        if not found:
            raise DataProblem(_no_list(self.root, list(paths)))
        return found

    def _recordings(
        self, lists: Sequence[SegmentList], segments: Segments, audio: SegmentAudio, combinations: Sequence[Tags]
    ) -> Iterator[Recording]:
        is_eval = np.array([SPLIT_OF[found.name] == "test" for found in lists])
        held_out = np.unique(segments.ytids[is_eval[segments.lists]])
        before: Segment | None = None
        for first in range(0, len(segments), _AT_A_TIME):
            some = slice(first, first + _AT_A_TIME)
            for segment in _segments(segments.at(some), lists, combinations, audio, some, held_out):
                split = self._split(segment.listed, segment.ytid)
                yield _recording(segment, split, _contradiction(segment, before, split))
                before = segment
        for found in lists:
            for line, reason in found.unreadable.items():
                name = f"{found.name}--line-{line}"
                yield Recording(name, found.path, SPLIT_OF[found.name], problem=f"line {line}: {reason}")

    def _split(self, listed: str, ytid: str) -> str:
        split = SPLIT_OF[listed]
        if split == "train" and xxhash.xxh3_64_intdigest(ytid.encode()) < self.valid_share * 2**64:
            return "valid"
        return split


def _metadata(root: Path, name: str) -> Path | None:
    return next((path for folder in _FOLDERS if (path := root / folder / name).is_file()), None)


# Recordings


class Segment(NamedTuple):
    """A row of a segment list, and the file that belongs to it."""

    ytid: str
    start_ms: int
    end_ms: int
    tags: Tags
    listed: str
    line: int
    path: str | None
    is_whole_video: bool
    is_in_eval: bool
    """Whether eval has a segment of its video."""


def _segments(
    some: Segments,
    lists: Sequence[SegmentList],
    combinations: Sequence[Tags],
    audio: SegmentAudio,
    places: slice,
    held_out: np.ndarray,
) -> Iterator[Segment]:
    """The rows behind some columns."""
    files, fits = audio.files[places].tolist(), audio.fits(places)
    return map(
        Segment,
        some.ytids.astype(str).tolist(),
        some.start_ms.tolist(),
        some.end_ms.tolist(),
        [combinations[number] for number in some.tags.tolist()],
        [lists[number].name for number in some.lists.tolist()],
        some.lines.tolist(),
        [None if file == NO_FILE else audio.paths[file] for file in files],
        (fits == WHOLE_VIDEO).tolist(),
        np.isin(some.ytids, held_out).tolist(),
    )


def _contradiction(segment: Segment, before: Segment | None, split: str) -> str:
    if segment.end_ms <= segment.start_ms:
        return f"line {segment.line} ends it at {segment.end_ms / 1000} s, not after its start"
    if before is not None and before[:2] == segment[:2]:
        return f"line {before.line} of {before.listed} already lists a segment that starts there"
    if split != "test" and segment.is_in_eval:
        return "its video is in eval too: training on it would make the test known"
    return ""


def _recording(segment: Segment, split: str, problem: str) -> Recording:
    ytid, start_ms, end_ms, tags, listed, line, found, is_whole_video, _ = segment
    name = f"{ytid}_{start_ms}"
    path, unreadable = path_text(found) if found else (name, "")
    if problem := problem or unreadable:
        return Recording(f"{name}--{listed}-{line}", path, split, problem=problem)
    if found is None:
        return Recording(name, path, split, _NOTHING, problem=MISSING, events=_NOTHING)
    labels: dict[str, Label] = {
        "tags": tags.flags,
        "mids": tags.mids,
        "names": tags.names,
        "ytid": ytid,
        "start_seconds": start_ms / 1000,
        "list": listed,
    }
    whole_video = (start_ms / 1000, end_ms / 1000) if is_whole_video else None
    return Recording(name, path, split, labels, events=_NOTHING, segment=whole_video)


def _counts(found: SegmentList, kept_below: str, missing: int) -> str:
    return (
        f"audioset  {found.name}  {found.rows:,} segments  {found.kept:,} kept by --below {kept_below}  "
        f"{found.kept - missing:,} with audio  {missing:,} missing  {len(found.unreadable):,} unreadable lines"
    )


def _no_list(root: Path, names: Iterable[str]) -> str:
    if (root / "rendered.json").is_file():
        return (
            f"Rendering {root} was interrupted: it has no segment list yet, so its clips have no labels. Repeat the "
            "command that renders it (its seed is in rendered.json); it makes what is missing."
        )
    files = ", ".join(f"{name}_segments.csv" for name in names)
    return (
        f"{root} holds none of {files or 'the lists (--lists names none)'}, nor do its metadata/ and csv/, so there is "
        f"no AudioSet to read. Check --root, download them ({SITE}), or render one there: sonograph render audioset "
        f"--out {root}"
    )


def _nothing_left(root: Path, kept_below: str, lists: Sequence[SegmentList]) -> str:
    rows, kept = sum(found.rows for found in lists), sum(found.kept for found in lists)
    return (
        f"Nothing of {root} is left: its lists have {rows:,} segments, --below {kept_below} removed {rows - kept:,}, "
        f"and of the other {kept:,} none has an audio file below {root}. Audio is found by its name: YTID.wav, "
        "YTID_30.wav, YTID_30000_40000.flac, Y<YTID>.mp3 and the like, in any folder."
    )
