"""NSynth: notes of 4 s, 16 kHz mono, in nsynth-{train,valid,test}/{examples.json,audio/*.wav}; read and rendered.

Each split may be the folder or the published archive, nsynth-SPLIT.jsonwav.tar.gz, which is read without unpacking it.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import tyro

from pipelines.archive import open_archive
from pipelines.corpus import Kind
from pipelines.music.layouts.nsynth import (
    FAMILIES,
    QUALITIES,
    RENDERED_PRESETS,
    RENDERED_SIZES,
    SAMPLE_RATE_HZ,
    SECONDS,
    SOURCES,
    audio_path,
    counts,
    examples_path,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.recording import SPLITS, Recording, safe_id
from pipelines.source import Tree, in_archive, names_in, read_source
from shards.problem import DataProblem, UsageProblem
from shards.store import whole_file, write_json

__all__ = [
    "LABELS",
    "RENDERED_PRESETS",
    "RENDERED_SIZES",
    "Corpus",
    "add",
    "counts",
    "finish",
    "is_rendered",
    "planned",
    "render_piece",
]

log = logging.getLogger(__name__)

LABELS: dict[str, Kind] = {
    "note": {"type": "int", "classes": None},
    "note_str": {"type": "str", "classes": None},
    "instrument": {"type": "int", "classes": None},
    "instrument_str": {"type": "str", "classes": None},
    "pitch": {"type": "int", "classes": None},
    "velocity": {"type": "int", "classes": None},
    "sample_rate": {"type": "int", "classes": None},
    "qualities": {"type": "list[int]", "classes": QUALITIES},
    "qualities_str": {"type": "list[str]", "classes": None},
    "instrument_family": {"type": "int", "classes": FAMILIES},
    "instrument_family_str": {"type": "str", "classes": None},
    "instrument_source": {"type": "int", "classes": SOURCES},
    "instrument_source_str": {"type": "str", "classes": None},
}
MARKER = "rendered.json"

_ARCHIVES = (".jsonwav.tar", ".jsonwav.tar.gz")  # as unpacked by some browsers, and as published
_NAME = re.compile(r"[a-z]+(_[a-z]+)+_\d{3}-\d{3}-\d{3}", re.ASCII)


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with nsynth-train, nsynth-valid and nsynth-test, or their .jsonwav.tar.gz; any of them may lack"""
    indexes: tyro.conf.Suppress[Path | None] = None

    sample_rate_hz: ClassVar[int | None] = SAMPLE_RATE_HZ

    def labels(self) -> Mapping[str, Kind]:
        return LABELS

    def events(self) -> Mapping[str, Kind]:
        return {}

    def recordings(self) -> Iterator[Recording]:
        """Every note that an examples.json lists or that lies in an audio/, sorted by split and id.

        Bad entries and wav files without an entry keep their place, with a `problem`. NSynth's valid and test share
        instruments with each other, never with train, and probes rely on it: a train note whose instrument is heard
        there has a problem. Raises DataProblem when a split cannot be read.
        """
        homes = _homes(self.root)
        listed = {split: _examples(self.root, home, self.indexes) for split, home in homes.items()}
        held_out = _instruments_outside_train(listed)
        seen: set[str] = set()
        for split, entries in sorted(listed.items()):
            found = [_recording(homes[split], split, name, entry, held_out) for name, entry in entries.items()]
            names = names_in(self.root, f"{homes[split]}/audio", self.indexes)
            found += _strays(homes[split], split, names, entries)
            for recording in sorted(found, key=lambda recording: recording.recording_id):
                yield _second(recording) if recording.recording_id in seen else recording
                seen.add(recording.recording_id)


def entry_problem(name: str, entry: object) -> str:
    """Why an entry of examples.json cannot be used; empty when it can."""
    if not _NAME.fullmatch(name):
        return "its name is not FAMILY_SOURCE_NNN-PITCH-VELOCITY"
    if not isinstance(entry, dict):
        return "its entry is no table of fields"
    return _mistyped(entry) or _contradiction(name, entry)


