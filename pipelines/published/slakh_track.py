"""A track of Slakh as its metadata.yaml describes it. Whatever that says, nothing outside its folder is ever named."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as short

import yaml

from pipelines.music.score import DRUMS, INSTRUMENT_CLASSES
from pipelines.recording import SPLITS

METADATA, MIX = "metadata.yaml", "mix"
SPLIT_FOLDERS = {"train": "train", "validation": "valid", "test": "test"}
CLASSES = {re.sub(r"[^a-z]+", "_", name.lower()).strip("_"): name for name in (*INSTRUMENT_CLASSES, DRUMS)}
"""What a class is called here, and what Slakh calls it."""

_WORD_OF = {name.casefold(): word for word, name in CLASSES.items()}  # Slakh has Sound Effects and Sound effects
_STEM = re.compile(r"S\d{2,3}", re.ASCII)
_LAST_NUMBERS = (1_500, 1_875, 2_100)  # of the original train, validation and test
_MOST_METADATA_BYTES = 1 << 16  # forty stems have 10,000


@dataclass(frozen=True)
class Stem:
    """One rendered instrument; its paths are relative to the track, that of its MIDI empty where it has none."""

    name: str
    class_word: str
    program: int
    plugin: str
    path: str
    midi_path: str


@dataclass(frozen=True)
class Track:
    """A folder, relative to the root, and what is in it; `uuid` is the MIDI file that it plays."""

    name: str
    folder: str
    split: str
    uuid: str = ""
    mix: str = ""
    stems: tuple[Stem, ...] = ()
    problem: str = ""


def read_track(root: Path, folder: str) -> Track:
    """What a track's metadata says, and which of its files are there; with a problem when it cannot be used."""
    path = PurePosixPath(folder)
    split = SPLIT_FOLDERS.get(path.parent.name) or _split_of(path.name)
    try:
        metadata = _metadata(root / folder / METADATA)
        audio, midi = _inside(path.name, metadata, "audio_dir"), _inside(path.name, metadata, "midi_dir")
        stems = tuple(_stems(root / folder, metadata, audio or "stems", midi or "MIDI"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())[:300]
        return Track(path.name, folder, split, problem=f"its {METADATA} cannot be used: {said}")
    except OSError as error:
        return Track(path.name, folder, split, problem=f"its {METADATA} cannot be read: {error.strerror}")
    return Track(path.name, folder, split, str(metadata.get("UUID") or ""), _audio(root / folder, MIX), stems)


def track_number(name: str) -> int:
    return int(name.removeprefix("Track"))


def _split_of(name: str) -> str:
    """The split to which a track belonged at first, for those that lie in none; train for numbers of others."""
    number = track_number(name)
    return SPLITS[bisect_left(_LAST_NUMBERS, number)] if number <= _LAST_NUMBERS[-1] else "train"


def _metadata(path: Path) -> Mapping[str, object]:
    size = path.stat().st_size
    if size > _MOST_METADATA_BYTES:
        raise ValueError(f"it has {size:,} bytes, where one of Slakh has at most {_MOST_METADATA_BYTES:,}")
    source = path.read_bytes()
    # Aliases let a few lines stand for millions; Slakh has none.
    if b"*" in source and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(source, yaml.SafeLoader)):
        raise ValueError("it uses YAML aliases")
    metadata = yaml.safe_load(source)
    if not isinstance(metadata, dict):
        raise ValueError("it is no table of fields")
    return metadata


def _inside(track: str, metadata: Mapping[str, object], key: str) -> str:
    """A folder that metadata names, relative to the track; empty when it names none. Raises ValueError outside it."""
    named = metadata.get(key)
    path = PurePosixPath(named if isinstance(named, str) else "")
    if ".." in path.parts or path.is_absolute() or re.search(r"[\\:\0]", str(path)):
        raise ValueError(f"its {key} is {short(named)}, which leaves the track")
    within = path.relative_to(track) if path.parts[:1] == (track,) else path
    return "/".join(within.parts)


def _stems(track: Path, metadata: Mapping[str, object], audio: str, midi: str) -> Iterator[Stem]:
    """The stems that were rendered, by name; some of Slakh's were not."""
    entries = metadata.get("stems")
    if not isinstance(entries, dict) or not entries:
        raise ValueError("it lists no stems")
    for name, entry in sorted(entries.items(), key=lambda pair: str(pair[0])):
        if not (isinstance(name, str) and _STEM.fullmatch(name) and isinstance(entry, dict)):
            raise ValueError(f"its stem {short(name)} is not SNN with a table of fields")
        if entry.get("audio_rendered", True):
            class_word, program = _class_and_program(name, entry)
            midi_path = f"{midi}/{name}.mid" if (track / midi / f"{name}.mid").is_file() else ""
            plugin = str(entry.get("plugin_name"))[:200]
            plugin = "" if plugin == "None" else plugin  # as Slakh writes it
            yield Stem(name, class_word, program, plugin, _audio(track, f"{audio}/{name}"), midi_path)


def _class_and_program(name: str, entry: Mapping[str, object]) -> tuple[str, int]:
    named, program = entry.get("inst_class"), entry.get("program_num")
    word = _WORD_OF.get(named.casefold()) if isinstance(named, str) else None
    if word is None:
        raise ValueError(f"{name} is of the class {short(named)}, which Slakh does not have")
    if not isinstance(program, int) or not 0 <= program <= 128:
        raise ValueError(f"{name} has the program {short(program)}, which is not from 0 to 128")
    return word, int(program)


def _audio(track: Path, name: str) -> str:
    """The flac or wav of that name; where there is neither, the flac that should be there."""
    has_flac, has_wav = ((track / f"{name}{suffix}").is_file() for suffix in (".flac", ".wav"))
    return f"{name}.wav" if has_wav and not has_flac else f"{name}.flac"
