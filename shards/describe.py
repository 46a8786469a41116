"""Write a Croissant description and a dataset card, for people and programs that do not know this project.

    sonograph describe datasets/nsynth

Takes one dataset or the folder of its splits, and writes croissant.json (schema.org and MLCommons Croissant 1.0, for
dataset search and loaders) and README.md (licences, splits, columns, how to read it) beside the splits, also in a
store. With --out in a folder here, what lies in a store is named by its URL.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro

from shards.card import card
from shards.licences import Terms, terms_of
from shards.manifest import MANIFEST, StoredFile, rebuild_command
from shards.problem import DataProblem, UsageProblem
from shards.store import digest_of, whole_file, write_json
from shards.stores.remote import url_of
from shards.stores.upload import written
from shards.survey import Part, parts_of
from shards.verify import datasets_in

CROISSANT, CARD = "croissant.json", "README.md"
MARK = "written by sonograph describe"
_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TERMS = (
    *("citeAs", "column", "data", "dataType", "equivalentProperty", "examples", "extract", "field", "fileObject"),
    *("fileProperty", "fileSet", "format", "includes", "isEnumeration", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
_JSON_TERMS = {"data", "examples"}
_DATA_TYPES = {"int": "sc:Integer", "float": "sc:Float", "str": "sc:Text"}
_IDENTITY = {
    "index": ("sc:Integer", "identity of the example, equal in every rebuild"),
    "key": ("sc:Text", "id of the recording, and the first sample of the piece where it was cut"),
    "source_path": ("sc:Text", "file in the corpus"),
    "source_digest": ("sc:Text", "XXH3 128 bit of that file"),
    "start_seconds": ("sc:Float", "where the example begins in it"),
    "seconds": ("sc:Float", "its length"),
    "clipped_share": ("sc:Float", "how many of its samples stand at full scale, from 0 to 1"),
}


@dataclass(frozen=True)
class Describe:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""
    out: Path | None = None
    """folder to write to; by default that of the splits"""
    name: str = ""
    """of the dataset; by default that of the folder"""
    license: str = ""
    """sentence or address, where the recordings' own licence is not known or you know better"""
    url: str = ""
    """where the dataset can be found"""


COMMAND = Describe


def main(command: Describe) -> dict[str, object]:
    """Write both files. Raises DataProblem when somebody else's files lie in their place."""
    parts = parts_of(datasets_in(command.dataset))
    folder = (parts[0].folder.parent if command.out is None else command.out).resolve()
    if any(folder.is_relative_to(part.folder.resolve()) for part in parts):
        raise UsageProblem(
            f"--out {folder} lies inside a dataset, which would then hold files that its manifest does not list. "
            f"Nothing was written. Pass a folder beside it, such as {parts[0].folder.resolve().parent}."
        )
    for path in (folder / CROISSANT, folder / CARD):
        _refuse_foreign(path)
    manifest = parts[0].manifest
    terms = terms_of(manifest.corpus, is_rendered=manifest.rendered, stated=command.license)
    name = command.name or (parts[0].folder.resolve().parent.name if len(parts) > 1 else parts[0].folder.resolve().name)
    description = Description(name, command.url, terms, parts, {part.name: _place(part, folder) for part in parts})
    text = card(name, parts, description.places, terms, mark=MARK)
    with written(folder) as here:
        write_json(here / CROISSANT, croissant(description))
        with whole_file(here / CARD) as file:
            file.write(text.encode())
    return {"output": str(folder / CARD), "metrics": {"examples": sum(part.manifest.examples for part in parts)}}


def _refuse_foreign(path: Path) -> None:
    if path.exists() and MARK.encode() not in path.read_bytes():
        raise DataProblem(
            f"{path} exists and was not {MARK}, so nothing was written, and nothing is lost. Move it away, or pass "
            "another folder: --out FOLDER"
        )


def _place(part: Part, folder: Path) -> str:
    """The dataset's folder as seen from the description; a URL where that lies here and the dataset in a store.

    Raises UsageProblem when it does not lie below it.
    """
    if url_of(part.folder) and not url_of(folder):
        return str(part.folder)
    try:
        return part.folder.resolve().relative_to(folder).as_posix()
    except ValueError:
        raise UsageProblem(
            f"{part.folder} does not lie below {folder}, and a description names its files from where it lies. Nothing "
            f"was written. Pass --out {part.folder.resolve().parent}, or a folder above it."
        ) from None


@dataclass(frozen=True)
class Description:
    """What is described: `places` are the splits' folders, seen from the description."""

    name: str
    url: str
    terms: Terms
    parts: Sequence[Part]
    places: Mapping[str, str]


def croissant(description: Description) -> dict[str, object]:
    """The JSON-LD of a dataset (Croissant Format Specification 1.0).

    Only manifests have a digest in it: they hold those of all other files, which would make a description of a large
    dataset as large as its index.
    """
    parts, terms = description.parts, description.terms
    fingerprints = [part.manifest.fingerprint for part in parts]
    about = {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": description.name,
        "description": _said(description),
        "url": description.url or terms.home,
        "license": terms.url or terms.licence,
        "creator": [{"@type": "sc:Organization", "name": name} for name in terms.creators],
        "citeAs": terms.cite or f"{description.name}, built with Sonograph, fingerprint {fingerprints[0][:16]}",
        "datePublished": _last_written(parts),
        "version": f"1.0.0+{digest_of(fingerprints)[:8]}",
        "keywords": ["music", "audio", "WebDataset", parts[0].manifest.corpus, *parts[0].manifest.features],
        "isLiveDataset": False,
        "distribution": [*_files(description)],
        "recordSet": [_splits(description), *_classes(parts[0]), _examples(description)],
    }
    return {name: value for name, value in about.items() if value not in ("", [])}