def _homes(root: Path) -> dict[str, str]:
    """Where the notes of each split lie: its folder, or else the same folder in its archive."""
    archives = {split: f"nsynth-{split}{end}" for split in SPLITS for end in _ARCHIVES if _is_there(root, split, end)}
    homes = {split: f"{archive}/nsynth-{split}" for split, archive in archives.items()}
    homes |= {split: f"nsynth-{split}" for split in SPLITS if (root / f"nsynth-{split}").is_dir()}
    if not homes:
        raise DataProblem(
            f"{root} holds none of nsynth-train, nsynth-valid and nsynth-test, nor their .jsonwav.tar.gz, so there is "
            f"no NSynth to read. Check --root, or render one there: sonograph render nsynth --out {root}"
        )
    unfinished = [split for split in SPLITS if not examples_path(root, split).is_file()]
    if unfinished and (root / MARKER).is_file():
        raise DataProblem(
            f"Rendering {root} was interrupted: nsynth-{unfinished[0]} has no examples.json yet, so notes are missing. "
            f"Repeat the command that renders it (its seed is in {MARKER}); it makes what is missing."
        )
    return homes


def _is_there(root: Path, split: str, end: str) -> bool:
    return (root / f"nsynth-{split}{end}").is_file()


def _examples(root: Path, home: str, indexes: Path | None = None) -> dict[str, object]:
    path = f"{home}/examples.json"
    if inside := in_archive(root, path):
        open_archive(root, inside[0], indexes)  # what is wrong with it as a whole, it says itself
    try:
        listed = json.loads(read_source(root, path, indexes), object_pairs_hook=_unrepeated)
    except (OSError, ValueError, RecursionError, DataProblem) as error:
        raise DataProblem(_unreadable(root, path, error)) from error
    if not isinstance(listed, dict) or not listed:
        raise DataProblem(_unreadable(root, path, "it is no table of notes, or an empty one"))
    return listed


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"it lists {Counter(name for name, _ in pairs).most_common(1)[0][0]} twice")
    return table


def _unreadable(root: Path, path: str, cause: object) -> str:
    return (
        f"{root / path} cannot be read: {cause}. Without it the notes beside it have no labels. Put NSynth's own "
        f"examples.json there, or move {path.partition('/')[0]} away to go on without it."
    )


def _recording(home: str, split: str, name: str, entry: object, held_out: Set[object]) -> Recording:
    if problem := entry_problem(name, entry):
        path = f"{home}/examples.json"  # its name may lead anywhere, so it names no file
        return Recording(safe_id(name), path, split, {}, SECONDS, f"{problem[:200]}: {name[:80]!r}")
    labels = {field: tuple(value) if isinstance(value := entry[field], list) else value for field in LABELS}  # type: ignore[index]
    recording = Recording(name, f"{home}/audio/{name}.wav", split, labels, SECONDS)
    if split == "train" and not held_out.isdisjoint((labels["instrument"], labels["instrument_str"])):
        return replace(recording, problem="its instrument is also in valid or test: training would make it known there")
    return recording


def _strays(
    home: str, split: str, names: Iterable[tuple[str, str]], entries: Mapping[str, object]
) -> Iterator[Recording]:
    """Files beside the listed ones, and what an archive holds that must not be read."""
    for name, problem in names:
        stem = name.removesuffix(".wav")
        if stem not in entries and (problem or stem != name):
            path = f"{home}/audio/{name}".encode(errors="backslashreplace").decode()  # it may be any bytes
            problem = problem or "examples.json does not list it, so that it has no labels"
            yield Recording(safe_id(stem), path, split, {}, SECONDS, problem)


def _second(recording: Recording) -> Recording:
    problem = recording.problem or "another split has a note of the same name"
    return replace(recording, recording_id=f"{recording.recording_id}--{recording.split}", problem=problem)


def _instruments_outside_train(listed: Mapping[str, Mapping[str, object]]) -> set[object]:
    entries = [entry for split in listed if split != "train" for entry in listed[split].items()]
    usable = [entry for name, entry in entries if not entry_problem(name, entry)]
    return {entry[field] for entry in usable for field in ("instrument", "instrument_str")}  # type: ignore[index]


def _mistyped(entry: Mapping[str, object]) -> str:
    for field, label in LABELS.items():
        if field not in entry:
            return f"it has no {field}"
        if not _is_of_type(entry[field], str(label["type"])):
            return f"its {field} is {json.dumps(entry[field])[:60]}, not {label['type']}"
    return ""


