"""The page of a dataset: one HTML file with all it shows inside, no script, and nothing that it could load.

Its Content-Security-Policy lets a browser use the page's own style sheet and the pictures and sounds inside it, and
nothing else, whatever stands in labels, keys and paths. At most PAGE_BYTES with twelve examples of up to four columns.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.decode import CLIPPED_SHARE
from shards.feature import Feature
from shards.html.examples import (
    Column,
    columns_of,
    example_card,
    levels_db,
    loudness_column,
    rows_shown,
    sound_bytes,
    sounds_of,
)
from shards.html.figures import curves, histogram
from shards.html.markup import Markup, element, joined
from shards.html.tables import events_table, label_section, legend, table
from shards.manifest import rebuild_command
from shards.store import whole_file
from shards.survey import Part, numbers, parts_of, rejections, shown_labels

PAGE_BYTES = 10_000_000
_HEARD_ROWS = 384  # whose loudness is measured; reading all of a large dataset would take as long as training on it
_SHOWN_FILES, _SHOWN_REASONS = 60, 40
_UNSPOKEN = ("word", "member", "fingerprint")
_SECTIONS = {
    "examples": "Examples",
    "labels": "Labels",
    "lengths": "Lengths and loudness",
    "rejected": "Rejected",
    "columns": "Columns and contracts",
    "origin": "How it was made",
}


def write_page(path: Path, folders: Sequence[Path], *, examples: int, seed: int, opened: Sequence[Feature]) -> None:
    """Write the page of one dataset or of several splits of one; equal arguments give equal bytes.

    Raises DataProblem when a table or an example that is shown cannot be read.
    """
    parts = parts_of(folders)
    by_column = {feature.column: feature for feature in opened}
    columns = [columns_of(part, by_column) for part in parts]
    body = joined(
        _head(parts),
        _overview(parts),
        _section("examples", _examples(parts, columns, count=examples, seed=seed)),
        _section("labels", _labels(parts)),
        _section("lengths", _lengths(parts, columns, seed=seed)),
        _section("rejected", _rejected(parts)),
        _section("columns", _columns(parts, columns)),
        _section("origin", _origin(parts)),
    )
    with whole_file(path) as file:
        file.write(_document(_title(parts), body).encode())


def _document(title: str, body: Markup) -> str:
    style = Path(__file__).with_name("page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; base-uri 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=f"{policy}; form-action 'none'"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', body), lang='en')}\n"


def _title(parts: Sequence[Part]) -> str:
    return f"{parts[0].manifest.corpus}: {', '.join(part.name for part in parts)}"


def _head(parts: Sequence[Part]) -> Markup:
    links = [element("li", element("a", title, href=f"#{anchor}")) for anchor, title in _SECTIONS.items()]
    return joined(
        element("a", "Skip to the examples", href="#examples", class_="skip"),
        element("header", element("h1", _title(parts)), _notice(parts)),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _notice(parts: Sequence[Part]) -> Markup:
    corpus = parts[0].manifest.corpus
    if any(part.manifest.rendered for part in parts):
        text = f"Rendered music: composed and played by a program in the layout of {corpus}, not its recordings."
        return element("p", text, class_="notice", role="note")
    return element("p", f"Made of recordings as they were found, in the layout of {corpus}.", class_="soft")


def _section(anchor: str, content: Markup) -> Markup:
    return element("section", element("h2", _SECTIONS[anchor]), content, id=anchor)


def _overview(parts: Sequence[Part]) -> Markup:
    manifests = [part.manifest for part in parts]
    figures = {
        "examples": f"{sum(manifest.examples for manifest in manifests):,}",
        "hours": f"{sum(manifest.seconds for manifest in manifests) / 3600:,.2f}",
        "rejected": f"{sum(manifest.rejected for manifest in manifests):,}",
        "shards": f"{sum(len(manifest.shards) for manifest in manifests):,}",
        "megabytes": f"{sum(map(_bytes, parts)) / 1e6:,.1f}",
    }
    shown = [element("div", element("dt", name), element("dd", value)) for name, value in figures.items()]
    header = ("split", "examples", "planned", "rejected", "hours", "shards", "MB", "fingerprint")
    rows = [
        (
            part.name,
            *(f"{count:,}" for count in (part.manifest.examples, part.manifest.planned, part.manifest.rejected)),
            f"{part.manifest.seconds / 3600:,.2f}",
            f"{len(part.manifest.shards):,}",
            f"{_bytes(part) / 1e6:,.1f}",
            element("code", part.manifest.fingerprint[:16]),
        )
        for part in parts
    ]
    return joined(element("dl", *shown, class_="figures"), table(header, rows, numeric=range(1, 7)))


def _bytes(part: Part) -> int:
    return sum(stored.bytes for shard in part.manifest.shards for stored in shard.files.values())


def _examples(parts: Sequence[Part], columns: Sequence[list[Column]], *, count: int, seed: int) -> Markup:
    rows = rows_shown([part.manifest.examples for part in parts], count, seed)
    players = sum(len(chosen) * sounds_of(own) for chosen, own in zip(rows, columns, strict=True))
    most_bytes = sound_bytes(players)
    cards = [
        example_card(part, own, row, most_bytes=most_bytes)
        for part, own, chosen in zip(parts, columns, rows, strict=True)
        for row in chosen
    ]
    said = f"{len(cards)} of {sum(part.manifest.examples for part in parts):,}, drawn with seed {seed}. "
    power = (
        "Spectrograms show 80 dB, from black to pale yellow; low bands are at the bottom and time runs to the right."
    )
    return joined(element("p", said + power, class_="soft"), element("div", *cards, class_="cards"))


def _labels(parts: Sequence[Part]) -> Markup:
    manifest = parts[0].manifest
    sections = [label_section(parts, name, manifest.labels[name]) for name in shown_labels(manifest.labels)]
    if not sections and not manifest.events:
        return element("p", "None: the recordings have no labels.")
    events = [events_table(parts)] if manifest.events else []
    return joined(legend(parts), element("div", *sections, class_="pair"), *events)


def _lengths(parts: Sequence[Part], columns: Sequence[list[Column]], *, seed: int) -> Markup:
    seconds = histogram(numbers(parts, "seconds"), unit="s", about="Lengths of the examples")
    clipped = sum(int((shares > CLIPPED_SHARE).sum()) for shares in numbers(parts, "clipped_share").values())
    said = f"{clipped:,} examples have over {CLIPPED_SHARE:.1%} of their samples at full scale."
    lengths = element("div", element("h3", "Lengths"), seconds, element("p", said, class_="soft"))
    return joined(legend(parts), element("div", lengths, _loudness(parts, columns, seed=seed), class_="pair"))


def _loudness(parts: Sequence[Part], columns: Sequence[list[Column]], *, seed: int) -> Markup:
    column = loudness_column(columns[0])
    if column is None:
        return element("div", element("h3", "Loudness"), element("p", "No column tells how loud its examples are."))
    rows = rows_shown([part.manifest.examples for part in parts], _HEARD_ROWS, seed)
    levels = [levels_db(own, chosen) for own, chosen in zip(columns, rows, strict=True)]
    drawn = {part.name: values[np.isfinite(values)] for part, values in zip(parts, levels, strict=True)}
    what = "RMS level of the stored audio" if column.is_sound else f"mean power of {column.name}"
    unit = "dB of full scale" if column.is_sound else "dB"
    said = f"{what[0].upper()}{what[1:]}, of {sum(map(len, drawn.values())):,} examples drawn with seed {seed}."
    chart = histogram(drawn, unit=unit, about=f"Loudness: {what}")
    return element("div", element("h3", f"Loudness: {what}"), chart, element("p", said, class_="soft"))


def _rejected(parts: Sequence[Part]) -> Markup:
    found = rejections(parts)
    if not found:
        return element("p", "None: every planned example was written.")
    rows = [
        (reason.split, reason.stage, reason.reason, f"{reason.count:,}", reason.example)
        for reason in found[:_SHOWN_REASONS]
    ]
    more = f"and {len(found) - _SHOWN_REASONS:,} other reasons, in rejected.parquet" if len(found) > len(rows) else None
    header = ("split", "found at", "reason", "examples", "for instance")
    return joined(table(header, rows, numeric=[3]), element("p", more) if more else None)


def _columns(parts: Sequence[Part], columns: Sequence[list[Column]]) -> Markup:
    return joined(*(_column(parts, column) for column in columns[0]))


def _column(parts: Sequence[Part], column: Column) -> Markup:
    contract = column.contract
    rows = [
        (name, json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
        for name, value in contract.items()
        if name not in _UNSPOKEN
    ]
    facts = (
        element("p", element("code", str(contract["word"])), f", contract {str(contract['fingerprint'])[:16]}"),
        element("p", _weights(contract)),
        None if column.feature else element("p", "This version of sonograph computes another contract by that name, "
                                            "or lacks a file of it: values are shown as stored.", class_="notice"),
        element("details", element("summary", "Contract"), table(("parameter", "value"), rows)),
    )  # fmt: skip
    charts = [
        element("div", element("p", f"{part.name}, {statistics['count']:,} frames", class_="soft"),
                curves(statistics, about=f"Stored values of {column.name}, {part.name}"))
        for part in parts
        if (statistics := part.manifest.statistics.get(column.name))
    ]  # fmt: skip
    return element("article", element("h3", column.name), *facts, *_statistics(charts))


def _weights(contract: Mapping[str, object]) -> str:
    weights = contract.get("weights")
    if not isinstance(weights, Mapping):
        return "Computed without weights."
    return f"Weights: {weights.get('source', 'not named')}, SHA-256 {str(weights.get('sha256', 'not recorded'))[:16]}"


def _statistics(charts: Sequence[Markup]) -> Iterator[Markup]:
    if charts:
        said = "Stored values by band: median (line), mean (dashed), middle half (dark), 1st to 99th percentile (pale)."
        yield element("p", said, class_="soft")
        yield element("div", *charts, class_="pair")


def _origin(parts: Sequence[Part]) -> Markup:
    commands = dict.fromkeys(rebuild_command(part.manifest) for part in parts)
    made = ", ".join(f"{name} {version}" for name, version in parts[0].manifest.made_with.items())
    return joined(
        *(element("pre", element("code", command)) for command in commands),
        element("p", f"Made with {made}."),
        *(_digests(part) for part in parts),
    )


def _digests(part: Part) -> Markup:
    stored = {**part.manifest.files, **{k: v for shard in part.manifest.shards for k, v in shard.files.items()}}
    rows = [
        (name, f"{file.bytes:,}", element("code", file.sha256, class_="digest"))
        for name, file in sorted(stored.items())[:_SHOWN_FILES]
    ]
    more = f"and {len(stored) - len(rows):,} more, in manifest.json" if len(stored) > len(rows) else None
    return element(
        "details",
        element("summary", f"{part.name}: SHA-256 of its {len(stored):,} files"),
        element("p", "fingerprint ", element("code", part.manifest.fingerprint, class_="digest")),
        table(("file", "bytes", "SHA-256"), rows, numeric=[1]),
        element("p", more) if more else None,
    )
