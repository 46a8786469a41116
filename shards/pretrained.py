"""Published weights: where they lie, what they are, and under which licence. The one place that knows huggingface_hub.

Weights are a local folder, a .safetensors file in one, or a hub id, `name/name` or `name/name@revision`. What lies here
is never looked up on a network. Pickled weights, which run code when they are opened, are neither fetched nor read.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.store import digest_of, sha256_of

log = logging.getLogger(__name__)

CONFIG = "config.json"
NOT_STATED = "not stated"
_WEIGHTS = "*.safetensors"
_LICENCES = ("LICEN[CS]E*", "licen[cs]e*", "COPYING*")
_CARD = "README.md"
_FETCHED = (CONFIG, _WEIGHTS, "*.safetensors.index.json", *_LICENCES, _CARD)
_PICKLED = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_MOST_HEADER_BYTES = 100 << 20  # what safetensors itself allows
_LICENCE_BYTES = 1 << 18
_NON_COMMERCIAL = re.compile(r"\b(?:non-?commercial|(?:cc[- ])?by-nc)\b", re.IGNORECASE)
_KNOWN_TEXTS = {
    "Attribution-NonCommercial": "cc-by-nc",
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "Permission is hereby granted, free of charge": "mit",
    "Attribution 4.0 International": "cc-by-4.0",
}


class WeightsMissing(EnvironmentProblem):
    """The weights are not on this machine, and could not be fetched."""


@dataclass(frozen=True)
class Weights:
    """Published weights that lie on this machine and whose licence may be used."""

    folder: Path
    files: tuple[str, ...]
    """The configuration and the weights, in the folder."""
    source: str
    """The hub id, or the name of the folder."""
    revision: str
    """Commit of the hub; empty for a folder of one's own."""
    licence: str
    """As the folder names it, or NOT_STATED."""
    sha256: str
    """Digest of the files' names and contents."""

    @property
    def stated(self) -> Mapping[str, object]:
        """What a contract says of them."""
        return {"sha256": self.sha256, "source": self.source, "licence": self.licence}

    def check(self) -> None:
        """Raises DataProblem when the files are not, or no longer, those of the digest: on another machine, say."""
        found = _digest(self.folder, self.files) if self.folder.is_dir() else "absent"
        if found != self.sha256:
            raise DataProblem(
                f"{self.folder} does not hold the weights that the work began with (SHA-256 {found}, not {self.sha256}"
                "), and what they compute would not fit the rest. Put the same files there on every machine."
            )


def folder_of(word: str, *, accept_licence: str = "") -> Path:
    """The folder of some weights; raises what `resolve` raises."""
    return resolve(word, accept_licence=accept_licence).folder


def resolve(word: str, *, accept_licence: str = "") -> Weights:
    """The weights by that path or hub id, which is fetched once and kept by huggingface_hub.

    `accept_licence` must name a licence that excludes commercial use, which is so agreed to. Raises UsageProblem for a
    licence not agreed to, DataProblem for a folder without sound weights, WeightsMissing for what is neither here nor
    can be fetched.
    """
    path = Path(word).expanduser()
    if path.exists():
        return open_local(path, accept_licence=accept_licence)
    named = _HUB_ID.fullmatch(word)
    # `weights/encodec` beside a folder `weights` is a mistyped path, and no one's name on a hub.
    if not named or path.parts[0] in (".", "..", "~") or Path(path.parts[0]).is_dir():
        raise WeightsMissing(
            f"{word} does not exist, so there are no weights to open. Pass a folder with {CONFIG} and a .safetensors "
            "file, or a hub id such as facebook/encodec_24khz."
        )
    folder = _fetched(named["name"], named["revision"])
    return _opened(folder, _files(folder), named["name"], folder.name, accept_licence)


def open_local(path: Path, *, accept_licence: str = "") -> Weights:
    """The weights in a folder, or of one file in it, without a look at any network. Raises as `resolve` does."""
    if path.is_file():
        folder, files = path.parent, (*_config_of(path.parent), path.name)
        if path.suffix != ".safetensors":
            raise DataProblem(_no_weights(path, [path.name]))
    else:
        folder, files = path, _files(path)
    return _opened(folder, files, folder.resolve().name, "", accept_licence)


