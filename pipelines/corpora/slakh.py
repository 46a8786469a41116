"""Slakh2100: music as mix, stems and MIDI, in TrackNNNNN/{metadata.yaml,mix.flac,stems/,MIDI/}; read and rendered.

Each track gives its mix and, for each instrument class, the mean of that class's stems, all of one group and length.
Flac or wav; in train/, validation/, test/ and omitted/ (original or redux), or side by side as in BabySlakh.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import merge
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from pipelines.corpus import Kind
from pipelines.music.layouts.slakh import (
    RENDERED_SIZES,
    RENDERED_TRACKS,
    Piece,
    counts,
    finish,
    is_rendered,
    planned,
    render_piece,
)
from pipelines.published.midi import Midi, MidiNote, derived_chords, read_midi
from pipelines.published.slakh_track import CLASSES, METADATA, MIX, SPLIT_FOLDERS, Stem, Track, read_track
from pipelines.recording import SPLITS, Event, Label, Recording, safe_id
from pipelines.source import read_source
from shards.decode import DecodeError, probe
from shards.example import Clip
from shards.problem import DataProblem, UsageProblem
from shards.words import nearest

__all__ = ["RENDERED_SIZES", "Corpus", "Piece", "counts", "finish", "is_rendered", "planned", "render_piece"]

log = logging.getLogger(__name__)

OMITTED = "omitted"
OMITTED_LIST = (
    "redux.json"  # of the slakh-utils repository, splits/redux.json: what Slakh2100-redux does with each track
)
ACTIVE_RMS, WINDOW_SECONDS = 1e-3, 0.05  # a window is active from -60 dB of full scale on

_TRACK = re.compile(r"Track\d{5}", re.ASCII)
_KEPT_TRACKS, _KEPT_RECORDINGS = 4, 64  # whose MIDI and events stay in memory: the spans of a track come in a row


@dataclass(frozen=True)
class Corpus:
    root: Path
    """folder with train/, validation/ and test/, or with the tracks themselves"""
    omitted: bool = False
    """keep tracks that play another track's MIDI file, which Slakh2100-redux omits"""
    mixtures: tuple[str, ...] = ()
    """classes to mix in equal parts, such as drums+bass: one more recording of each track that has them all"""

    sample_rate_hz: ClassVar[int | None] = None

    def labels(self) -> Mapping[str, Kind]:
        """`kind` is mix, a class or a mixture; `inst_class` has a 0 or 1 a class; a program of 128 is a drum kit.

        Programs and plugins are in the order of `stems`; `rms` and `activity` are those of the example, by `measure`.
        """
        kinds = {"track": "str", "kind": "str", "inst_class": "list[int]", "programs": "list[int]"}
        kinds |= {"plugins": "list[str]", "stems": "list[str]", "has_midi": "int", "rms": "float", "activity": "float"}
        classes = {"inst_class": list(CLASSES)}
        return {name: {"type": kind, "classes": classes.get(name)} for name, kind in kinds.items()}

    def events(self) -> Mapping[str, Kind]:
        """Notes and drums have pitches, onsets how many begin, beats their number in the bar, downbeats their bar's.

        Tempos are quarter notes a minute. Notes, drums and onsets are empty where `has_midi` is 0.
        """
        kinds = dict.fromkeys(("notes", "drums", "onsets", "beats", "downbeats"), "int")
        kinds |= {"tempos": "float", "chords_derived": "str"}
        return {name: {"type": kind, "classes": None} for name, kind in kinds.items()}

    def recordings(self) -> Iterator[Recording]:
        """Every track's mix, classes and mixtures, by track; one whose files are not all there has a problem.

        Events are left to `annotated`. Raises DataProblem when there are no tracks or filters leave none of them, and
        UsageProblem for mixtures of unknown classes.
        """
        seen: Counter[str] = Counter()
        mixtures = [_mixture(words) for words in self.mixtures]
        for track in self._kept(seen):
            for recording in _recordings(self.root, track, mixtures):
                seen[recording.split] += 1
                seen["unusable"] += bool(recording.problem)
                yield recording
        _report(self.root, seen)

    def annotated(self, recording: Recording) -> Recording:
        """The recording with its events, cut to its length; with a problem when a MIDI file of it cannot be read.

        For the worker that builds it: MIDI takes 0.2 s a track, and all notes of Slakh would take gigabytes.
        """
        if recording.problem:
            return recording
        parents = PurePosixPath(recording.path).parents
        folder = next(str(parent) for parent in parents if parent.name == recording.labels["track"])
        stems = recording.labels["stems"] if recording.labels["has_midi"] else ()
        assert isinstance(stems, tuple)
        try:
            events = _events(self.root, folder, tuple(map(str, stems)), recording.seconds or math.inf)
        except ValueError as error:
            return replace(recording, problem=str(error), labels={})
        return replace(recording, events=events)

    def measure(self, clip: Clip) -> Mapping[str, Label]:
        """What an example itself says: its RMS, full scale being 1, and the share of its time in active windows."""
        power = np.square(clip.waveform.astype(np.float64)).mean(axis=0)
        starts = np.arange(0, len(power), max(1, round(WINDOW_SECONDS * clip.sample_rate_hz)))
        lengths = np.diff([*starts, len(power)])
        is_active = np.add.reduceat(power, starts) >= ACTIVE_RMS**2 * lengths
        return {"rms": math.sqrt(power.mean()), "activity": float(lengths[is_active].sum() / len(power))}

    def _kept(self, seen: Counter[str]) -> Iterator[Track]:
        """The tracks that no filter takes, by number; of those that play one MIDI file the first, as in redux."""
        folder_of: dict[str, str] = {}
        uuids: set[str] = set()
        listed = frozenset() if self.omitted else omitted_tracks(self.root)
        for name, folder in _folders(self.root):
            seen["tracks"] += 1
            if not self.omitted and (reason := _omission(name, folder, listed)):
                seen[reason] += 1
                continue
            track = read_track(self.root, folder)
            if name in folder_of:
                track = replace(track, problem=f"the track is in {folder_of[name]} as well")
            elif not self.omitted and track.uuid and track.uuid in uuids:
                seen["that play the MIDI file of another"] += 1
                continue
            folder_of.setdefault(name, folder)
            uuids.add(track.uuid)
            yield track


