"""AudioSet's music: segment lists, ontology, and the audio that a downloader left beside them; read and rendered.

Audio may lie in any folder. YTID.ext, Y<YTID>.ext and id_<YTID>.ext may hold the whole video and are then cut to the
segment; YTID_START.ext and YTID_START_END.ext (or START-END) in seconds or milliseconds are cut already.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
from pipelines.published.audio_files import EXTENSIONS, audio_files, path_text
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
from pipelines.published.segments import Segment, SegmentList, read_list, tag_reader
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
_STEM = re.compile(r"([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?)?", re.ASCII)
_PREFIXES = ("", "Y", "id_")
_NOTHING: dict[str, Any] = {}  # one for all: two million of them would take 120 MB
_IN_SECONDS, _IN_MILLISECONDS, _IN_WHOLE_SECONDS, _WHOLE_VIDEO = range(4)  # how well a name fits: the least is best


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
        tags_of = tag_reader(self._kept, self._classes, self._names)
        lists = [read_list(name, self.root, path, tags_of) for name, path in self._found_lists().items()]
        segments = sorted((segment for found in lists for segment in found.kept), key=itemgetter(0, 1))
        audio = audio_of(self.root, segments)
        missing = Counter(segment.listed for segment, found in zip(segments, audio, strict=True) if found is None)
        for found in lists:
            log.info("%s", _counts(found, self.below, missing[found.name]))
        if missing.total() == len(segments):
            raise DataProblem(_nothing_left(self.root, self.below, lists))
        return self._recordings(lists, segments, audio)

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
        self, lists: Sequence[SegmentList], segments: Sequence[Segment], audio: Sequence["AudioFile | None"]
    ) -> Iterator[Recording]:
        held_out = {segment.ytid for segment in segments if SPLIT_OF[segment.listed] == "test"}
        before = None
        for segment, found in zip(segments, audio, strict=True):
            split = self._split(segment.listed, segment.ytid)
            problem = _contradiction(segment, before, known_in_test=split != "test" and segment.ytid in held_out)
            yield _recording(segment, split, found, problem)
            before = segment
        for found_list in lists:
            for line, reason in found_list.unreadable.items():
                name = f"{found_list.name}--line-{line}"
                yield Recording(name, found_list.path, SPLIT_OF[found_list.name], problem=f"line {line}: {reason}")

    def _split(self, listed: str, ytid: str) -> str:
        split = SPLIT_OF[listed]
        if split == "train" and xxhash.xxh3_64_intdigest(ytid.encode()) < self.valid_share * 2**64:
            return "valid"
        return split


def _metadata(root: Path, name: str) -> Path | None:
    return next((path for folder in _FOLDERS if (path := root / folder / name).is_file()), None)


# Audio


class AudioFile(NamedTuple):
    """A file for a segment, as good as its sorting: by its name, then its container, then its path."""

    fit: int
    container: int
    path: str


def audio_of(root: Path, segments: Sequence[Segment]) -> list[AudioFile | None]:
    """The best file below `root` for each segment, from one walk through its folders. Segments are sorted by YTID."""
    first = {segments[position].ytid: position for position in range(len(segments) - 1, -1, -1)}
    best: list[AudioFile | None] = [None] * len(segments)
    strays = 0
    for path in audio_files(root):
        stem, _, extension = path.rpartition("/")[2].rpartition(".")
        fits = list(_fits(stem, segments, first))
        strays += not fits
        for fit, position in fits:
            file = AudioFile(fit, EXTENSIONS.index(extension.lower()), path)
            best[position] = min(file, best[position] or file)
    if strays:
        log.info("audioset  %d audio files are named after no kept segment", strays)
    return best


def _fits(stem: str, segments: Sequence[Segment], first: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Which segments a file name means, with how well it fits; a name with times means at most one."""
    for prefix in _PREFIXES:
        match = _STEM.fullmatch(stem, len(prefix)) if stem.startswith(prefix) else None
        if match is None or match[1] not in first:
            continue
        ytid, *times = match.groups()
        positions = _positions(ytid, segments, first)
        if times[0] is None:
            yield from ((_WHOLE_VIDEO, position) for position in positions)
        else:
            ranked = [(fit, position) for position in positions if (fit := _time_fit(times, segments[position])) >= 0]
            yield from sorted(ranked)[:1]


def _positions(ytid: str, segments: Sequence[Segment], first: Mapping[str, int]) -> Iterator[int]:
    position = first[ytid]
    while position < len(segments) and segments[position].ytid == ytid:
        yield position
        position += 1


def _time_fit(times: Sequence[str | None], segment: Segment) -> int:
    """How the start, or start and end, of a name state a segment's; -1 when they are another's."""
    said = [float(time) for time in times if time is not None]
    pairs = list(zip(said, (segment.start_ms, segment.end_ms), strict=False))
    if all(abs(1000 * time - wanted_ms) <= 1 for time, wanted_ms in pairs):
        return _IN_SECONDS
    if all(abs(time - wanted_ms) <= 1 for time, wanted_ms in pairs):
        return _IN_MILLISECONDS
    if all(time.is_integer() and 0 <= wanted_ms - 1000 * time < 1000 for time, wanted_ms in pairs):
        return _IN_WHOLE_SECONDS
    return -1


# Recordings


def _contradiction(segment: Segment, before: Segment | None, *, known_in_test: bool) -> str:
    if segment.end_ms <= segment.start_ms:
        return f"line {segment.line} ends it at {segment.end_ms / 1000} s, not after its start"
    if before is not None and before[:2] == segment[:2]:
        return f"line {before.line} of {before.listed} already lists a segment that starts there"
    if known_in_test:
        return "its video is in eval too: training on it would make the test known"
    return ""


def _recording(segment: Segment, split: str, found: AudioFile | None, problem: str) -> Recording:
    ytid, start_ms, end_ms, tags, listed, line = segment
    name = f"{ytid}_{start_ms}"
    path, unreadable = path_text(found.path) if found else (name, "")
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
    whole_video = (start_ms / 1000, end_ms / 1000) if found.fit == _WHOLE_VIDEO else None
    return Recording(name, path, split, labels, events=_NOTHING, segment=whole_video)


def _counts(found: SegmentList, kept_below: str, missing: int) -> str:
    kept = len(found.kept)
    return (
        f"audioset  {found.name}  {found.rows:,} segments  {kept:,} kept by --below {kept_below}  "
        f"{kept - missing:,} with audio  {missing:,} missing  {len(found.unreadable):,} unreadable lines"
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
    rows, kept = sum(found.rows for found in lists), sum(len(found.kept) for found in lists)
    return (
        f"Nothing of {root} is left: its lists have {rows:,} segments, --below {kept_below} removed {rows - kept:,}, "
        f"and of the other {kept:,} none has an audio file below {root}. Audio is found by its name: YTID.wav, "
        "YTID_30.wav, YTID_30000_40000.flac, Y<YTID>.mp3 and the like, in any folder."
    )