def _opened(folder: Path, files: tuple[str, ...], source: str, revision: str, accept_licence: str) -> Weights:
    for name in files:
        if name.endswith(".safetensors"):
            _check_safetensors(folder / name)
    licence = _licence(folder, accept_licence)
    log.info("weights %s  licence %s", source, licence)
    return Weights(folder.resolve(), files, source, revision, licence, _digest(folder, files))


def _files(folder: Path) -> tuple[str, ...]:
    found = sorted(path.name for path in folder.glob(_WEIGHTS) if path.is_file())
    if not found:
        raise DataProblem(_no_weights(folder, sorted(each.name for each in folder.iterdir())))
    return (*_config_of(folder), *found)


def _config_of(folder: Path) -> tuple[str, ...]:
    return (CONFIG,) if (folder / CONFIG).is_file() else ()


def _check_safetensors(path: Path) -> None:
    """Raises DataProblem when a file is not as long as its header says: a cut copy, or a pointer of Git LFS."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(_MOST_HEADER_BYTES, size - 8):
                raise ValueError(f"it claims a header of {header_bytes:,} bytes")
            header = json.loads(file.read(header_bytes))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        if 8 + header_bytes + max(ends, default=0) != size:
            raise ValueError(f"its header speaks of {8 + header_bytes + max(ends, default=0):,} bytes")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataProblem(
            f"{path} is no whole safetensors file: {error}, and it has {size:,} bytes. Nothing can be computed with "
            "it. Copy it again; where Git LFS keeps it, fetch the file itself (git lfs pull)."
        ) from error


def _digest(folder: Path, files: Sequence[str]) -> str:
    try:
        return digest_of({name: _sha256(folder / name) for name in files})
    except FileNotFoundError:
        return "absent"


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_once(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_once(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


# Licences


def _licence(folder: Path, accept_licence: str) -> str:
    """The name of a folder's licence. Raises UsageProblem when it excludes commercial use and is not agreed to."""
    card = _text(folder / _CARD)
    texts = [_text(path) for path in sorted({path for pattern in _LICENCES for path in folder.glob(pattern)})]
    name = _named_by(card) or _recognised(texts) or NOT_STATED
    if any(_NON_COMMERCIAL.search(text) for text in (name, card, *texts)):
        if not _NON_COMMERCIAL.search(name):
            name = "non-commercial" if name == NOT_STATED else f"{name}+non-commercial"
        if accept_licence != name:
            raise UsageProblem(
                f"The weights in {folder} are under {name}: they may not be used commercially. Nothing was computed "
                f"with them. When your use is allowed, agree to that licence by its name: --accept-licence {name}"
            )
    if name == NOT_STATED:
        log.warning("%s states no licence: find out what it allows before you share what is made with it", folder)
    return name


def _named_by(card: str) -> str:
    """What the front matter of a model card names, or nothing."""
    front = card.split("---", 2)[1] if card.startswith("---") and card.count("---") >= 2 else ""
    stated = dict(re.findall(r"^(license|license_name):\s*[\"']?([^\s\"'#]+)", front, re.MULTILINE))
    return (stated.get("license_name") or stated.get("license") or "").lower()


def _recognised(texts: Sequence[str]) -> str:
    """The name of the licence whose text this is, or nothing."""
    named = (name for text in texts for words, name in _KNOWN_TEXTS.items() if words in text)
    return next(named, "see its licence file" if any(texts) else "")


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_LICENCE_BYTES).decode(errors="replace")


# The hub


def _fetched(name: str, revision: str | None) -> Path:
    """The local copy of a hub's repository, without what could be pickled."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsMissing(
            f"huggingface_hub is not installed, so {name} cannot be fetched. Install it (pip install "
            "'sonograph[codecs]'), or pass a local folder."
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(_FETCHED)))
    except (OSError, ValueError, huggingface_hub.errors.HTTPError) as error:
        raise WeightsMissing(
            f"{name} could not be fetched ({_first_line(error)}), and it does not lie here, so there are no weights to "
            "open. Check the name and the connection; or copy the folder here by other means and pass its path."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _no_weights(path: Path, names: Sequence[str]) -> str:
    pickled = [name for name in names if Path(name).suffix in _PICKLED]
    if pickled:
        return (
            f"{path} holds its weights as {pickled[0]}, a pickle, which could run any program when it is opened, so it "
            "was not. Take a version with model.safetensors, or convert it with safetensors where you trust it."
        )
    return f"{path} holds no .safetensors file, so there are no weights to open. Pass the folder that does."
