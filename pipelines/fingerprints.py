"""Which texts came before, of ten million: 20 bytes for each, whatever its length."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Bool, Int

_LONGEST_RUN = 1 << 21  # merging longer ones would need more memory than it saves time
NOWHERE = -1


class _Run(NamedTuple):
    """Fingerprints sorted by their first half, and the numbers of their texts."""

    first: np.ndarray
    second: np.ndarray
    numbers: np.ndarray


class Fingerprints:
    """Numbers texts from 0, in the order in which they first come; asked with thousands of texts at a time.

    Two texts count as one when their 128 bits of XXH3 agree: of ten million, some do with a chance of 1e-25.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, texts: Iterable[str]) -> Int[np.ndarray, " texts"]:
        """The number of each text, NOWHERE for one that has not come yet."""
        return self._find(*_halves(texts))

    def add(self, texts: Iterable[str]) -> tuple[Int[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]:
        """The number of each text, and whether it comes for the first time, also among these."""
        first, second = _halves(texts)
        numbers = self._find(first, second)
        unknown = np.flatnonzero(numbers == NOWHERE)
        order = unknown[np.lexsort((second[unknown], first[unknown]))]  # stable: the first of equal ones leads them
        is_other = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
        leads = np.concatenate([np.ones(min(1, len(order)), bool), is_other])
        is_new = np.zeros(len(first), bool)
        is_new[order[leads]] = True
        given = self._count + np.cumsum(is_new) - 1  # in the order in which they come, not in that of their digests
        numbers[order] = given[order[leads]][np.cumsum(leads) - 1]
        new = order[leads]
        self._keep(_Run(first[new], second[new], numbers[new].astype(np.uint32)))
        self._count += len(new)
        return numbers, is_new

    def _find(self, first: np.ndarray, second: np.ndarray) -> Int[np.ndarray, " texts"]:
        order = np.argsort(first)  # neighbours are searched for where they lie
        sought, found = first[order], np.full(len(first), NOWHERE)
        for run in self._runs:
            places, is_there = _places(run, sought, second[order])
            found[order[is_there]] = run.numbers[places[is_there]]
        return found

    def _keep(self, run: _Run) -> None:
        if not len(run.first):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].first) <= min(2 * len(self._runs[-1].first), _LONGEST_RUN):
            newest, before = self._runs.pop(), self._runs.pop()
            order = np.argsort(np.concatenate([before.first, newest.first]), kind="stable")
            pairs = zip(before, newest, strict=True)
            self._runs.append(_Run(*(np.concatenate([one, other])[order] for one, other in pairs)))


def _places(run: _Run, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in a run fingerprints would lie, and which of them do."""
    places, last = np.searchsorted(run.first, first), len(run.first) - 1
    while True:
        np.minimum(places, last, out=places)
        is_first = run.first[places] == first
        is_there = is_first & (run.second[places] == second)
        if not (goes_on := is_first & ~is_there & (places < last)).any():
            return places, is_there
        places[goes_on] += 1  # two share a first half


def _halves(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    digests = (xxhash.xxh3_128_digest(text.encode(errors="surrogatepass")) for text in texts)
    both = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
