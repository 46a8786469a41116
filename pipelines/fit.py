"""Features whose weights come from the corpus itself: fitted once on its training split, and kept with the dataset."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dataset import Split
from pipelines.example_maker import ExampleMaker, Recipe
from pipelines.isolation import each, mark_of
from pipelines.plan import usable_at
from pipelines.span import Span
from pipelines.workers import run_tasks
from shards.example import Clip, Example
from shards.feature import Feature, Fitted
from shards.manifest import WEIGHTS

log = logging.getLogger(__name__)
_PART_CLIPS = 32


def opened(feature: Feature, splits: Sequence[Split], recipe: Recipe, *, workers: int) -> Feature:
    """The feature itself; where it has still to be fitted: as an earlier build of these splits fitted it, or anew.

    Raises RunFailed when workers die.
    """
    if not isinstance(feature, Fitted) or feature.is_fitted:
        return feature
    for split in splits:
        if (kept := split.folder / feature.column / WEIGHTS).is_file():
            return feature.with_fit(kept)
    chosen = _chosen(splits, feature.most_clips)
    log.info("fit %s  on %d clips of %s", feature.word, len(chosen), splits[0].folder.parent)
    return feature.fitted(_in_order(_parts(feature, chosen, recipe, splits[0].folder, workers)))


def keep(feature: Feature, splits: Sequence[Split]) -> None:
    """Store what was fitted with each dataset that is made with it."""
    if isinstance(feature, Fitted):
        for split in splits:
            if not (path := split.folder / feature.column / WEIGHTS).is_file():
                feature.save(path)


def _in_order(parts: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Numbered parts from 0 on, whatever their order; in memory are those that came before their turn."""
    waiting: dict[int, Any] = {}
    number = 0
    for given, part in parts:
        waiting[given] = part
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def _chosen(splits: Sequence[Split], most_clips: int) -> list[Span]:
    """At most so many spans of the training split, evenly spread; of the first split where there is no other."""
    split = next((one for one in splits if one.folder.name == "train"), splits[0])
    usable = sum(task.usable for task in split.tasks)
    places = np.linspace(0, usable, min(most_clips, usable), endpoint=False).astype(int)
    return list(usable_at(split.tasks, places))


def _parts(feature: Fitted, chosen: Sequence[Span], recipe: Recipe, folder: Path, workers: int) -> Iterator[Any]:
    tasks = list(enumerate(tuple(chosen[first : first + _PART_CLIPS]) for first in range(0, len(chosen), _PART_CLIPS)))
    yield from run_tasks(
        partial(_part, feature=feature, recipe=recipe, folder=folder.resolve()), tasks, workers=workers
    )


def _part(task: tuple[int, tuple[Span, ...]], *, feature: Any, recipe: Recipe, folder: Path) -> tuple[int, Any]:
    """What the clips of a few spans contribute; those that cannot be decoded are rejected by the build itself."""
    number, chosen = task
    heard = _Heard(feature.sample_rate_hz)
    outcomes = each(
        ExampleMaker(replace(recipe, features=(heard,))),  # type: ignore[arg-type]
        chosen,
        mark=mark_of(folder, f"fit-{feature.column}-{number}"),
        given_up=lambda span, why: None,
        piece_seconds=recipe.piece_seconds,
    )
    waveforms = [np.asarray(outcome.arrays[heard.column]) for outcome in outcomes if isinstance(outcome, Example)]
    return number, feature.moments([Clip(waveform, heard.sample_rate_hz) for waveform in waveforms])


@dataclass(frozen=True)
class _Heard:
    """Stands for a feature: the clip itself, at the rate of the one that is fitted."""

    sample_rate_hz: int
    column: str = "waveform"

    def __call__(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        return [clip.waveform for clip in clips]
