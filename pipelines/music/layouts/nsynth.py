"""Notes rendered in the layout of NSynth, and what that layout calls things.

They bear note ids from 500,000, instrument ids from 3,000 and instrument names from 500; the published ones end before
306,043, 1,006 and 200, so both may stand in one corpus and are never taken for each other. About 100 notes/s and core.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.music.instruments import PRESETS, Instrument, even_parts, instruments
from pipelines.music.synthesis import Tone, play, wav_of
from pipelines.recording import SPLITS
from shards.problem import UsageProblem
from shards.store import whole_file, write_json

RENDERED_SIZES = {"notes": 5000}
RENDERED_PRESETS = frozenset((preset.bank, preset.program) for preset in PRESETS)
SAMPLE_RATE_HZ = 16_000
SECONDS = 4.0
HELD_SECONDS = 3.0
VELOCITIES = (25, 50, 75, 100, 127)
FAMILIES = "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal".split()
SOURCES = "acoustic electronic synthetic".split()
QUALITIES = (
    "bright dark distortion fast_decay long_release multiphonic nonlinear_env percussive reverb tempo-synced".split()
)

_FIRST_NOTE, _FIRST_INSTRUMENT, _FIRST_NAME = 500_000, 3_000, 500
_LEAST_NOTES, _MOST_NOTES = 33, 40_000  # one for each family and split; until names run out of digits
_PIECE_NOTES = 32  # of one child process: 50 MB of sound on its way
_PEAK = 0.95  # published notes are normalised: at every velocity their peaks lie just below it


@dataclass(frozen=True)
class PlannedNote:
    """A note to render: where it belongs, what examples.json says of it, how it is played."""

    split: str
    entry: Mapping[str, object]
    tone: Tone

    @property
    def name(self) -> str:
        return str(self.entry["note_str"])


@dataclass(frozen=True)
class Piece:
    """Some notes that one child process plays."""

    number: int
    notes: tuple[PlannedNote, ...]

    @property
    def seconds(self) -> float:
        return SECONDS * len(self.notes)


def planned(*, size: Mapping[str, float], seed: int) -> list[Piece]:
    """All notes of a rendered corpus of `size["notes"]`, a piece for each child process."""
    notes = planned_notes(int(size["notes"]), seed)
    starts = range(0, len(notes), _PIECE_NOTES)
    return [Piece(number, tuple(notes[start : start + _PIECE_NOTES])) for number, start in enumerate(starts)]


def counts(pieces: Sequence[Piece]) -> dict[str, int]:
    """Notes of each split, and instruments."""
    notes = [note for piece in pieces for note in piece.notes]
    splits = Counter(note.split for note in notes)
    heard = len({note.entry["instrument"] for note in notes})
    return {**{f"{split} notes": splits[split] for split in SPLITS}, "instruments": heard}


def is_rendered(root: Path, piece: Piece) -> bool:
    return not _missing(root, piece)


def render_piece(root: Path, piece: Piece, soundfont: Path) -> None:
    """Play and write the notes of a piece that are not there. Raises RunFailed when the synthesiser fails."""
    notes = _missing(root, piece)
    tones = [note.tone for note in notes]
    sounds = play(tones, soundfont=soundfont, held_seconds=HELD_SECONDS, seconds=SECONDS, sample_rate_hz=SAMPLE_RATE_HZ)
    for note, waveform in zip(notes, sounds, strict=True):
        with whole_file(audio_path(root, note.split, note.name)) as file:
            file.write(wav_of(waveform, peak=_PEAK, sample_rate_hz=SAMPLE_RATE_HZ))


def finish(root: Path, pieces: Sequence[Piece]) -> None:
    """Write the examples.json of every split that has none: by it a split counts as whole."""
    notes = [note for piece in pieces for note in piece.notes]
    for split in SPLITS:
        if not (examples := examples_path(root, split)).is_file():
            write_json(examples, {note.name: note.entry for note in notes if note.split == split})


def examples_path(root: Path, split: str) -> Path:
    return root / f"nsynth-{split}" / "examples.json"


def audio_path(root: Path, split: str, name: str) -> Path:
    return root / f"nsynth-{split}" / "audio" / f"{name}.wav"


def planned_notes(notes: int, seed: int) -> list[PlannedNote]:
    """All notes of a rendered corpus: 70 % train, 8 % valid, 22 % test, families even, instruments disjoint.

    Raises UsageProblem when so many notes cannot be had.
    """
    if not _LEAST_NOTES <= notes <= _MOST_NOTES:
        raise UsageProblem(
            f"{notes:,} notes cannot be rendered: every family needs one in every split, and instruments run out of "
            f"numbers. Pass --notes between {_LEAST_NOTES} and {_MOST_NOTES:,}."
        )
    found: list[PlannedNote] = []
    named: Counter[str] = Counter()
    for number, instrument in enumerate(_instruments(notes, seed), _FIRST_INSTRUMENT):
        kind = f"{instrument.preset.family}_{instrument.preset.source}"
        found += _played(instrument, number, f"{kind}_{_FIRST_NAME + named[kind]}", _FIRST_NOTE + len(found))
        named[kind] += 1
    return found


def _missing(root: Path, piece: Piece) -> list[PlannedNote]:
    return [note for note in piece.notes if not audio_path(root, note.split, note.name).is_file()]


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
