"""NSynth: notes of 4 s, 16 kHz mono, in nsynth-{train,valid,test}/{examples.json,audio/*.wav}; read and rendered.

Rendered notes bear note ids from 500,000, instrument ids from 3,000 and instrument names from 500; the published ones
end before 306,043, 1,006 and 200, so both may stand in one corpus and are never taken for each other.
"""

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from pipelines.music.instruments import Instrument, even_parts, instruments
from pipelines.music.synthesis import SOUNDFONT, Tone, check_soundfont, fluidsynth_version, play, wav_of
from pipelines.recording import SPLITS, Recording
from shards.problem import DataProblem, UsageProblem
from shards.store import remove_partials, sha256_of, whole_file, write_json

log = logging.getLogger(__name__)

SAMPLE_RATE_HZ = 16_000
SECONDS = 4.0
HELD_SECONDS = 3.0
VELOCITIES = (25, 50, 75, 100, 127)
FAMILIES = "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal".split()
SOURCES = "acoustic electronic synthetic".split()
QUALITIES = (
    "bright dark distortion fast_decay long_release multiphonic nonlinear_env percussive reverb tempo-synced".split()
)
LABELS: dict[str, dict[str, object]] = {
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

_NAME = re.compile(r"[a-z]+(_[a-z]+)+_\d{3}-\d{3}-\d{3}", re.ASCII)
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
_FIRST_NOTE, _FIRST_INSTRUMENT, _FIRST_NAME = 500_000, 3_000, 500
_LEAST_NOTES, _MOST_NOTES = 33, 40_000  # one for each family and split; until names run out of digits
_CHUNK_NOTES = 32  # of one child process: 50 MB of sound on its way
_REPORT_SECONDS = 5.0
_PEAK = 0.95  # published notes are normalised: at every velocity their peaks lie just below it


# Reading


def recordings(root: Path) -> Iterator[Recording]:
    """Every note that an examples.json lists or that lies in an audio/, sorted by split and id.

    Bad entries and wav files without an entry keep their place, with a `problem`; a listed file that is absent is
    found at decoding. NSynth's valid and test share instruments with each other, never with train, and probes rely
    on it: a train note whose instrument is heard there has a problem. Raises DataProblem when a split can't be read.
    """
    listed = {split: _examples(root, split) for split in _splits(root)}
    return _recordings(root, listed, held_out=_instruments_outside_train(listed))


def entry_problem(name: str, entry: object) -> str:
    """Why an entry of examples.json cannot be used; empty when it can."""
    if not _NAME.fullmatch(name):
        return "its name is not FAMILY_SOURCE_NNN-PITCH-VELOCITY"
    if not isinstance(entry, dict):
        return "its entry is no table of fields"
    return _mistyped(entry) or _contradiction(name, entry)


def _splits(root: Path) -> list[str]:
    splits = [split for split in SPLITS if (root / f"nsynth-{split}").is_dir()]
    if not splits:
        raise DataProblem(
            f"{root} holds none of nsynth-train, nsynth-valid and nsynth-test, so there is no NSynth to read. Check "
            f"--root, or render one there: sonograph render nsynth --out {root}"
        )
    unfinished = [split for split in SPLITS if not (root / f"nsynth-{split}" / "examples.json").is_file()]
    if unfinished and (root / MARKER).is_file():
        raise DataProblem(
            f"Rendering {root} was interrupted: nsynth-{unfinished[0]} has no examples.json yet, so notes are missing. "
            f"Repeat the command that renders it (its seed is in {MARKER}); it makes what is missing."
        )
    return splits


def _examples(root: Path, split: str) -> dict[str, object]:
    path = root / f"nsynth-{split}" / "examples.json"
    try:
        listed = json.loads(path.read_bytes(), object_pairs_hook=_unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise DataProblem(_unreadable(path, error)) from error
    if not isinstance(listed, dict) or not listed:
        raise DataProblem(_unreadable(path, "it is no table of notes, or an empty one"))
    return listed


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"it lists {Counter(name for name, _ in pairs).most_common(1)[0][0]} twice")
    return table


def _unreadable(path: Path, cause: object) -> str:
    return (
        f"{path} cannot be read: {cause}. Without it the notes in {path.parent} have no labels. Put NSynth's own "
        f"examples.json there, or move {path.parent.name} away to go on without it."
    )


def _recordings(root: Path, listed: Mapping[str, Mapping[str, object]], held_out: Set[object]) -> Iterator[Recording]:
    seen: set[str] = set()
    for split, entries in sorted(listed.items()):
        found = [_recording(split, name, entry, held_out) for name, entry in entries.items()]
        names = {path.stem for path in (root / f"nsynth-{split}" / "audio").glob("*.wav")}
        found += [_stray(split, name) for name in names - entries.keys()]
        for recording in sorted(found, key=lambda recording: recording.recording_id):
            yield _second(recording) if recording.recording_id in seen else recording
            seen.add(recording.recording_id)


def _recording(split: str, name: str, entry: object, held_out: Set[object]) -> Recording:
    if problem := entry_problem(name, entry):
        path = f"nsynth-{split}/examples.json"  # its name may lead anywhere, so it names no file
        return Recording(_safe_id(split, name), path, split, {}, SECONDS, f"{name[:80]!r}: {problem}"[:300])
    labels = {field: tuple(value) if isinstance(value := entry[field], list) else value for field in LABELS}  # type: ignore[index]
    recording = Recording(name, f"nsynth-{split}/audio/{name}.wav", split, labels, SECONDS)
    if split == "train" and not held_out.isdisjoint((labels["instrument"], labels["instrument_str"])):
        return replace(recording, problem="its instrument is also in valid or test: training would make it known there")
    return recording


def _stray(split: str, name: str) -> Recording:
    path = f"nsynth-{split}/audio/{name}.wav".encode(errors="backslashreplace").decode()  # it may be any bytes
    return Recording(
        _safe_id(split, name), path, split, {}, SECONDS, "examples.json does not list it: it has no labels"
    )


def _second(recording: Recording) -> Recording:
    problem = recording.problem or "another split has a note of the same name"
    return replace(recording, recording_id=f"{recording.recording_id}--{recording.split}", problem=problem)


def _safe_id(split: str, name: str) -> str:
    if _SAFE_ID.fullmatch(name):
        return name
    digest = sha256(f"{split}/{name}".encode(errors="surrogatepass")).hexdigest()
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60] + "--" + digest[:12]


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