def omitted_tracks(root: Path) -> frozenset[str]:
    """Names of the tracks that the user's copy of the published list omits; none without one.

    Without it nothing is lost on a whole Slakh2100: the list omits every track that plays the MIDI file of one before
    it, which the metadata tell as well. Raises DataProblem when it is no such list.
    """
    if not (path := root / OMITTED_LIST).is_file():
        return frozenset()
    try:
        actions = json.loads(path.read_bytes())
        return frozenset(name for name, entry in actions.items() if entry["action"] == "omit")
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise DataProblem(
            f"{path} is not the published list of Slakh2100-redux ({type(error).__name__}: {error}), so it cannot be "
            "told which tracks to leave out. Put the original there, or move the file away."
        ) from error


# Tracks


def _folders(root: Path) -> list[tuple[str, str]]:
    """Name and folder of every track, by name: several when it lies in several splits."""
    places = [place for place in ("", *SPLIT_FOLDERS, OMITTED) if (root / place).is_dir()]
    found = [
        (path.name, path.relative_to(root).as_posix())
        for place in places
        for path in (root / place).iterdir()
        if _TRACK.fullmatch(path.name) and path.is_dir()
    ]
    if (root / "rendered.json").is_file() and not (root / RENDERED_TRACKS).is_file():
        raise DataProblem(
            f"Rendering {root} was interrupted: it has no {RENDERED_TRACKS} yet, so tracks are missing. Repeat the "
            "command that renders it (its seed is in rendered.json); it makes what is missing."
        )
    if not found:
        raise DataProblem(
            f"{root} holds no TrackNNNNN folder, neither itself nor in {', '.join(SPLIT_FOLDERS)}, so there is no "
            f"Slakh to read. {_elsewhere(root)}Check --root, or render one there: sonograph render slakh --out {root}"
        )
    return sorted(found)


