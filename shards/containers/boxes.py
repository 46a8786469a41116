"""Lengths and rates from containers of nested boxes: MP4, M4A and QuickTime ("mov"), Matroska and WebM ("matroska")."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import NamedTuple

from shards.containers.container import AudioHeader, DecodeError, bytes_at, refuse_missing, size_of

_MOST_BOXES = 100_000
_MOST_HEADER_BYTES = 1 << 26
_PADDING_SAMPLES = 4096  # what an encoder may add at both ends where no edit list cuts it off
_MATROSKA_SLACK_SECONDS = 0.1  # its times are rounded to milliseconds, its length counts the last block whole
_SOUND_TRACK, _PICTURE_TRACK = 2, 1


class Box(NamedTuple):
    """A named piece of a file, or of the box around it; its contents lie from `start` to `end`."""

    name: bytes
    start: int
    end: int


@dataclass(frozen=True)
class _Track:
    """The sound track of an MP4; a tick is its own unit of time."""

    number: int
    sample_rate_hz: int
    channels: int
    ticks_per_second: int
    ticks: int
    edited_seconds: float | None
    fragment_sample_ticks: int


def mov_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """The first sound track: its edit list, or else the durations of its samples, also those in fragments."""
    boxes = list(_top_boxes(file, start))
    moov = next((box for box in boxes if box.name == b"moov"), None)
    if moov is None:
        raise DecodeError("its index (the moov box) is missing: the file is truncated or was never finished")
    track = _sound_track(_contents(file, moov))
    fragments = (_contents(file, box) for box in reversed(boxes) if box.name == b"moof")
    fragment_ends = (end for fragment in fragments if (end := _fragment_end(fragment, track)))
    ticks = max(track.ticks, next(fragment_ends, 0))
    seconds = track.edited_seconds or ticks / track.ticks_per_second or None
    slack_seconds = _PADDING_SAMPLES / track.sample_rate_hz
    return AudioHeader(seconds, track.sample_rate_hz, track.channels, "mov", slack_seconds)


def matroska_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """The first sound track and the length of the whole; the segment must be there to its last byte."""
    size_bytes = size_of(file)
    _, start, head_bytes = _element(file, start)
    _, start, declared_bytes = _element(file, start + (head_bytes or 0))
    if declared_bytes is not None:
        refuse_missing("Matroska segment", declared_bytes, size_bytes - start)
    length = tracks = None
    for _ in range(_MOST_BOXES):
        if start >= size_bytes or (length and tracks):
            break
        name, start, inner_bytes = _element(file, start)
        if name == 0x1549A966:
            length = _matroska_length(_read(file, start, inner_bytes))
        elif name == 0x1654AE6B:
            tracks = list(_matroska_tracks(_read(file, start, inner_bytes)))
        elif name == 0x1F43B675 or inner_bytes is None:
            break  # a cluster: headers are over
        start += inner_bytes or 0
    return _of_matroska(length, tracks or [])


def _of_matroska(length: float | None, tracks: list[dict[int, bytes]]) -> AudioHeader:
    sound = next((track for track in tracks if track[0x83] == bytes([_SOUND_TRACK])), None)
    if sound is None:
        raise DecodeError("it has no audio stream")
    rate_hz = round(_float(sound.get(0x78B5) or sound.get(0xB5) or b"") or 8000)
    delay_seconds = int.from_bytes(sound.get(0x56AA, b""), "big") / 1e9
    has_picture = any(track[0x83] == bytes([_PICTURE_TRACK]) for track in tracks)
    return AudioHeader(
        seconds=max(length - delay_seconds, 0.0) if length else None,
        sample_rate_hz=rate_hz,
        channels=int.from_bytes(sound.get(0x9F, b"\1"), "big"),
        container="matroska",
        slack_seconds=None if has_picture else _MATROSKA_SLACK_SECONDS,
    )


def _matroska_length(info: bytes) -> float | None:
    """Seconds; the duration counts units of so many nanoseconds, a million by default."""
    children = dict(_elements(info))
    unit_seconds = int.from_bytes(children.get(0x2AD7B1, b"\x0f\x42\x40"), "big") / 1e9
    return _float(children.get(0x4489, b"")) * unit_seconds or None


def _matroska_tracks(tracks: bytes) -> Iterator[dict[int, bytes]]:
    for name, entry in _elements(tracks):
        if name == 0xAE:
            children = dict(_elements(entry))
            yield {0x83: b"", **children, **dict(_elements(children.get(0xE1, b"")))}


def _elements(contents: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(contents):
        name, name_bytes = _variable_int(contents[position : position + 8], keep_marker=True)
        length, length_bytes = _variable_int(contents[position + name_bytes : position + name_bytes + 8])
        position += name_bytes + length_bytes
        yield name, contents[position : position + length]
        position += length


def _element(file: BufferedIOBase, position: int) -> tuple[int, int, int | None]:
    """Name, where its contents begin, and their bytes; None where the writer could not know."""
    file.seek(position)
    head = file.read(16)
    name, name_bytes = _variable_int(head, keep_marker=True)
    length, length_bytes = _variable_int(head[name_bytes:])
    is_unknown = length == (1 << 7 * length_bytes) - 1
    return name, position + name_bytes + length_bytes, None if is_unknown else length


def _variable_int(head: bytes, *, keep_marker: bool = False) -> tuple[int, int]:
    """Value and bytes of an integer whose leading zeros say how long it is (RFC 8794, section 4)."""
    length_bytes = 9 - head[0].bit_length() if head else 9
    if length_bytes > 8 or len(head) < length_bytes:
        raise DecodeError("the Matroska is truncated or damaged within its headers")
    value = int.from_bytes(head[:length_bytes], "big")
    return value if keep_marker else value & (1 << 7 * length_bytes) - 1, length_bytes


def _float(number: bytes) -> float:
    value = struct.unpack(">f" if len(number) == 4 else ">d", number)[0] if len(number) in (4, 8) else 0.0
    return value if 0 < value < 1e15 else 0.0


def _read(file: BufferedIOBase, start: int, count: int | None) -> bytes:
    if count is None or count > _MOST_HEADER_BYTES:
        raise DecodeError("its headers claim to be larger than any are")
    return bytes_at(file, start, count)


def _contents(file: BufferedIOBase, box: Box) -> bytes:
    return _read(file, box.start, box.end - box.start)


def _top_boxes(file: BufferedIOBase, position: int) -> Iterator[Box]:
    """The outermost boxes; each must be there to its last byte."""
    size_bytes = size_of(file)
    for _ in range(_MOST_BOXES):
        if position + 8 > size_bytes:
            return
        file.seek(position)
        box = _box(file.read(16), 0, size_bytes - position)
        if box is None:
            return  # zeros or a foreign tag after the last box
        refuse_missing(f"{box.name.decode('latin-1')} box", box.end, size_bytes - position)
        yield Box(box.name, position + box.start, position + box.end)
        position += box.end
    raise DecodeError(f"it has more than {_MOST_BOXES:,} boxes")


def _boxes(contents: bytes) -> dict[bytes, bytes]:
    """The boxes within a box by name; of several with one name the first."""
    found: dict[bytes, bytes] = {}
    for name, inner in _all_boxes(contents):
        found.setdefault(name, inner)
    return found


def _all_boxes(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    for _ in range(_MOST_BOXES):
        box = _box(contents, position, len(contents))
        if box is None:
            return
        yield box.name, contents[box.start : box.end]
        position = box.end


def _box(contents: bytes, position: int, end: int) -> Box | None:
    """The box at `position`; a size of 0 means up to `end`, a size of 1 that eight bytes of size follow."""
    if position + 8 > len(contents):
        return None
    size_bytes, name = struct.unpack_from(">I4s", contents, position)
    head_bytes = 8
    if size_bytes == 1 and position + 16 <= len(contents):
        size_bytes, head_bytes = struct.unpack_from(">Q", contents, position + 8)[0], 16
    elif size_bytes == 0:
        size_bytes = end - position
    return Box(name, position + head_bytes, position + size_bytes) if size_bytes >= head_bytes else None


def _sound_track(moov: bytes) -> _Track:
    movie_ticks_per_second = _ticks_per_second(_boxes(moov).get(b"mvhd", b""))
    for name, contents in _all_boxes(moov):
        media = _boxes(_boxes(contents).get(b"mdia", b"")) if name == b"trak" else {}
        if media.get(b"hdlr", b"")[8:12] != b"soun":
            continue
        number = _number(_boxes(contents).get(b"tkhd", b""), 12, long_at=20)
        ticks_per_second = _ticks_per_second(media.get(b"mdhd", b""))
        table = _boxes(_boxes(media.get(b"minf", b"")).get(b"stbl", b""))
        rate_hz, channels = _sound_description(table.get(b"stsd", b""), ticks_per_second)
        return _Track(
            number=number,
            sample_rate_hz=rate_hz,
            channels=channels,
            ticks_per_second=ticks_per_second,
            ticks=_listed_ticks(table.get(b"stts", b"")),
            edited_seconds=_edited_seconds(_boxes(_boxes(contents).get(b"edts", b"")), movie_ticks_per_second),
            fragment_sample_ticks=_fragment_sample_ticks(_boxes(moov).get(b"mvex", b""), number),
        )
    raise DecodeError("it has no audio stream")


def _fragment_sample_ticks(mvex: bytes, number: int) -> int:
    """How long a sample of the track lasts in fragments that do not say so themselves."""
    defaults = (box for name, box in _all_boxes(mvex) if name == b"trex" and _number(box, 4, long_at=4) == number)
    return _number(next(defaults, b""), 12, long_at=12)


def _sound_description(stsd: bytes, ticks_per_second: int) -> tuple[int, int]:
    """Rate and channels. Rates above 65,535 Hz do not fit into the old field; the track's ticks are samples then."""
    entry = stsd[8:].ljust(64, b"\0")
    version, channels, rate_hz = *struct.unpack_from(">H6xH", entry, 16), struct.unpack_from(">H", entry, 32)[0]
    if version == 2:  # QuickTime's later description
        rate, channels = struct.unpack_from(">dI", entry, 40)
        rate_hz = round(rate) if 0 < rate < 1e7 else 0
    return rate_hz or ticks_per_second, max(channels, 1)