def _context() -> dict[str, object]:
    """The one that the specification gives, for the terms used here."""
    plain = {name: f"cr:{name}" for name in _TERMS if name not in _JSON_TERMS | {"dataType"}}
    as_json = {name: {"@id": f"cr:{name}", "@type": "@json"} for name in sorted(_JSON_TERMS)}
    prefixes = {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    }
    return {**prefixes, **plain, **as_json}


def _said(description: Description) -> str:
    manifest, parts = description.parts[0].manifest, description.parts
    counts = ", ".join(f"{part.manifest.examples:,} {part.name}" for part in parts)
    hours = sum(part.manifest.seconds for part in parts) / 3600
    origin = f"{'Music rendered' if manifest.rendered else 'Recordings'} in the layout of {manifest.corpus}"
    columns = ", ".join(f"{column} ({contract['word']})" for column, contract in manifest.features.items())
    return (
        f"{origin}, {hours:,.2f} hours as {counts} examples. Columns of "
        f"WebDataset tars: {columns}. Licence: {description.terms.licence}. "
        f"Made by: {rebuild_command(manifest)}. ({MARK})"
    )


def _last_written(parts: Sequence[Part]) -> str:
    """The day of the newest manifest; empty where a store does not say."""
    newest = max((part.folder / MANIFEST).stat().st_mtime for part in parts)
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d") if newest else ""


def _files(description: Description) -> Iterator[dict[str, object]]:
    for part in description.parts:
        stored = StoredFile.of(part.folder / MANIFEST)
        yield {
            "@type": "cr:FileObject",
            "@id": f"manifest-{part.name}",
            "name": f"manifest-{part.name}",
            "description": "lengths and SHA-256 of all other files of the split; labels, contracts, statistics",
            "contentUrl": f"{description.places[part.name]}/{MANIFEST}",
            "contentSize": f"{stored.bytes} B",
            "encodingFormat": "application/json",
            "sha256": stored.sha256,
        }
    places = list(description.places.values())
    about = "identity, labels and events of the examples, one row each"
    yield _file_set("index", places, "index/*.parquet", "application/x-parquet", about)
    for column, contract in description.parts[0].manifest.features.items():
        about = f"{contract['word']}: {contract['stored']} as {contract['dtype']}, {contract['array']}"
        yield _file_set(column, places, f"{column}/*.tar", "application/x-tar", about)


def _file_set(name: str, places: Sequence[str], pattern: str, encoding: str, about: str) -> dict[str, object]:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{name}",
        "name": f"files-{name}",
        "description": about,
        "encodingFormat": encoding,
        "includes": [f"{place}/{pattern}" for place in places],
    }


def _splits(description: Description) -> dict[str, object]:
    """The splits by name, as the specification wants them: a record set of type cr:Split."""
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{"splits/name": part.name} for part in description.parts],
    }


def _classes(part: Part) -> Iterator[dict[str, object]]:
    """The ordered names of each label's classes."""
    for name, kind in part.manifest.labels.items():
        classes = kind.get("classes")
        if isinstance(classes, Sequence) and classes:
            own = f"classes-{name}"
            fields = {"number": "sc:Integer", "name": "sc:Text"}
            yield {
                "@type": "cr:RecordSet",
                "@id": own,
                "name": own,
                "dataType": "sc:Enumeration",
                "key": {"@id": f"{own}/number"},
                "field": [
                    {"@type": "cr:Field", "@id": f"{own}/{field}", "name": field, "dataType": kind}
                    for field, kind in fields.items()
                ],
                "data": [{f"{own}/number": number, f"{own}/name": spelled} for number, spelled in enumerate(classes)],
            }


def _examples(description: Description) -> dict[str, object]:
    """The rows of the index but for events, whose lists of times Croissant has no words for."""
    labels = description.parts[0].manifest.labels
    fields = [
        _split_field(description),
        *(_field(name, kind, about) for name, (kind, about) in _IDENTITY.items()),
        *(_label_field(name, kind) for name, kind in labels.items()),
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "examples",
        "name": "examples",
        "description": "one record an example; its arrays are the members of the tars whose names begin with its index",
        "key": [{"@id": "examples/split"}, {"@id": "examples/index"}],
        "field": fields,
    }


def _field(name: str, kind: str, about: str) -> dict[str, object]:
    source = {"fileSet": {"@id": "files-index"}, "extract": {"column": name}}
    named = {"@type": "cr:Field", "@id": f"examples/{name}", "name": name, "description": about}
    return {**named, "dataType": kind, "source": source}


def _label_field(name: str, kind: Mapping[str, object]) -> dict[str, object]:
    spelled = str(kind["type"])
    inner = spelled.removeprefix("list[").removesuffix("]")
    about = f"number of its class in classes-{name}" if kind.get("classes") else f"label {name}"
    if spelled != inner and kind.get("classes"):
        about = f"0 or 1 for each class of classes-{name}"
    field = _field(f"label.{name}", _DATA_TYPES[inner], about)
    return {**field, "repeated": True} if spelled != inner else field


def _split_field(description: Description) -> dict[str, object]:
    field = _field("split", "sc:Text", "train, valid or test")
    # mlcroissant applies it again to what it gave, where a field refers to another one
    regex = r"^(?:.*/)?([^/.]+)(?:/index/[^/]+\.parquet)?$"
    place = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": regex}}
    source = {"fileSet": {"@id": "files-index"}, **place}
    return {**field, "references": {"field": {"@id": "splits/name"}}, "source": source}


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("describe")
