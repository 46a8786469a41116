"""The audio files below a folder, from one listing of each folder in it."""

from collections.abc import Iterator
from os import scandir
from pathlib import Path

from shards.problem import DataProblem

EXTENSIONS = tuple("wav flac aiff aif au ogg oga opus mp3 m4a aac ac3 mka webm mkv mp4 m4v mov".split())
"""What counts as audio, in any case; where one sound lies in several containers, the first is taken."""

_UNFINISHED = (".part", ".temp", ".tmp", ".ytdl", ".crdownload", ".download")  # what downloaders put before the end


def audio_files(root: Path) -> Iterator[str]:
    """Paths of all audio below `root`, relative to it and in no order; hidden and unfinished files are left out.

    Folders are listed once each, also those behind links. Raises DataProblem when `root` is no folder or one cannot
    be listed.
    """
    waiting, seen = [""], set()
    while waiting:
        folder = waiting.pop()
        try:
            identity = (root / folder).stat()
            if (identity.st_dev, identity.st_ino) in seen:
                continue  # a link that leads back
            seen.add((identity.st_dev, identity.st_ino))
            with scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if is_audio(entry.name) and entry.is_file():
                        yield folder + entry.name
                    elif entry.is_dir():
                        waiting.append(f"{folder}{entry.name}/")
        except OSError as error:
            raise DataProblem(
                f"{root / folder} cannot be listed ({error.strerror}), so what lies there would be missing. Check "
                "--root and that folder's permissions."
            ) from error


def is_audio(name: str) -> bool:
    stem, dot, extension = name.rpartition(".")
    return bool(dot and stem) and extension.lower() in EXTENSIONS and not stem.lower().endswith(_UNFINISHED)


def path_text(path: str) -> tuple[str, str]:
    """A listed path as text that can be stored, and why it cannot be used; file names may be any bytes."""
    text = path.encode(errors="backslashreplace").decode()
    return text, "" if text == path else "its path is not valid UTF-8"