# Rendering


@dataclass(frozen=True)
class PlannedNote:
    """A note to render: where it belongs, what examples.json says of it, how it is played."""

    split: str
    entry: Mapping[str, object]
    tone: Tone

    @property
    def name(self) -> str:
        return str(self.entry["note_str"])


def render(root: Path, *, notes: int, seed: int, workers: int, soundfont: Path = SOUNDFONT) -> int:
    """Render what is missing of a corpus into `root`; returns how many notes that were. Same seed, same bytes.

    Raises DataProblem when `root` holds anything else, EnvironmentProblem without synthesiser, SoundFont or disk space,
    UsageProblem when so many notes cannot be had, RunFailed when the synthesiser fails.
    """
    planned = planned_notes(notes, seed)
    check_soundfont(soundfont, [note.tone for note in planned])
    _claim(root, _marker(notes, seed, soundfont))
    missing = [note for note in planned if not _audio(root, note.split, note.name).is_file()]
    _render_all(root, missing, soundfont=soundfont, workers=workers)
    for split in SPLITS:
        if not (examples := root / f"nsynth-{split}" / "examples.json").is_file():
            write_json(examples, {note.name: note.entry for note in planned if note.split == split})
    return len(missing)


def add(root: Path, folder: Path) -> int:
    """Copy the notes of another NSynth folder into the splits of the same name, wav bytes and entries unchanged.

    Notes that cannot be used are left out and logged. Returns how many of the folder's notes are in `root` then.
    Raises DataProblem, before anything is copied, when one name stands for two different notes.
    """
    if (folder / MARKER).is_file():
        raise UsageProblem(f"{folder} is itself rendered, so nothing was added. Pass folders of published notes.")
    usable = [note for note in recordings(folder) if _is_addable(folder, note)]
    names = {split: [note.recording_id for note in usable if note.split == split] for split in SPLITS}
    merged = {split: _merged(root, folder, split, names[split]) for split in SPLITS if names[split]}
    for split, entries in merged.items():
        for name in names[split]:
            with whole_file(_audio(root, split, name)) as file:
                file.write(_audio(folder, split, name).read_bytes())
        write_json(root / f"nsynth-{split}" / "examples.json", entries)
    for other in {path.name for path in folder.glob("nsynth-*")} - {f"nsynth-{split}" for split in SPLITS}:
        log.warning("not added: %s, which is no split of NSynth", folder / other)
    return len(usable)


def _is_addable(folder: Path, note: Recording) -> bool:
    problem = note.problem or ("" if (folder / note.path).is_file() else "there is no such file")
    if problem:
        log.warning("not added: %s: %s", folder / note.path, problem)
    return not problem


def _merged(root: Path, folder: Path, split: str, names: Sequence[str]) -> dict[str, object]:
    """The target's entries with those of `names`. Raises DataProblem when a name already means something else."""
    listed, published = _examples(root, split), _examples(folder, split)
    for name in names:
        there = _audio(root, split, name)
        if listed.get(name, published[name]) != published[name] or (
            there.is_file() and there.read_bytes() != _audio(folder, split, name).read_bytes()
        ):
            raise DataProblem(
                f"{name} is another note in {root} than in {folder}, so nothing of that folder was added. Rename one "
                "of them, or leave the folder out."
            )
    return listed | {name: published[name] for name in names}


