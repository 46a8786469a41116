"""A ready WebDataset pipeline over a dataset, for training code that is written for webdataset.

    loader = webdataset.WebLoader(pipeline("datasets/nsynth/train").shuffle(1000).batched(64), batch_size=None)

What the library would do by itself with the same tars is left out: running `pipe:` URLs, unpickling, unpacking, and
ending quietly at damage. Shards come from the manifest, and every one is held against it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shards.decode import DecodeError, decode
from shards.manifest import Manifest, StoredFile, column_path
from shards.members import HashedFile, Member, members
from shards.npy import whole_layout
from shards.problem import DataProblem, UsageProblem
from shards.stores.files import manifest_in
from shards.stores.remote import SCHEMES, Store, place_of, url_of

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")


def pipeline(
    dataset: Path | str,
    columns: Sequence[str] = ("mel",),
    *,
    urls: Mapping[str, Sequence[str]] | None = None,
    shuffle_seed: int | None = None,
) -> Any:
    """A webdataset pipeline of the examples of a dataset, to be shuffled, batched and mapped as any other.

    An example is a dict: `__key__`, `__url__`, `json` with index, key and labels, and for each column its member:
    `mel.npy` an array in its stored dtype, `audio.flac` a pair of waveform (channels, samples) and rate in Hz.
    Ranks and loader workers share the shards, which are in the manifest's order, or shuffled anew each epoch.
    The dataset may be a URL; or `urls` say for each column where its tars lie, in the manifest's order.

    Raises UsageProblem for a URL of no store (shards/stores/remote.py), and DataProblem for a dataset without these
    columns; in iterating, for a tar that is not byte by byte what the manifest lists, at its end at the latest.
    """
    import webdataset

    shards = _shards(place_of(dataset), columns, urls or {})
    stages = [webdataset.split_by_node, webdataset.split_by_worker]
    if shuffle_seed is not None:
        stages.append(webdataset.detshuffle(len(shards), len(shards), seed=shuffle_seed))
    return webdataset.FluidWrapper(shards).compose(*stages, examples)


@dataclass(frozen=True)
class Tar:
    """One column of one shard: where it lies, the ending of its members (`mel.npy`), and what it must be."""

    url: str
    ending: str
    stored: StoredFile
    examples: int


def _shards(folder: Path, columns: Sequence[str], urls: Mapping[str, Sequence[str]]) -> list[tuple[Tar, ...]]:
    url = url_of(folder)
    manifest = Manifest.read(folder) if url is None else manifest_in(Store(url))
    if missing := [column for column in columns if column not in manifest.features]:
        raise DataProblem(
            f"{folder} has no column '{missing[0]}', only {', '.join(manifest.features)}, so there is nothing to read. "
            f"Add it: sonograph add-feature {folder} {missing[0]}"
        )
    by_column = [_tars(manifest, folder, column, urls.get(column)) for column in columns]
    return list(zip(*by_column, strict=True))


def _tars(manifest: Manifest, folder: Path, column: str, urls: Sequence[str] | None) -> list[Tar]:
    names = [column_path(column, shard.number, "tar") for shard in manifest.shards]
    places = [str(folder / name) for name in names] if urls is None else [allowed(url) for url in urls]
    if len(places) != len(names):
        raise UsageProblem(
            f"{len(places)} URLs were given for the {len(names)} tars of {folder / column}, so examples would be "
            "missing or doubled. Give one for each shard, in the manifest's order."
        )
    ending = f"{column}.{manifest.features[column].get('member', 'npy')}"
    listed = zip(places, names, manifest.shards, strict=True)
    return [Tar(place, ending, shard.files[name], shard.examples) for place, name, shard in listed]


def allowed(url: str) -> str:
    """The URL, if it only names a file. Raises UsageProblem for what runs a program, chains, or is the terminal."""
    scheme = _SCHEME.match(url)
    is_path = scheme is None and url not in ("", "-")
    if is_path or (scheme and scheme[1].lower() in SCHEMES and scheme[2] and "::" not in url):
        return url
    raise UsageProblem(
        f"{url!r} is no place to read a shard from, and was not opened: it could run a program. Give a path, or a URL "
        f"that begins with {', '.join(f'{name}://' for name in SCHEMES)}."
    )


def examples(shards: Iterable[tuple[Tar, ...]]) -> Iterator[dict[str, Any]]:
    """All examples of some shards, each of its columns' members joined. Raises as `pipeline` says."""
    for tars in shards:
        for parts in zip_longest(*map(_read, tars), fillvalue={"__key__": "nothing"}):
            keys = {part["__key__"] for part in parts}
            if len(keys) != 1:
                raise DataProblem(_unlike(tars, keys))
            yield {name: value for part in reversed(parts) for name, value in part.items()}


def _read(tar: Tar) -> Iterator[dict[str, Any]]:
    try:
        with place_of(tar.url).open("rb", buffering=0) as stream:
            yield from _checked(tar, HashedFile(stream, tar.stored.bytes))
    except (OSError, ValueError, DecodeError) as error:
        raise DataProblem(
            f"{tar.url} is not what its manifest lists: {error}. Training on it would use wrong data or too little. "
            "Find out what is damaged, and repair it: sonograph verify DATASET --repair"
        ) from error


def _checked(tar: Tar, file: HashedFile) -> Iterator[dict[str, Any]]:
    """Pairs of members as examples. Raises ValueError for any other order, number, kind or byte than was written."""
    walk, last, count = members(file), "", 0
    for member in walk:
        key, _, ending = member.name.partition(".")
        value = _decoded(member)
        if ending != tar.ending:
            raise ValueError(f"it holds {member.name} where {key}.{tar.ending} should be")
        if key <= last:
            raise ValueError(f"the example {key} appears again, or late")
        about = next(walk, None)
        if about is None or about.name != f"{key}.json":
            raise ValueError(f"the example {key} lacks its .json")
        yield {"__key__": key, "__url__": tar.url, tar.ending: value, "json": _decoded(about)}
        last, count = key, count + 1
    if count != tar.examples:
        raise ValueError(f"it holds {count:,} examples, {tar.examples:,} were written")
    if file.sha256() != tar.stored.sha256:
        raise ValueError("its bytes do not match their SHA-256")


def _decoded(member: Member) -> Any:
    """The value of a member by its last extension. Raises ValueError, naming it, for one that is none of ours."""
    decoder = _DECODERS.get(member.name.rpartition(".")[2])
    if decoder is None:
        raise ValueError(f"its member {member.name} is of no kind that is read here ({', '.join(_DECODERS)})")
    try:
        return decoder(bytearray(member.payload))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its member {member.name} cannot be read ({error})") from error


def _array(payload: bytearray) -> Any:
    return whole_layout(payload).array(payload)


def _waveform(payload: bytearray) -> tuple[Any, int]:
    if not payload.startswith(b"fLaC"):
        raise ValueError("it is no FLAC")
    clip = decode(bytes(payload), channels="keep")
    return clip.waveform, clip.sample_rate_hz


_DECODERS: Mapping[str, Callable[[bytearray], Any]] = {"npy": _array, "json": json.loads, "flac": _waveform}


def _unlike(tars: Sequence[Tar], keys: Iterable[str]) -> str:
    return (
        f"{' and '.join(tar.url for tar in tars)} hold {' and '.join(sorted(keys))} in the same place, so that "
        "examples would get parts of others. Find out which is damaged: sonograph verify DATASET"
    )