def _ticks_per_second(head: bytes) -> int:
    return _number(head, 12, long_at=20) or 1


def _number(box: bytes, at: int, *, long_at: int) -> int:
    """A 32-bit number of a box whose first byte is its version; version 1 has long times before it."""
    at = long_at if box[:1] == b"\1" else at
    return int.from_bytes(box[at : at + 4], "big")


def _listed_ticks(stts: bytes) -> int:
    pairs = struct.iter_unpack(">II", stts[8 : 8 + len(stts[8:]) // 8 * 8])
    return sum(samples * ticks for samples, ticks in pairs)


def _edited_seconds(edits: dict[bytes, bytes], ticks_per_second: int) -> float | None:
    """What the edit list shows; None without one, or with one that shows everything. Edits of nothing are delays."""
    elst = edits.get(b"elst", b"")
    form = ">Qq4x" if elst[:1] == b"\1" else ">Ii4x"
    rows = struct.iter_unpack(form, elst[8 : 8 + len(elst[8:]) // struct.calcsize(form) * struct.calcsize(form)])
    shown = [duration for duration, begin in rows if begin >= 0]
    return sum(shown) / ticks_per_second if shown and all(shown) else None


def _fragment_end(moof: bytes, track: _Track) -> int:
    """Where this fragment of the track ends, in its ticks; 0 when it holds another track."""
    for name, contents in _all_boxes(moof):
        inner = _boxes(contents) if name == b"traf" else {}
        head = inner.get(b"tfhd", b"")
        if _number(head, 4, long_at=4) != track.number:
            continue
        flags = int.from_bytes(head[1:4], "big")
        default_at = 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)
        default = int.from_bytes(head[default_at : default_at + 4], "big") if flags & 8 else track.fragment_sample_ticks
        begin = inner.get(b"tfdt", b"")
        begin_ticks = int.from_bytes(begin[4:12] if begin[:1] == b"\1" else begin[4:8], "big")
        runs = (run for kind, run in _all_boxes(contents) if kind == b"trun")
        return begin_ticks + sum(_run_ticks(run, default) for run in runs)
    return 0


def _run_ticks(trun: bytes, default_ticks: int) -> int:
    flags, samples = int.from_bytes(trun[1:4], "big"), int.from_bytes(trun[4:8], "big")
    if not flags & 0x100:
        return samples * default_ticks
    row_bytes = 4 * sum(flags >> bit & 1 for bit in (8, 9, 10, 11))
    rows = trun[8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1) :]
    return sum(
        int.from_bytes(rows[at : at + 4], "big") for at in range(0, len(rows) // row_bytes * row_bytes, row_bytes)
    )
