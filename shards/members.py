"""The members of our tars, one after the other: regular files of plain names, and nothing else is followed.

tarfile and webdataset end quietly at a damaged header, pass over links, and unpack what is compressed. Here every
header must be the one that our writer gives to a member of that name and length, to the last bit.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

_BLOCK_BYTES = tarfile.BLOCKSIZE
_READ_BYTES = 1 << 20  # at once: still in the cache when its digest is taken and its payloads are looked at
_MEMBER_BYTES_LIMIT = 1 << 31  # larger than any example; a forged header may claim anything
_NAME = re.compile(rb"\d{9}\.[\w-]+(?:\.[\w-]+)?")  # IIIIIIIII.COLUMN.SUFFIX and IIIIIIIII.json
_OCTAL = re.compile(rb"[0-7]{11}\0")
_ABOUT = b"0000644\0" + b"0000000\0" + b"0000000\0"  # mode, owner, group
_REST = (b"0" + bytes(100) + b"ustar\x0000").ljust(356, b"\0")
_CHECKSUM_AT = 148
_CONSTANT_SUM = sum(_REST) + 8 * ord(" ")  # the checksum counts itself as spaces


@runtime_checkable
class Readable(Protocol):
    """A file without a buffer of its own, or any stream of bytes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill at most the whole buffer; how many bytes came, 0 at the end."""


class Member(NamedTuple):
    """A regular file in a tar; `payload` holds until the next member is asked for."""

    name: str
    offset: int
    payload: memoryview


class HashedFile:
    """The bytes of a file in order, each read once, with their SHA-256; at most `total_bytes` of them."""

    def __init__(self, file: Readable, total_bytes: int) -> None:
        self.at = 0
        self._file, self._total_bytes = file, total_bytes
        self._digest = hashlib.sha256()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._begin = self._end = 0

    @property
    def left_bytes(self) -> int:
        return self._total_bytes - self.at

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, fewer at the end; valid until the next call."""
        piece = self._long(count) if count > len(self._buffer) else self._short(count)
        self.at += len(piece)
        return piece

    def sha256(self) -> str:
        """SHA-256 of the whole file, whose rest is read for it; of more when there is more than `total_bytes`."""
        while self.at <= self._total_bytes and self.take(_READ_BYTES):
            pass
        return self._digest.hexdigest()

    def _short(self, count: int) -> memoryview:
        if self._end - self._begin < count:
            self._refill(count)
        piece = self._buffer[self._begin : min(self._begin + count, self._end)]
        self._begin += len(piece)
        return piece

    def _long(self, count: int) -> memoryview:
        """Memory grows with what comes, not with what is asked for."""
        whole = io.BytesIO()
        while whole.tell() < count and (piece := self._short(min(count - whole.tell(), _READ_BYTES))):
            whole.write(piece)
        return whole.getbuffer()

    def _refill(self, count: int) -> None:
        kept = self._end - self._begin
        self._buffer[:kept] = self._buffer[self._begin : self._end]
        self._begin, self._end = 0, kept
        while self._end < count and (got := self._file.readinto(self._buffer[self._end :])):
            self._digest.update(self._buffer[self._end : self._end + got])
            self._end += got


def members(file: HashedFile) -> Iterator[Member]:
    """Every member of a tar of ours. Raises ValueError, with the place, at the first thing that none of ours holds."""
    while (header := bytes(file.take(_BLOCK_BYTES))).strip(b"\0"):
        name, size = _parsed(header, file.at - _BLOCK_BYTES)
        if size > min(file.left_bytes, _MEMBER_BYTES_LIMIT):
            raise ValueError(f"{name} claims {size:,} bytes, {max(file.left_bytes, 0):,} are left")
        yield _whole(Member(name, file.at, file.take(size)), size)
        if bytes(file.take(-size % _BLOCK_BYTES)).strip(b"\0"):
            raise ValueError(f"{name} is not followed by zeros")
    end = header + bytes(file.take(_BLOCK_BYTES))
    if len(end) < 2 * _BLOCK_BYTES:
        raise ValueError(f"it is cut off at byte {file.at:,}")
    if end.strip(b"\0") or file.take(1):
        raise ValueError(f"something follows its end before byte {file.at:,}")


def ustar_header(name: bytes, size: int) -> bytes:
    """The block before the payload of a regular file of ours: mode 0644, nobody's, of time 0."""
    start = name.ljust(100, b"\0") + _ABOUT + b"%011o\0" % size + b"00000000000\0"
    assert len(start) == _CHECKSUM_AT, "a name of more than 100 bytes, or a member of more than 8 GiB"
    return start + b"%06o\0 " % (sum(start) + _CONSTANT_SUM) + _REST


def _parsed(header: bytes, at: int) -> tuple[str, int]:
    if len(header) < _BLOCK_BYTES:
        raise ValueError(f"it is cut off at byte {at + len(header):,}")
    name = header[:100].rstrip(b"\0")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the member {name.decode(errors='replace')!r} at byte {at:,} is none of ours")
    kind, octal = header[156:157], header[124:136]
    if kind != b"0":
        raise ValueError(f"the member {name.decode()} is no regular file but a link or device of type {kind!r}")
    if not _OCTAL.fullmatch(octal) or header != ustar_header(name, size := int(octal[:11], 8)):
        raise ValueError(f"the header of {name.decode()} at byte {at:,} is none of ours")
    return name.decode(), size


def _whole(member: Member, size: int) -> Member:
    if len(member.payload) != size:
        raise ValueError(f"{member.name} is cut off after {len(member.payload):,} of {size:,} bytes")
    return member
