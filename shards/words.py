"""A file in a folder is a word on the command line: `nsynth` is pipelines/corpora/nsynth.py."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from shards.problem import UsageProblem


def words_in(package: str) -> list[str]:
    """Names of the modules in `package`, sorted."""
    folder = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__))


def module_named(package: str, word: str) -> ModuleType:
    """Import `package.word`. Raises UsageProblem with the nearest words when there is no such file."""
    known = words_in(package)
    if word not in known:
        raise UsageProblem(f"{package} has no '{word}', so nothing was done. {nearest(word, known)}")
    return importlib.import_module(f"{package}.{word}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the words closest to a mistyped one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"Choose from: {', '.join(known)}."
