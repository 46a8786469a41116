"""Which audio file belongs to which segment, by the names that downloaders give; all in columns, 40 bytes a segment."""

import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pipelines.published.audio_files import EXTENSIONS, audio_files
from pipelines.published.segments import YTID, Segments

log = logging.getLogger(__name__)

NO_FILE = -1
IN_SECONDS, IN_MILLISECONDS, IN_WHOLE_SECONDS, WHOLE_VIDEO, _ANOTHERS = range(5)  # how well a name fits: best first

_STEM = re.compile(r"([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?)?", re.ASCII)
_CONTAINERS = {extension: place for place, extension in enumerate(EXTENSIONS)}
_PREFIXES = ("", "Y", "id_")
_AT_A_TIME = 1 << 16
_NO_RANK = np.iinfo(np.int16).max


class Paths:
    """Paths by number: a name takes the bytes of its letters and 12 more, a folder is kept once."""

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}
        self._homes, self._ends, self._names = array("i"), array("q", [0]), bytearray()
        self._by_number: list[str] = []

    def add(self, path: str) -> int:
        folder, slash, name = path.rpartition("/")
        home = self._folders.setdefault(folder + slash, len(self._folders))
        if home == len(self._by_number):
            self._by_number.append(folder + slash)
        self._homes.append(home)
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))
        return len(self._homes) - 1

    def __getitem__(self, number: int) -> str:
        name = self._names[self._ends[number] : self._ends[number + 1]]
        return self._by_number[self._homes[number]] + os.fsdecode(bytes(name))


class SegmentAudio:
    """The best file of each segment: by its name, then its container, then its path."""

    def __init__(self, segments: Segments) -> None:
        self.paths = Paths()
        self.files: Int[np.ndarray, " segments"] = np.full(len(segments), NO_FILE, np.int32)
        """Numbers in `paths`; NO_FILE where there is none."""
        self._ranks = np.full(len(segments), _NO_RANK, np.int16)
        self._segments = segments

    def fits(self, places: np.ndarray | slice) -> np.ndarray:
        """How well the names of these segments' files fit: IN_SECONDS to WHOLE_VIDEO."""
        return self._ranks[places] // len(EXTENSIONS)

    def add(self, paths: Sequence[str]) -> int:
        """Consider some files; returns how many belong to no segment."""
        meant = list(_meant(paths))
        file, ytids, start, end = zip(*meant, strict=True) if meant else ((), (), (), ())
        files, ytid = np.array(file, np.int64), np.array(ytids, YTID)
        first = np.searchsorted(self._segments.ytids, ytid)
        count = np.searchsorted(self._segments.ytids, ytid, side="right") - first
        name = np.repeat(np.arange(len(files)), count)  # each name stands beside every segment of its video
        place = np.arange(len(name)) - np.repeat(np.cumsum(count) - count, count) + first[name]
        fit = _fit(np.array(start, float)[name], np.array(end, float)[name], self._segments.at(place))
        best = np.full(len(files), _ANOTHERS)
        np.minimum.at(best, name, fit)
        is_taken = (fit < _ANOTHERS) & (fit == best[name])
        # A name with times means the first of the segments that it fits best; one without means all of them.
        is_taken &= (fit == WHOLE_VIDEO) | _is_first(np.where(is_taken, name, -1))
        self._take(paths, files[name[is_taken]], place[is_taken], fit[is_taken])
        return len(paths) - len(np.unique(files[name[is_taken]]))

    def _take(self, paths: Sequence[str], files: np.ndarray, places: np.ndarray, fits: np.ndarray) -> None:
        """Give files to segments, unless those have a better one; `files` are places in `paths`."""
        wanted, file = np.unique(files, return_inverse=True)
        names = [paths[place] for place in wanted.tolist()]
        numbers = np.array([self.paths.add(name) for name in names], np.int32)
        container = np.array([_CONTAINERS[name.rpartition(".")[2].lower()] for name in names], np.int16)
        ranks = (fits * len(EXTENSIONS) + container[file]).astype(np.int16)
        _, segment, count = np.unique(places, return_inverse=True, return_counts=True)
        is_better = (count[segment] == 1) & (ranks < self._ranks[places])
        self.files[places[is_better]], self._ranks[places[is_better]] = numbers[file[is_better]], ranks[is_better]
        for one in np.flatnonzero(~is_better & (ranks <= self._ranks[places])):
            place, number, rank = places[one], int(numbers[file[one]]), ranks[one]
            is_first = rank == self._ranks[place] and self.paths[number] < self.paths[int(self.files[place])]
            if rank < self._ranks[place] or is_first:
                self.files[place], self._ranks[place] = number, rank


def audio_of(root: Path, segments: Segments) -> SegmentAudio:
    """The best file below `root` for each segment, from one walk through its folders. Segments are sorted by YTID."""
    audio, strays = SegmentAudio(segments), 0
    for paths in _batches(audio_files(root)):
        strays += audio.add(paths)
    if strays:
        log.info("audioset  %d audio files are named after no kept segment", strays)
    return audio


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(paths)
    while some := list(islice(waiting, _AT_A_TIME)):
        yield some


def _meant(paths: Sequence[str]) -> Iterator[tuple[int, str, float | None, float | None]]:
    """What each name may say: the place of its path, a YTID, a start and an end."""
    for place, path in enumerate(paths):
        stem = path.rpartition("/")[2].rpartition(".")[0]
        for prefix in _PREFIXES:
            if stem.startswith(prefix) and (match := _STEM.fullmatch(stem, len(prefix))):
                ytid, start, end = match.groups()
                yield place, ytid, None if start is None else float(start), None if end is None else float(end)


def _fit(start: np.ndarray, end: np.ndarray, segments: Segments) -> np.ndarray:
    """How the start, or start and end, of names state those of the segments beside them; NaN is what a name omits."""
    pairs = [(start, segments.start_ms), (end, segments.end_ms)]
    said = [np.isnan(time) for time, _ in pairs]
    seconds, milliseconds, whole = (
        [omitted | states(time, wanted_ms) for omitted, (time, wanted_ms) in zip(said, pairs, strict=True)]
        for states in (_in_seconds, _in_milliseconds, _in_whole_seconds)
    )
    fits = [np.logical_and(*both) for both in (seconds, milliseconds, whole)]
    return np.select([said[0], *fits], [WHOLE_VIDEO, IN_SECONDS, IN_MILLISECONDS, IN_WHOLE_SECONDS], _ANOTHERS)


def _in_seconds(time: np.ndarray, wanted_ms: np.ndarray) -> np.ndarray:
    return np.abs(1000 * time - wanted_ms) <= 1


def _in_milliseconds(time: np.ndarray, wanted_ms: np.ndarray) -> np.ndarray:
    return np.abs(time - wanted_ms) <= 1


def _in_whole_seconds(time: np.ndarray, wanted_ms: np.ndarray) -> np.ndarray:
    """A start between whole seconds is found under its whole second."""
    rest_ms = wanted_ms - 1000 * time
    return (time == np.floor(time)) & (rest_ms >= 0) & (rest_ms < 1000)


def _is_first(names: np.ndarray) -> np.ndarray:
    first = np.zeros(len(names), bool)
    first[np.unique(names, return_index=True)[1]] = True
    return first
