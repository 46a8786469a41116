"""The noun Corpus: what every file in pipelines/corpora/ defines under this name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from pipelines.recording import Recording
from shards.words import module_named

Kind = Mapping[str, object]
"""Of a label or event: its `type` (int, float, str, list[int], ...) and the ordered names of its `classes`, or None."""


@runtime_checkable
class Corpus(Protocol):
    """A dataset in the layout its authors published; fields beyond `root` are options of its own.

    Two more methods are called where a corpus has them, on the worker that makes an example: `annotated(recording)`
    adds the events that would be too many for a listing, or a problem; `measure(clip)` gives labels that the decoded
    sound itself tells.
    """

    root: Path
    sample_rate_hz: ClassVar[int | None]
    """The rate that every file must have, or None."""

    def labels(self) -> Mapping[str, Kind]:
        """What every recording is labelled with, in a fixed order."""

    def events(self) -> Mapping[str, Kind]:
        """What happens in time in its recordings; empty where nothing is annotated."""

    def recordings(self) -> Iterator[Recording]:
        """Everything the layout lists, in an order that the same tree always gives; what cannot be used has a problem.

        Raises DataProblem when the layout cannot be read at all, or filters leave nothing of it.
        """


def corpus_type(word: str) -> type[Corpus]:
    """The Corpus that pipelines/corpora/WORD.py defines. Raises UsageProblem with the nearest words otherwise."""
    return module_named("pipelines.corpora", word).Corpus
