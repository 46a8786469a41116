"""Memory that is used again, in huge pages: the first touch of fresh pages costs as much as filling them."""

import mmap
import sys
from threading import Lock

import numpy as np
import torch

_OWN_REFERENCES = 3  # the list's, the loop variable's, and the argument of getrefcount
_HUGE_PAGE_BYTES = 1 << 21


class Buffers:
    """Lends arrays of bytes; one whose every view (and tensor) is gone is lent again. For any number of threads."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._lock = Lock()

    def take(self, size: int) -> np.ndarray:
        """`size` bytes of unspecified content, writable, shared with nobody who still holds a view."""
        with self._lock:
            for array in self._arrays:
                if array.size >= size and sys.getrefcount(array) == _OWN_REFERENCES:
                    return array[:size]
            self._arrays = [array for array in self._arrays if array.size >= size]  # outgrown ones go with their views
            self._arrays.append(_fresh(size))
            return self._arrays[-1][:size]

    def lend(self, size: int) -> torch.Tensor:
        """`size` bytes like `take`, as a tensor; page-locked where this process uses a GPU.

        Torch itself keeps page-locked memory for use again, and not before copies under way have ended.
        """
        if torch.cuda.is_initialized():
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return torch.from_numpy(self.take(size))


def _fresh(size: int) -> np.ndarray:
    """New memory; Linux aligns what is large to its huge pages, of which a copy into it then needs few."""
    if size < _HUGE_PAGE_BYTES:
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
