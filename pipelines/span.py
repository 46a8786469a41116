"""The noun Span, and many of them as the text that a task's digest is taken over, compressed to some 60 bytes each."""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring as _text
from typing import Any

from pipelines.recording import Event, Label, Recording
from shards.store import canonical_json

_MOST_REMEMBERED = 1 << 14
_FAST = 1  # zlib's least level takes a third of the time of its usual one, and a tenth more room
# As shards.store.canonical_json spells, whose set-up would take longer than a short text.
_spelled = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a recording, planned to become the example `index`; a rejected one leaves a hole there."""

    index: int
    recording: Recording
    start_seconds: float = 0.0
    seconds: float | None = None
    is_piece: bool = False
    """Cut by a rule, so that its key names its first sample."""


@dataclass(frozen=True, slots=True)
class PackedSpans(Sequence[Span]):
    """Spans that are made anew from their text each time they are asked for; `packed` has `length` of them."""

    packed: bytes
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Any) -> Any:
        return list(self)[place]

    def __iter__(self) -> Iterator[Span]:
        content, (split, more) = map(json.loads, zlib.decompress(self.packed).split(b"\n"))
        kept = zip(sorted(content["recordings"]), more, strict=True)
        recordings = {name: _recording(name, split, content["recordings"][name], *one) for name, one in kept}
        for index, name, start_seconds, seconds, is_piece in content["spans"]:
            yield Span(index, recordings[name], start_seconds, seconds, is_piece)


class Speller:
    """Packs the spans of a task and takes its digest; remembers the text of tuples that many recordings share."""

    def __init__(self, contracts: Mapping[str, object]) -> None:
        self._contracts = canonical_json(contracts).decode()
        self._remembered: dict[int, tuple[object, str]] = {}
        self._heads: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    def pack(self, run: Sequence[Span]) -> tuple[PackedSpans, str]:
        """Spans of one split, and the SHA-256 of the canonical JSON of all of them that decides their bytes."""
        recordings = {span.recording.recording_id: span.recording for span in run}
        names = sorted(recordings)
        about = ",".join([f"{_text(name)}:{self._content(recordings[name])}" for name in names])
        pieces = ",".join([self._piece(span) for span in run])
        text = f'{{"contracts":{self._contracts},"recordings":{{{about}}},"spans":[{pieces}]}}'.encode()
        beside = [run[0].recording.split, [[recordings[name].seconds, recordings[name].group] for name in names]]
        packed = zlib.compress(b"%b\n%b" % (text, canonical_json(beside)), _FAST)
        return PackedSpans(packed, len(run)), sha256(text).hexdigest()

    def _content(self, recording: Recording) -> str:
        """What of a recording decides the bytes of its examples."""
        labels = recording.labels
        told = ",".join([head + self._value(labels[name]) for name, head in self._sorted(labels)])
        events = _spelled(dict(recording.events)) if recording.events else "{}"
        parts, segment = self._value(recording.parts), self._value(recording.segment)
        return f"[{_text(recording.path)},{{{told}}},{events},{parts},{segment},{_text(recording.problem)}]"

    def _sorted(self, labels: Mapping[str, Label]) -> list[tuple[str, str]]:
        """Their names in order, each with its text and a colon."""
        names = tuple(labels)
        if names not in self._heads:
            self._make_room(self._heads)
            self._heads[names] = [(name, f"{_text(name)}:") for name in sorted(names)]
        return self._heads[names]

    def _piece(self, span: Span) -> str:
        start, seconds = self._value(span.start_seconds), self._value(span.seconds)
        is_piece = "true" if span.is_piece else "false"
        return f"[{span.index},{_text(span.recording.recording_id)},{start},{seconds},{is_piece}]"

    def _value(self, value: object) -> str:
        kind = type(value)
        if kind is str:
            return _text(value)  # type: ignore[arg-type]
        if kind is not tuple:
            return repr(value) if kind is int or (kind is float and math.isfinite(value)) else _spelled(value)  # type: ignore[arg-type]
        known = self._remembered.get(id(value))
        if known is None or known[0] is not value:
            self._make_room(self._remembered)
            known = self._remembered[id(value)] = (value, _spelled(value))
        return known[1]

    def _make_room(self, remembered: dict) -> None:
        if len(remembered) >= _MOST_REMEMBERED:
            remembered.clear()


def _recording(name: str, split: str, content: list[Any], seconds: float | None, group: str) -> Recording:
    path, labels, events, parts, segment, problem = content
    return Recording(
        recording_id=name,
        path=path,
        split=split,
        labels={label: _label(value) for label, value in labels.items()},
        seconds=seconds,
        problem=problem,
        events={happening: _events(listed) for happening, listed in events.items()},
        parts=tuple(parts),
        segment=None if segment is None else tuple(segment),
        group=group,
    )


def _label(value: Any) -> Label:
    return tuple(value) if isinstance(value, list) else value


def _events(listed: list[Any]) -> tuple[Event, ...]:
    return tuple((start, end, value) for start, end, value in listed)