def planned_notes(notes: int, seed: int) -> list[PlannedNote]:
    """All notes of a rendered corpus: 70 % train, 8 % valid, 22 % test, families even, instruments disjoint."""
    if not _LEAST_NOTES <= notes <= _MOST_NOTES:
        raise UsageProblem(
            f"{notes:,} notes cannot be rendered: every family needs one in every split, and instruments run out of "
            f"numbers. Pass --notes between {_LEAST_NOTES} and {_MOST_NOTES:,}."
        )
    planned: list[PlannedNote] = []
    named: Counter[str] = Counter()
    for number, instrument in enumerate(_instruments(notes, seed), _FIRST_INSTRUMENT):
        kind = f"{instrument.preset.family}_{instrument.preset.source}"
        planned += _played(instrument, number, f"{kind}_{_FIRST_NAME + named[kind]}", _FIRST_NOTE + len(planned))
        named[kind] += 1
    return planned


def _instruments(notes: int, seed: int) -> Iterator[Instrument]:
    valid, test = (max(len(FAMILIES), round(notes * share)) for share in (0.08, 0.22))
    for split, split_notes in zip(SPLITS, (notes - valid - test, valid, test), strict=True):
        for family, family_notes in zip(FAMILIES, even_parts(split_notes, len(FAMILIES)), strict=True):
            rng = np.random.default_rng([seed, SPLITS.index(split), FAMILIES.index(family)])
            yield from instruments(family, split, notes=family_notes, velocities=VELOCITIES, rng=rng)


def _played(instrument: Instrument, number: int, name: str, first_note: int) -> Iterator[PlannedNote]:
    preset = instrument.preset
    for note, (pitch, velocity) in enumerate(instrument.keys, first_note):
        entry = {
            "note": note,
            "note_str": f"{name}-{pitch:03}-{velocity:03}",
            "instrument": number,
            "instrument_str": name,
            "pitch": pitch,
            "velocity": velocity,
            "sample_rate": SAMPLE_RATE_HZ,
            "qualities": [0] * len(QUALITIES),  # nobody listened to them: they claim none
            "qualities_str": [],
            "instrument_family": FAMILIES.index(preset.family),
            "instrument_family_str": preset.family,
            "instrument_source": SOURCES.index(preset.source),
            "instrument_source_str": preset.source,
        }
        yield PlannedNote(preset.split, entry, Tone(preset.bank, preset.program, pitch, velocity, instrument.timbre))


def _marker(notes: int, seed: int, soundfont: Path) -> dict[str, object]:
    return {
        "corpus": "nsynth",
        "what": "Notes rendered from a SoundFont in the layout of NSynth; not the NSynth dataset.",
        "notes": notes,
        "seed": seed,
        "soundfont": sha256_of(soundfont),
        "fluidsynth": fluidsynth_version(),
    }


def _claim(root: Path, marker: Mapping[str, object]) -> None:
    """Take an empty folder, or one in which the same corpus was begun."""
    path = root / MARKER
    remove_partials(root)
    if path.is_file():
        found = json.loads(path.read_bytes())
        different = [
            f"{key} {found.get(key)} there, {marker[key]} here" for key in marker if found.get(key) != marker[key]
        ]
        if different:
            raise DataProblem(
                f"{root} holds another rendered corpus ({'; '.join(different)}). Notes of both would mix, so nothing "
                "was written. Pass another --out, or delete that folder."
            )
    elif root.exists() and (not root.is_dir() or any(inside.name != "RESULT.json" for inside in root.iterdir())):
        raise DataProblem(
            f"{root} is not empty and was not rendered by this command: it has no {MARKER}. Nothing was written, so "
            "that nothing is lost. Pass another --out."
        )
    else:
        write_json(path, marker)


def _render_all(root: Path, notes: Sequence[PlannedNote], *, soundfont: Path, workers: int) -> None:
    """Threads suffice: each waits for its fluidsynth process, and decoding leaves the interpreter free."""
    chunks = [notes[start : start + _CHUNK_NOTES] for start in range(0, len(notes), _CHUNK_NOTES)]
    done, begin, reported = 0, time.monotonic(), 0.0
    pool = ThreadPoolExecutor(workers)
    try:
        for chunk_notes in pool.map(partial(_render_chunk, root, soundfont), chunks):
            done += chunk_notes
            seconds = time.monotonic() - begin
            if seconds - reported >= _REPORT_SECONDS or done == len(notes):
                reported, rate = seconds, done / seconds
                eta_seconds = (len(notes) - done) / rate
                log.info("render nsynth  note %d/%d  %.0f notes/s  eta %.0f s", done, len(notes), rate, eta_seconds)
    finally:
        pool.shutdown(cancel_futures=True)


def _render_chunk(root: Path, soundfont: Path, notes: Sequence[PlannedNote]) -> int:
    tones = [note.tone for note in notes]
    sounds = play(tones, soundfont=soundfont, held_seconds=HELD_SECONDS, seconds=SECONDS, sample_rate_hz=SAMPLE_RATE_HZ)
    for note, waveform in zip(notes, sounds, strict=True):
        with whole_file(_audio(root, note.split, note.name)) as file:
            file.write(wav_of(waveform, peak=_PEAK, sample_rate_hz=SAMPLE_RATE_HZ))
    return len(notes)


def _audio(root: Path, split: str, name: str) -> Path:
    return root / f"nsynth-{split}" / "audio" / f"{name}.wav"