def _elsewhere(root: Path) -> str:
    inside = sorted(root.iterdir()) if root.is_dir() else []
    near = [path for path in inside if path.is_dir() and any((path / place).is_dir() for place in SPLIT_FOLDERS)]
    return f"{near[0]} does. " if near else ""


def _omission(name: str, folder: str, listed: Set[str]) -> str:
    if PurePosixPath(folder).parent.name == OMITTED:
        return f"in {OMITTED}/"
    return f"that {OMITTED_LIST} omits" if name in listed else ""


def _report(root: Path, seen: Counter[str]) -> None:
    reasons = sorted(name for name in seen if name.startswith(("in ", "that ")))
    left_out = ", ".join(f"{seen[reason]:,} {reason}" for reason in reasons) or "none"
    if not any(seen[split] for split in SPLITS):
        raise DataProblem(
            f"None of the {seen['tracks']:,} tracks of {root} is left: left out are {left_out}. There is nothing to "
            "build. Pass --omitted to keep them."
        )
    splits = "  ".join(f"{split} {seen[split]:,}" for split in SPLITS)
    log.info(
        "slakh  %d tracks  left out %s  recordings %s  unusable %d",
        seen["tracks"], left_out, splits, seen["unusable"],
    )  # fmt: skip


# Recordings


def _mixture(words: str) -> tuple[str, ...]:
    """The classes of drums+bass. Raises UsageProblem for unknown ones and when there are not several."""
    classes = tuple(words.split("+"))
    unknown = [word for word in classes if word not in CLASSES]
    if unknown or len(set(classes)) < max(2, len(classes)):
        why = nearest(unknown[0], CLASSES) if unknown else "Join several different classes by +."
        raise UsageProblem(f"--mixtures {words} is no mixture of Slakh's classes, so nothing was done. {why}")
    return classes


