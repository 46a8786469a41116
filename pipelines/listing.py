"""What lies behind a corpus' recordings: files that are not there, and lengths that only their headers tell.

A stream: some hundred thousand recordings are in memory, and 20 bytes of each one before them. Some 10 us a recording.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pipelines.corpus import Corpus, Kind
from pipelines.fingerprints import Fingerprints
from pipelines.headers import Headers
from pipelines.presence import Presence
from pipelines.recording import SPLITS, Label, Recording, safe_id
from pipelines.source import Tree, paths_of

_ROUND_RECORDINGS, _MOST_RECORDINGS = 1 << 17, 1 << 19  # a round has work for every worker, and takes 700 bytes each
_MOST_REMEMBERED = 1 << 14


def listed(corpus: Corpus, *, tree: Tree, kept: Path, workers: int, is_cut: bool) -> Generator[Recording, None, None]:
    """Everything the corpus lists, each with the problem for which it cannot be used, or with its length if `is_cut`.

    Where nothing is cut, lengths that the corpus does not state stay open: decoding finds more than headers promise.
    `kept` is the folder that keeps what headers say. Raises DataProblem when the corpus cannot be read.
    """
    recordings = corpus.recordings()
    sound = _Sound(corpus.labels(), corpus.events())
    presence = Presence(tree)
    round_recordings = min(max(_ROUND_RECORDINGS, workers * 20_000), _MOST_RECORDINGS)
    with Headers(tree, kept=kept, workers=workers) as headers:
        while some := list(islice(recordings, round_recordings)):
            found = _present(sound(some), presence)
            unknown = [place for place, one in enumerate(found) if one.seconds is None and not one.problem]
            answers = headers.answers([paths_of(found[place])[0] for place in unknown])
            for place, answer in zip(unknown, answers, strict=True):
                found[place] = _measured(found[place], answer, is_cut)
            yield from found
        headers.keep()


class _Sound:
    """Every id once, every label of its declared type: what is not gets a problem, before anything relies on it."""

    def __init__(self, labels: Mapping[str, Kind], events: Mapping[str, Kind]) -> None:
        self._labels = {name: str(kind["type"]) for name, kind in labels.items()}
        self._texts = {name for name, kind in self._labels.items() if kind == "str"}
        self._events = {name: str(kind["type"]) for name, kind in events.items()}
        self._ids = Fingerprints()
        self._count = 0
        self._remembered: dict[int, tuple[object, str]] = {}

    def __call__(self, recordings: Sequence[Recording]) -> list[Recording]:
        checked = [self._labelled(recording) for recording in recordings]
        names = [recording.recording_id for recording in recordings]
        is_good = self._ids.add(names)[1] & [safe_id(name) == name for name in names]
        for place in (~is_good).nonzero()[0].tolist():
            one = recordings[place]
            name = safe_id(f"{one.recording_id} of {one.path} {self._count + place}")
            checked[place] = _rejected(one, one.problem or "its id is listed twice or is none", name)
        self._count += len(names)
        return checked

    def _labelled(self, recording: Recording) -> Recording:
        if recording.split not in SPLITS:
            raise AssertionError(f"{recording} is in no split; the corpus file must name one of {SPLITS}")
        problem = self._label_problem(recording.labels) or self._event_problem(recording)
        return _rejected(recording, problem) if problem else recording

    def _label_problem(self, labels: Mapping[str, Label]) -> str:
        for name, value in labels.items():
            if type(value) is str and name in self._texts:
                continue
            if (kind := self._labels.get(name)) is None:
                return f"its label {name} is not declared"
            if not self._is_of(value, kind):
                return f"its label {name} is no {kind}: {str(value)[:60]!r}"
        return ""

    def _event_problem(self, recording: Recording) -> str:
        for name, happening in recording.events.items():
            if (kind := self._events.get(name)) is None:
                return f"its events {name} are not declared"
            for start, end, value in happening:
                if not 0 <= start <= end < math.inf or not _is_of(value, kind):
                    return f"one of its {name} is not a start, an end and {kind}: {(start, end, value)}"
        return ""

    def _is_of(self, value: Label, kind: str) -> bool:
        """Remembers tuples that many recordings share, as themselves: equal ones may be of another type."""
        if not isinstance(value, tuple):
            return _is_of(value, kind)
        known = self._remembered.get(id(value))
        if known is None or known[0] is not value or known[1] != kind:
            if not _is_of(value, kind):
                return False
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[id(value)] = (value, kind)
        return True


def _rejected(recording: Recording, problem: str, name: str = "") -> Recording:
    name = name or recording.recording_id
    return replace(recording, recording_id=name, problem=problem, labels={}, events={})


def _is_of(value: Label, kind: str) -> bool:
    if kind.startswith("list"):
        return isinstance(value, tuple | list) and _are_of(value, kind[5:-1])
    return _are_of((value,), kind)


def _are_of(values: Sequence[Label], kind: str) -> bool:
    types = set(map(type, values))
    if kind == "str":
        return types <= {str}
    if kind == "int":
        return types <= {int} and (not values or max(map(abs, values)) < 2**63)  # type: ignore[arg-type]
    return types <= {int, float} and all(map(math.isfinite, values))  # type: ignore[arg-type]


def _present(recordings: Sequence[Recording], presence: Presence) -> list[Recording]:
    found = list(recordings)
    asked = [(place, path) for place, one in enumerate(found) if not one.problem for path in paths_of(one)]
    problems = presence.problems([path for _, path in asked])
    for (place, _), problem in zip(asked, problems, strict=True):
        if problem and not found[place].problem:
            found[place] = _rejected(found[place], problem)
    return found


def _measured(recording: Recording, answer: float | str, is_cut: bool) -> Recording:
    """The recording with its length: that of its segment where the source holds the whole video, else the source's."""
    if isinstance(answer, str):
        return _rejected(recording, answer)
    if not is_cut:
        return recording
    if recording.segment and recording.is_piece_of(answer):
        return recording.lasting(recording.segment[1] - recording.segment[0])
    return recording.lasting(answer)
