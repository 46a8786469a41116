"""Compose and play a corpus into its published layout.

    sonograph render nsynth --out data/nsynth --notes 5000 --seed 0

Same seed, same bytes, with any number of workers; repeated, it makes what is missing. About 70 notes/s and core.
Rendered notes have ids that no published note has, and OUT/rendered.json says what they are.
"""

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tyro

from pipelines.music.synthesis import SOUNDFONT
from pipelines.recording import SPLITS
from shards.problem import UsageProblem
from shards.words import module_named

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Render:
    corpus: tyro.conf.Positional[str]
    """published layout to write: a file of pipelines/corpora"""
    out: Path = Path("data/nsynth")
    """folder of the corpus"""
    notes: int = 5000
    """notes in all splits together"""
    seed: int = 0
    """decides instruments, pitches and velocities"""
    workers: int = os.cpu_count() or 1
    """notes that are played at a time"""
    real: tuple[Path, ...] = ()
    """folders of published notes in the same layout, to copy into the splits of the same name"""
    soundfont: Path = SOUNDFONT
    """SoundFont with the presets of FluidR3_GM.sf2"""
    dry_run: bool = False
    """print the plan and write nothing"""


COMMAND = Render


def main(command: Render) -> dict[str, object]:
    corpus = _renderable(command)
    plan = _plan(command, corpus)
    if command.dry_run:
        return {"output": ", ".join(f"{count:,} {what}" for what, count in plan.items()), "metrics": plan}
    begin = time.monotonic()
    new = corpus.render(
        command.out, notes=command.notes, seed=command.seed, workers=command.workers, soundfont=command.soundfont
    )
    rate = new / (time.monotonic() - begin)
    if not new:
        log.info("render %s  all %d notes are there already", command.corpus, command.notes)
    real = sum(corpus.add(command.out, folder) for folder in command.real)
    if command.real:
        log.info("render %s  %d published notes stand among them", command.corpus, real)
    return {
        "output": str(command.out),
        "metrics": {**plan, "rendered_now": new, "notes_per_second": rate, "real": real},
    }


def _renderable(command: Render) -> ModuleType:
    corpus = module_named("pipelines.corpora", command.corpus)
    if not hasattr(corpus, "render"):
        raise UsageProblem(f"The layout {command.corpus} can be read but not rendered, so nothing was done.")
    if command.seed < 0 or command.workers < 1:
        raise UsageProblem(
            f"--seed is {command.seed} and --workers {command.workers}, so nothing was done. Pass a seed of 0 or more "
            "and at least 1 worker."
        )
    return corpus


def _plan(command: Render, corpus: ModuleType) -> dict[str, int]:
    planned = corpus.planned_notes(command.notes, command.seed)
    splits = Counter(note.split for note in planned)
    instruments = len({note.entry["instrument"] for note in planned})
    return {**{f"{split} notes": splits[split] for split in SPLITS}, "instruments": instruments}


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("render")
