"""Several ShardTasks at a time in an actor: a thread decodes ahead, features run in batches across shards on a device.

For features that a GPU computes. Numbers differ from a CPU's within the contract's error bound.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipelines.example_maker import ExampleMaker, Heard, Recipe, at_rate_of
from pipelines.isolation import each, mark_of
from pipelines.plan import Work
from pipelines.span import Span
from pipelines.task import given_up, spans_of, write_outcomes
from shards.example import Example
from shards.feature import Feature
from shards.manifest import Rejected, ShardRecord

_AHEAD_CLIPS = 64  # decoded while the device computes on as many: a few tens of megabytes
_BATCH_CLIPS = 16

Job = tuple[Work, Span]


@dataclass
class BatchBuilder:
    """What an actor does, with its features moved to its GPU once where it has one."""

    recipe: Recipe

    def __post_init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        moved = (one.to(device) if hasattr(one, "to") else one for one in self.recipe.features)
        self.recipe = replace(self.recipe, features=tuple(moved))

    def __call__(self, works: Sequence[Work]) -> list[ShardRecord]:
        """Make what each of the works asks for. Raises DataProblem as `build_shard` does."""
        outcomes: dict[int, list[Example | Rejected]] = {id(work): [] for work in works}
        for (work, _), outcome in self._outcomes(works):
            outcomes[id(work)].append(outcome)
        return [write_outcomes(work, outcomes[id(work)], self.recipe) for work in works]

    def _outcomes(self, works: Sequence[Work]) -> Iterator[tuple[Job, Example | Rejected]]:
        jobs = [(work, span) for work in works for span in spans_of(work)]
        chunks = [jobs[first : first + _AHEAD_CLIPS] for first in range(0, len(jobs), _AHEAD_CLIPS)]
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as ahead:
            heard = deque(ahead.submit(self._hear, chunk) for chunk in chunks[:1])
            for number, chunk in enumerate(chunks):
                heard.extend(ahead.submit(self._hear, following) for following in chunks[number + 1 : number + 2])
                yield from zip(chunk, self._examples(chunk, heard.popleft().result()), strict=True)

    def _hear(self, chunk: Sequence[Job]) -> list[Heard | Rejected]:
        """The chunk's spans, decoded; one that kills or hangs this process is given up when the actor runs again."""
        work, first = chunk[0]
        return each(
            ExampleMaker(replace(self.recipe, features=())).hear,
            [span for _, span in chunk],
            mark=mark_of(work.folder, f"{work.task.number:06d}-{first.index}"),
            given_up=given_up,
            piece_seconds=self.recipe.piece_seconds,
        )

    def _examples(self, chunk: Sequence[Job], heard: Sequence[Heard | Rejected]) -> list[Example | Rejected]:
        outcomes: list[Any] = [one if isinstance(one, Rejected) else {} for one in heard]
        for feature in self.recipe.features:
            asked = [place for place, (work, _) in enumerate(chunk) if feature.column in work.columns]
            left = [place for place in asked if not isinstance(outcomes[place], Rejected)]
            for first in range(0, len(left), _BATCH_CLIPS):
                self._compute(feature, left[first : first + _BATCH_CLIPS], chunk, heard, outcomes)
        maker = ExampleMaker(self.recipe)
        pairs = zip(heard, outcomes, strict=True)
        return [found if isinstance(found, Rejected) else maker.row(one, found) for one, found in pairs]  # type: ignore[arg-type]

    def _compute(
        self, feature: Feature, places: Sequence[int], chunk: Sequence[Job], heard: Sequence[Any], outcomes: list[Any]
    ) -> None:
        """Fill `outcomes` at `places`, together, or one by one where one of them is too much for the feature."""
        stored: Sequence[Any]
        try:
            stored = feature([at_rate_of(feature, heard[place].clip) for place in places])
        except ValueError:
            stored = [self._alone(feature, chunk[place], heard[place]) for place in places]
        for place, array in zip(places, stored, strict=True):
            if isinstance(array, Rejected):
                outcomes[place] = array
            else:
                outcomes[place][feature.column] = array

    def _alone(self, feature: Feature, job: Job, heard: Heard) -> np.ndarray | bytes | Rejected:
        work, span = job
        try:
            return ExampleMaker(self.recipe, has_rows=work.has_index).stored(feature, heard.clip)
        except ValueError as error:
            return Rejected(span.index, span.recording.path, "feature", str(error))
