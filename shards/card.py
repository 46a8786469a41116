"""The dataset card: README.md of a dataset, in the form that dataset hubs read, YAML above Markdown."""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from shards.licences import Terms
from shards.manifest import rebuild_command
from shards.survey import Part, rejections, shown_labels

_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_SHOWN_CLASSES, _SHOWN_REASONS = 12, 10
_UNSPOKEN = ("word", "member", "fingerprint")


def card(name: str, parts: Sequence[Part], places: Mapping[str, str], terms: Terms, *, mark: str) -> str:
    """The card of a dataset; `places` are the folders of its splits, seen from the card."""
    lines = [
        *_front_matter(name, parts, places, terms),
        f"<!-- {mark} -->",
        f"# {_plain(name)}",
        "",
        _origin(parts),
        "",
        *_licences(parts, terms),
        *_splits(parts),
        *_columns(parts),
        *_labels(parts),
        *_reading(parts, places),
        *_making(parts),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(name: str, parts: Sequence[Part], places: Mapping[str, str], terms: Terms) -> Iterator[str]:
    """What hubs search by; every value is spelled as JSON, which is YAML in which nothing can be forged."""
    examples = sum(part.manifest.examples for part in parts)
    size = next((size for most, size in _SIZES.items() if examples < most), "n>10M")
    corpus = parts[0].manifest.corpus
    yield from ("---", f"pretty_name: {json.dumps(name)}", f"license: {terms.identifier}", f"size_categories: [{size}]")
    yield f"tags: {json.dumps(['music', 'audio', 'webdataset', corpus])}"
    yield "configs:"
    for number, column in enumerate(parts[0].manifest.features):
        yield f"- config_name: {json.dumps(column)}"
        if not number:
            yield "  default: true"
        yield "  data_files:"
        for part in parts:
            yield f"  - split: {json.dumps(part.name)}"
            yield f"    path: {json.dumps(f'{places[part.name]}/{column}/*.tar')}"
    yield "---"


def _origin(parts: Sequence[Part]) -> str:
    corpus = _plain(parts[0].manifest.corpus)
    if parts[0].manifest.rendered:
        return (
            f"**Rendered music**: composed and played by a program, in the layout of {corpus}. It holds none of the "
            f"recordings of {corpus}, and results on it are not results on {corpus}."
        )
    return f"Made of recordings as they were found, in the layout of {corpus}."


def _licences(parts: Sequence[Part], terms: Terms) -> Iterator[str]:
    yield from ("## Licences", "")
    yield f"- Recordings, and all that is derived from them here: {_plain(terms.licence)}."
    if terms.url:
        yield f"- Text of the licence: <{_plain(terms.url)}>"
    for column, contract in parts[0].manifest.features.items():
        weights = contract.get("weights")
        if isinstance(weights, Mapping):
            named = _plain(weights.get("licence", weights.get("license", "not recorded; read what came with them")))
            source, digest = _plain(weights.get("source", "unnamed")), _plain(weights.get("sha256", ""))
            yield f"- {_code(column)} was computed with weights of {source} (SHA-256 {digest}); their licence: {named}."
    if terms.cite:
        yield f"- Please cite: {_plain(terms.cite)}. {_plain(terms.home)}".rstrip()
    yield ""


def _splits(parts: Sequence[Part]) -> Iterator[str]:
    yield from (
        "## Splits",
        "",
        "| split | examples | hours | rejected | shards | fingerprint |",
        "|---|---|---|---|---|---|",
    )
    for part in parts:
        manifest = part.manifest
        counts = (
            f"{manifest.examples:,} | {manifest.seconds / 3600:,.2f} | {manifest.rejected:,} | {len(manifest.shards):,}"
        )
        yield f"| {_plain(part.name)} | {counts} | {_code(manifest.fingerprint[:16])} |"
    yield ""
    if found := rejections(parts):
        yield "Left out, by reason (`rejected.parquet` lists every one):"
        yield ""
        for reason in found[:_SHOWN_REASONS]:
            yield f"- {reason.count:,} of {_plain(reason.split)} at {_plain(reason.stage)}: {_plain(reason.reason)}"
        if len(found) > _SHOWN_REASONS:
            yield f"- and {len(found) - _SHOWN_REASONS:,} other reasons"
        yield ""


def _columns(parts: Sequence[Part]) -> Iterator[str]:
    yield from ("## Columns", "")
    for column, contract in parts[0].manifest.features.items():
        stored = f"{contract['array']}, {contract['stored']} as {contract['dtype']}"
        fingerprint = _code(str(contract["fingerprint"])[:16])
        yield f"- {_code(column)}: {_code(contract['word'])}, {_plain(stored)}, contract {fingerprint}"
        parameters = {name: value for name, value in contract.items() if name not in _UNSPOKEN}
        yield f"  {_code(json.dumps(parameters, ensure_ascii=False))}"
    yield ""


def _labels(parts: Sequence[Part]) -> Iterator[str]:
    manifest = parts[0].manifest
    if not manifest.labels and not manifest.events:
        return
    yield from ("## Labels and events", "", "| name | type | classes |", "|---|---|---|")
    for name in shown_labels(manifest.labels):
        yield f"| {_code(name)} | {_plain(manifest.labels[name]['type'])} | {_spelled(manifest.labels[name])} |"
    for name, kind in manifest.events.items():
        yield f"| {_code(name)} | events in time, {_plain(kind['type'])} | {_spelled(kind)} |"
    yield from ("", "A list with classes says 0 or 1 for each of them. Events are in `index/*.parquet` only.", "")


def _spelled(kind: Mapping[str, object]) -> str:
    classes = kind.get("classes")
    if not isinstance(classes, Sequence) or not classes:
        return ""
    more = f" and {len(classes) - _SHOWN_CLASSES:,} more" if len(classes) > _SHOWN_CLASSES else ""
    return f"{len(classes)}: " + ", ".join(_plain(name) for name in classes[:_SHOWN_CLASSES]) + more


def _reading(parts: Sequence[Part], places: Mapping[str, str]) -> Iterator[str]:
    """Commands that work as they stand, in the folder of the card."""
    manifest = parts[0].manifest
    column, contract = next(iter(manifest.features.items()))
    folder, suffix = places[parts[0].name], contract.get("member", "npy")
    last = max(shard.number for shard in manifest.shards)
    shards = f"{folder}/{column}/{{000000..{last:06d}}}.tar" if last else f"{folder}/{column}/000000.tar"
    name = _inline(f"{column}.{suffix}")
    held = f"example[{json.dumps(name)}]"
    yield from (
        "## How to read it",
        "",
        "Plain [WebDataset](https://github.com/webdataset/webdataset), in this folder:",
        "",
    )
    yield from ("```python", "import webdataset", "")
    yield f"dataset = webdataset.WebDataset({_inline(json.dumps(shards))}, shardshuffle=False).decode()"
    yield "for example in dataset:"
    yield f'    print(example["__key__"], {held}{".shape" if suffix == "npy" else "[:4]"}, example["json"])'
    yield from ("    break", "```", "")
    yield f"Members are `INDEX.{name}` and `INDEX.json` with the labels. `index/*.parquet` holds one row an"
    yield "example, `manifest.json` the SHA-256 of every file, the contracts, and mean, deviation and quantiles of each"
    yield "band."
    yield f"To check every bit: `sonograph verify {_inline(folder)}`."
    yield ""


def _making(parts: Sequence[Part]) -> Iterator[str]:
    yield from ("## How it was made", "", "```")
    yield from dict.fromkeys(_inline(rebuild_command(part.manifest)) for part in parts)
    yield from ("```", "")
    made = ", ".join(f"{name} {version}" for name, version in parts[0].manifest.made_with.items())
    yield f"Repeating it gives the same bytes with {_plain(made)}."


def _plain(text: object) -> str:
    """Text in which Markdown and HTML mean nothing, on one line."""
    line = html.escape(_inline(text), quote=False)
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line)


def _code(text: object) -> str:
    """Text as code on one line, also in a table; backticks, which would end it, are replaced."""
    return f"`{_inline(text).replace('|', chr(0x2758))}`"


def _inline(text: object) -> str:
    """On one line, without what ends a block of code."""
    return " ".join(str(text).split()).replace("`", "'")
