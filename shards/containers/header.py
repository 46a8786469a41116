"""Which container some bytes are, and what its header says: by the bytes alone, never by a name."""

from collections.abc import Callable
from io import BufferedIOBase

from shards.containers.boxes import matroska_header, mov_header
from shards.containers.container import (
    AudioHeader,
    DecodeError,
    aiff_header,
    au_header,
    flac_header,
    tags_end,
    wav_header,
)
from shards.containers.ogg import ogg_header
from shards.containers.packets import first_packet, mp3_header, stream_header

_MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}


def read_header(file: BufferedIOBase) -> AudioHeader:
    """What the container declares. Raises DecodeError when it is none of ours, or ends before it should."""
    start = tags_end(file)
    file.seek(start)
    head = file.read(12)
    if not start and not head:
        raise DecodeError("the file has 0 bytes")
    read = _reader(head)
    header = read(file, start) if read else _stream(file)
    if header.seconds == 0:
        raise DecodeError(f"the {header.container} declares 0 samples")
    return header


def _reader(head: bytes) -> Callable[[BufferedIOBase, int], AudioHeader] | None:
    """The reader of a container that says what it is in its first bytes."""
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return wav_header
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return aiff_header
    if head[4:8] in _MOV_BOXES:
        return mov_header
    readers = {b"fLaC": flac_header, b"OggS": ogg_header, b"\x1aE\xdf\xa3": matroska_header, b".snd": au_header}
    return readers.get(head[:4])


def _stream(file: BufferedIOBase) -> AudioHeader:
    found = first_packet(file)
    if found is None:
        raise DecodeError("cannot read it: its bytes begin like no audio container that is known here")
    kind, start = found
    return mp3_header(file, start) if kind == "mp3-stream" else stream_header(file, kind, start)
