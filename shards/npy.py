"""How the bytes of a .npy member become an array: by a header of one spelling, checked before memory is taken."""

import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_PREFIX = struct.Struct("<6sBBH")
_HEADER = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(((?:\d{1,15}, )*(?:\d{1,15},?)?)\), \} *\n"
)
_PLAIN = re.compile(r"[<|][fiu][1248]")


@dataclass(frozen=True)
class Layout:
    """Dtype, shape and place of the values in one .npy member."""

    dtype: np.dtype
    shape: tuple[int, ...]
    is_fortran: bool
    data_offset_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.data_offset_bytes + self.dtype.itemsize * math.prod(self.shape)

    def array(self, payload: memoryview | bytearray | bytes) -> np.ndarray:
        flat = np.frombuffer(payload, self.dtype, offset=self.data_offset_bytes)
        return flat.reshape(self.shape, order="F" if self.is_fortran else "C")


def npy_layout(payload: bytes | bytearray | memoryview) -> Layout:
    """Parse a version 1.0 .npy header, as numpy writes it; nothing in it is evaluated.

    Raises ValueError when it is any other, or is of a dtype that is no plain number.
    """
    start = bytes(payload[: _PREFIX.size]).ljust(_PREFIX.size, b"\0")
    magic, major, _, header_bytes = _PREFIX.unpack(start)
    if magic != b"\x93NUMPY" or major != 1:
        raise ValueError("it is no version 1.0 .npy file")
    return _layout(bytes(payload[_PREFIX.size : _PREFIX.size + header_bytes]))


def whole_layout(payload: bytes | bytearray | memoryview) -> Layout:
    """The layout of a member of just the length that its header claims. Raises ValueError for any other."""
    layout = npy_layout(payload)
    if layout.total_bytes != len(payload):
        claimed = f"{layout.dtype}{layout.shape} of {layout.total_bytes:,} bytes"
        raise ValueError(f"it is {claimed}, and has {len(payload):,}")
    return layout


@lru_cache(maxsize=1024)  # most arrays of a column have the header of another one
def _layout(text: bytes) -> Layout:
    header = _HEADER.fullmatch(text)
    if header is None:
        raise ValueError("its .npy header is none that numpy writes for a plain array")
    descr, order, shape = (part.decode("latin1") for part in header.groups())
    if not _PLAIN.fullmatch(descr):
        raise ValueError(f"its dtype {descr} is no plain number")
    lengths = tuple(int(length) for length in shape.split(",") if length.strip())
    return Layout(np.dtype(descr), lengths, order == "True", _PREFIX.size + len(text))
