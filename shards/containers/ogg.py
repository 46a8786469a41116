"""Lengths and rates from Ogg files with Vorbis, Opus or FLAC: pages with a running count of samples (RFC 3533)."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedIOBase
from typing import NamedTuple

from shards.containers.container import (
    AudioHeader,
    DecodeError,
    bytes_at,
    counted,
    flac_stream_info,
    refuse_missing,
    size_of,
)

_TAIL_BYTES = 1 << 17  # holds at least one whole page (65,307 bytes at most)
_MOST_HEADER_PAGES = 10_000  # a picture in the comments takes a few hundred
_FIRST, _LAST = 2, 4


class _Page(NamedTuple):
    """`granule` is the number of samples up to its end, as the codec counts them; -1 where no packet ends."""

    kind: int
    granule: int
    serial: int
    lengths: bytes
    start: int

    @property
    def end(self) -> int:
        return self.start + sum(self.lengths)


def ogg_header(file: BufferedIOBase, start: int) -> AudioHeader:
    """The first Vorbis, Opus or FLAC stream; its length is the count of its last page, less that before its first."""
    pages = _pages(file, start)
    serial, head = _first_stream(file, pages)
    last = _last_granule(file, serial)
    first = next((page for page in pages if page.serial == serial and page.granule > 0), None)
    packets = list(_packets(file, first)) if first else []
    if head.startswith(b"OpusHead"):
        channels, delay = struct.unpack_from("<BH", head, 9)
        before = 0
        if first and not first.kind & _LAST:  # the count of the last page is lower where the end is cut off
            before = first.granule - sum(opus_samples(packet) for packet in packets)
        return counted(max(last - before - delay, 0), 48_000, channels, "ogg")
    if head.startswith(b"\x7fFLAC"):
        header = flac_stream_info(head[17:35], "ogg")
        return counted(last, header.sample_rate_hz, header.channels, "ogg")
    channels, rate_hz = struct.unpack_from("<BI", head, 11)
    header = counted(last, rate_hz, channels, "ogg")
    largest_samples = 1 << (head[28] >> 4) - 1 if len(head) > 28 and head[28] >> 4 else 0
    is_excerpt = first is not None and first.granule > len(packets) * largest_samples
    return replace(header, slack_seconds=None) if is_excerpt else header  # where it begins only a decoder can say


def opus_samples(packet: bytes) -> int:
    """How long a packet of Opus lasts, in samples at 48 kHz, from its first two bytes (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    mode, code = packet[0] >> 3, packet[0] & 3
    choices = (480, 960, 1920, 2880) if mode < 12 else (480, 960) if mode < 16 else (120, 240, 480, 960)
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    return frames * choices[mode % len(choices)]


def _pages(file: BufferedIOBase, start: int) -> Iterator[_Page]:
    for _ in range(_MOST_HEADER_PAGES):
        file.seek(start)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        kind, granule, serial, _, _, segments = struct.unpack_from("<BqIIIB", head, 5)
        page = _Page(kind, granule, serial, bytes_at(file, start + 27, segments), start + 27 + segments)
        yield page
        start = page.end


def _packets(file: BufferedIOBase, page: _Page) -> Iterator[bytes]:
    """The packets that end on a page: pieces of 255 bytes and a shorter one."""
    position, packet_bytes = page.start, 0
    for length in page.lengths:
        packet_bytes += length
        if length < 255:
            yield bytes_at(file, position, packet_bytes)
            position, packet_bytes = position + packet_bytes, 0


def _first_stream(file: BufferedIOBase, pages: Iterator[_Page]) -> tuple[int, bytes]:
    """Serial number and first packet. The first pages of all streams come before all other pages."""
    for page in pages:
        if not page.kind & _FIRST:
            break
        packet = bytes_at(file, page.start, page.end - page.start)
        if len(packet) >= 16 and packet.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC")):
            return page.serial, packet
    raise DecodeError("it has no audio stream: no Vorbis, Opus or FLAC begins in this Ogg")


def _last_granule(file: BufferedIOBase, serial: int) -> int:
    """Samples up to the end of the last page, which must be whole and say that it is the last."""
    size_bytes = size_of(file)
    for tail_bytes in (min(_TAIL_BYTES, size_bytes), size_bytes):
        tail = bytes_at(file, size_bytes - tail_bytes, tail_bytes)
        position = tail.rfind(b"OggS")
        while position >= 0:
            head = tail[position : position + 27 + 255].ljust(27, b"\0")
            kind, granule, found, _, _, segments = struct.unpack_from("<BqIIIB", head, 5)
            if found == serial or len(tail) - position < 27:
                page_bytes = 27 + segments + sum(head[27 : 27 + segments])
                refuse_missing("last page of the Ogg", page_bytes, len(tail) - position)
                if not kind & _LAST:
                    raise DecodeError(
                        f"the Ogg is truncated: {granule:,} samples, and no page says that it is the last"
                    )
                return granule
            position = tail.rfind(b"OggS", 0, position)
    raise DecodeError("the Ogg is truncated: it ends after its first page")
