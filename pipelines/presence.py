"""Which files of a corpus are there: each folder is listed once, and 8 bytes are kept of each name in it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from pipelines.source import NO_SUCH_FILE, Tree, path_problem


@dataclass
class Presence:
    """Asked with many paths at a time. A name counts as there when one with the same 64 bits of hash is."""

    tree: Tree
    _folders: dict[str, Int[np.ndarray, " names"]] = field(default_factory=dict)
    """Hashes of the names in each, sorted."""

    def problems(self, paths: Sequence[str]) -> list[str]:
        """Why there is nothing to read at each path; empty where there is."""
        problems = [""] * len(paths)
        asked: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            folder = path.rpartition("/")[0]
            if ".t" in folder or path_problem(path):  # it may lead through an archive, or anywhere
                problems[place] = self.tree.problem(path)
            else:
                asked.setdefault(folder, []).append(place)
        for folder, places in asked.items():
            is_there = self._have(folder, [paths[place].rpartition("/")[2] for place in places])
            for missing in np.flatnonzero(~is_there):
                problems[places[missing]] = NO_SUCH_FILE
        return problems

    def _have(self, folder: str, names: Sequence[str]) -> np.ndarray:
        if folder not in self._folders:
            self._folders[folder] = self._listed(folder)
        there, sought = self._folders[folder], np.array([hash(name) for name in names])
        if not len(there):
            return np.zeros(len(names), bool)
        return there[np.minimum(np.searchsorted(there, sought), len(there) - 1)] == sought

    def _listed(self, folder: str) -> Int[np.ndarray, " names"]:
        try:
            with os.scandir(self.tree.root / folder) as entries:
                return np.sort(np.fromiter((hash(entry.name) for entry in entries), np.int64))
        except OSError:
            return np.zeros(0, np.int64)  # what lies in a folder that is not there, or shut, is not there