def _recordings(root: Path, track: Track, mixtures: Sequence[tuple[str, ...]]) -> Iterator[Recording]:
    if track.problem:
        path = f"{track.folder}/{METADATA}"
        yield Recording(safe_id(f"{track.folder}/{MIX}"), path, track.split, problem=track.problem, group=track.name)
        return
    by_class = {word: [stem for stem in track.stems if stem.class_word == word] for word in CLASSES}
    lengths = _Lengths(root / track.folder, [track.mix, *(stem.path for stem in track.stems)])
    yield _recording(track, MIX, track.stems, [track.mix], lengths)
    for word, stems in by_class.items():
        if stems:
            yield _recording(track, word, stems, [stem.path for stem in stems], lengths)
    for words in mixtures:
        members = [by_class[word] for word in words]
        if all(members):
            # Every class counts alike, whatever its stems: a file that is named twice counts twice in the mean.
            times = math.lcm(*map(len, members))
            paths = [stem.path for stems in members for stem in stems for _ in range(times // len(stems))]
            yield _recording(track, "+".join(words), [stem for stems in members for stem in stems], paths, lengths)


def _recording(track: Track, kind: str, stems: Sequence[Stem], paths: Sequence[str], lengths: "_Lengths") -> Recording:
    parts = tuple(f"{track.folder}/{path}" for path in paths)
    heard = {stem.class_word for stem in stems}
    labels: dict[str, Label] = {
        "track": track.name,
        "kind": kind,
        "inst_class": tuple(int(word in heard) for word in CLASSES),
        "programs": tuple(stem.program for stem in stems),
        "plugins": tuple(stem.plugin for stem in stems),
        "stems": tuple(stem.name for stem in stems),
        "has_midi": int(all(stem.midi_path for stem in stems) and bool(stems)),
    }
    problem = lengths.problem(paths)
    return Recording(
        recording_id=f"{track.name}_{kind.replace('+', '-')}",
        path=parts[0],
        split=track.split,
        labels={} if problem else labels,
        seconds=None if problem else lengths.seconds,
        problem=problem,
        parts=parts if len(parts) > 1 else (),
        group=track.name,
    )


class _Lengths:
    """How long a track is: as most of its files are. What is longer or shorter cannot be aligned with them."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self._found = {path: _length(folder / path) for path in paths}
        known = Counter(found for found in self._found.values() if isinstance(found, float))
        self.seconds = known.most_common(1)[0][0] if known else None

    def problem(self, paths: Sequence[str]) -> str:
        """Why the files cannot be used together; empty when they can."""
        for path in paths:
            found = self._found[path]
            if isinstance(found, str):
                return f"{path} {found}"
            if found is not None and round(found, 6) != round(self.seconds or 0.0, 6):
                return f"{path} lasts {found:.6f} s where the other files of its track last {self.seconds:.6f} s"
        return ""


def _length(path: Path) -> float | str | None:
    """Seconds that the header states, None where it states none, or why it cannot be read."""
    try:
        return probe(path).seconds
    except FileNotFoundError:
        return "is missing"
    except DecodeError as error:
        return f"cannot be decoded: {error}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


# MIDI


@dataclass(frozen=True)
class _Music:
    """What the MIDI of a track says: notes of each stem, or why there are none; beats and harmony of the whole."""

    notes: Mapping[str, tuple[MidiNote, ...]]
    unreadable: Mapping[str, str]
    whole: Midi
    chords: tuple[Event, ...]


@lru_cache(maxsize=_KEPT_TRACKS)
def _music(root: Path, folder: str) -> _Music:
    """SNN.mid is what the stem plays; all_src.mid, its source, has the beats, else the stem that plays longest."""
    track = read_track(root, folder)
    files: dict[str, Midi] = {}
    unreadable: dict[str, str] = {}
    for stem in track.stems:
        if stem.midi_path:
            try:
                files[stem.name] = read_midi(read_source(root, f"{folder}/{stem.midi_path}"))
            except (DataProblem, OSError, ValueError) as error:
                unreadable[stem.name] = f"{stem.midi_path} cannot be read: {error}"
    try:
        whole = read_midi(read_source(root, f"{folder}/all_src.mid"))
    except (DataProblem, OSError, ValueError):
        whole = max(files.values(), key=lambda midi: len(midi.beats), default=Midi((), (), ()))
    notes = {name: midi.notes for name, midi in files.items()}
    is_whole = len(files) == len(track.stems)
    beats = [seconds for seconds, _ in whole.beats]
    chords = derived_chords((note for played in notes.values() for note in played), beats) if is_whole else ()
    return _Music(notes, unreadable, whole, tuple(chords))


@lru_cache(maxsize=_KEPT_RECORDINGS)
def _events(root: Path, folder: str, stems: tuple[str, ...], seconds: float) -> Mapping[str, tuple[Event, ...]]:
    """What some stems play and what the track does meanwhile. Raises ValueError for MIDI that cannot be read."""
    music = _music(root, folder)
    if silent := [stem for stem in stems if stem not in music.notes]:
        raise ValueError(music.unreadable.get(silent[0], f"the MIDI of {silent[0]} was there when it was listed"))
    notes = list(merge(*(music.notes[stem] for stem in stems), key=attrgetter("start_seconds")))
    starts = [start for start, _ in music.whole.tempos]
    bars = (beat for beat, number in music.whole.beats if number == 1)
    events: dict[str, Iterable[Event]] = {
        "notes": ((note.start_seconds, note.end_seconds, note.pitch) for note in notes if not note.is_drum),
        "drums": ((note.start_seconds, note.end_seconds, note.pitch) for note in notes if note.is_drum),
        "onsets": ((start, start, count) for start, count in Counter(note.start_seconds for note in notes).items()),
        "beats": ((beat, beat, number) for beat, number in music.whole.beats),
        "downbeats": ((beat, beat, bar) for bar, beat in enumerate(bars, 1)),
        "tempos": (
            (start, end, tempo) for (start, tempo), end in zip(music.whole.tempos, [*starts[1:], seconds], strict=False)
        ),
        "chords_derived": music.chords,
    }
    return {name: tuple(_cut(listed, seconds)) for name, listed in events.items()}


def _cut(events: Iterable[Event], seconds: float) -> Iterator[Event]:
    return ((start, min(end, seconds), value) for start, end, value in events if start < seconds)