def _is_of_type(value: object, kind: str) -> bool:
    if kind.startswith("list"):
        return isinstance(value, list) and all(_is_of_type(element, kind[5:-1]) for element in value)
    # To isinstance a bool is an int; the index of a dataset has 64 bits for one.
    return type(value) is int and abs(value) < 2**63 if kind == "int" else isinstance(value, str)


def _contradiction(name: str, entry: Mapping) -> str:
    pitch, velocity, instrument = entry["pitch"], entry["velocity"], entry["instrument_str"]
    kind = f"{entry['instrument_family_str']}_{entry['instrument_source_str']}"
    flags = dict(zip(QUALITIES, entry["qualities"], strict=False))
    claims = {
        f"its pitch is {pitch}, not in 0..127": 0 <= pitch <= 127,
        f"its velocity is {velocity}, not in 0..127": 0 <= velocity <= 127,
        f"its sample_rate is {entry['sample_rate']}, not {SAMPLE_RATE_HZ}": entry["sample_rate"] == SAMPLE_RATE_HZ,
        "its instrument_family is not the number of its instrument_family_str": _numbered(entry, "family", FAMILIES),
        "its instrument_source is not the number of its instrument_source_str": _numbered(entry, "source", SOURCES),
        f"its instrument_str {instrument!r} does not begin with {kind}": instrument[:-4] == kind,
        "its qualities are not ten numbers 0 or 1": len(entry["qualities"]) == 10 and {*entry["qualities"]} <= {0, 1},
        "its qualities_str do not name its qualities": sorted(entry["qualities_str"]) == [q for q in flags if flags[q]],
        f"its note_str is {entry['note_str']!r}": entry["note_str"] == name,
        "its name is not that of its instrument, pitch and velocity": name == f"{instrument}-{pitch:03}-{velocity:03}",
    }
    return next((claim for claim, holds in claims.items() if not holds), "")


def _numbered(entry: Mapping, what: str, names: Sequence[str]) -> bool:
    return dict(enumerate(names)).get(entry[f"instrument_{what}"]) == entry[f"instrument_{what}_str"]


# Adding published notes


def add(root: Path, folder: Path) -> int:
    """Copy the notes of another NSynth folder into the splits of the same name, wav bytes and entries unchanged.

    Notes that cannot be used are left out and logged. Returns how many of the folder's notes are in `root` then.
    Raises DataProblem, before anything is copied, when one name stands for two different notes.
    """
    if (folder / MARKER).is_file():
        raise UsageProblem(f"{folder} is itself rendered, so nothing was added. Pass folders of published notes.")
    tree = Tree(folder)
    usable = [note for note in Corpus(folder).recordings() if _is_addable(tree, note)]
    notes = {split: [note for note in usable if note.split == split] for split in SPLITS}
    merged = {split: _merged(root, folder, split, notes[split]) for split in SPLITS if notes[split]}
    for split, entries in merged.items():
        for note in notes[split]:
            with whole_file(audio_path(root, split, note.recording_id)) as file:
                file.write(read_source(folder, note.path))
        write_json(examples_path(root, split), entries)
    for other in {path.name for path in folder.glob("nsynth-*")} - _known_names():
        log.warning("not added: %s, which is no split of NSynth", folder / other)
    return len(usable)


def _known_names() -> set[str]:
    return {f"nsynth-{split}{end}" for split in SPLITS for end in ("", *_ARCHIVES)}


def _is_addable(tree: Tree, note: Recording) -> bool:
    problem = note.problem or tree.problem(note.path)
    if problem:
        log.warning("not added: %s: %s", tree.root / note.path, problem)
    return not problem


def _merged(root: Path, folder: Path, split: str, notes: Sequence[Recording]) -> dict[str, object]:
    """The target's entries with those of `notes`. Raises DataProblem when a name already means something else."""
    listed, published = _examples(root, f"nsynth-{split}"), _examples(folder, _homes(folder)[split])
    for note in notes:
        name, there = note.recording_id, audio_path(root, split, note.recording_id)
        if listed.get(name, published[name]) != published[name] or (
            there.is_file() and there.read_bytes() != read_source(folder, note.path)
        ):
            raise DataProblem(
                f"{name} is another note in {root} than in {folder}, so nothing of that folder was added. Rename one "
                "of them, or leave the folder out."
            )
    return listed | {note.recording_id: published[note.recording_id] for note in notes}
