"""An uncompressed ustar archive as plain as WebDataset's, hashed as it is written."""

import hashlib
from typing import BinaryIO

from shards.members import ustar_header

BLOCK_BYTES = 512
END_BYTES = 2 * BLOCK_BYTES
"""Zeros behind the last member."""


class Tar:
    """Members of fixed owner, mode and time, so that equal ones give equal bytes; close it to end the archive."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self.digest = hashlib.sha256()

    def add(self, name: str, payload: bytes | memoryview) -> int:
        """Append a member; returns where its payload begins."""
        self._write(ustar_header(name.encode(), len(payload)))
        offset = self.bytes
        self._write(payload)
        self._write(bytes(-len(payload) % BLOCK_BYTES))
        return offset

    def close(self) -> None:
        self._write(bytes(END_BYTES))

    def _write(self, block: bytes | memoryview) -> None:
        self.file.write(block)
        self.digest.update(block)
        self.bytes += len(block)
