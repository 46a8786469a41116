"""Show what a dataset holds: examples, hours, shards, features, labels, and what was rejected and why.

    sonograph inspect datasets/nsynth
    sonograph inspect datasets/nsynth --html nsynth.html

Takes one dataset or the folder of its splits. Reads manifests and index tables only; --html reads the examples that it
shows as well, and writes one page with pictures, players, distributions and digests that needs no network.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from shards.decode import CLIPPED_SHARE
from shards.feature import load_feature
from shards.index import read_index
from shards.manifest import REJECTED, Manifest, read_table, rebuild_command
from shards.problem import UsageProblem
from shards.verify import datasets_in

_BAR = "▁▂▃▄▅▆▇█"
_SHOWN_CLASSES = 12


@dataclass(frozen=True)
class Inspect:
    dataset: tyro.conf.Positional[Path]
    """a dataset, or the folder of its splits"""
    html: Path | None = None
    """file to write the page to"""
    examples: int = 12
    """examples that the page shows and plays, over all splits"""
    seed: int = 0
    """decides which"""
    weights: tuple[str, ...] = ()
    """features to open so that their columns can be heard: MODULE:CONTRACT@WEIGHTS"""


COMMAND = Inspect


def main(command: Inspect) -> dict[str, object]:
    for name in ("examples", "seed"):
        if (given := getattr(command, name)) < 0:
            raise UsageProblem(f"--{name} is {given}, so nothing was done. Pass 0 or more.")
    folders = datasets_in(command.dataset)
    if command.html is not None:
        _write_page(command.html, folders, command)
    summaries = {str(folder): "\n".join(summary(folder)) for folder in folders}
    manifests = [Manifest.read(folder) for folder in folders]
    metrics = {manifest.split: {"examples": manifest.examples, "rejected": manifest.rejected} for manifest in manifests}
    place = str(command.html or command.dataset)
    return {"output": "\n\n".join([*summaries.values(), place]), "metrics": metrics}


def _write_page(path: Path, folders: Sequence[Path], command: Inspect) -> None:
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise UsageProblem(
            f"{path} lies inside a dataset, which would then hold a file that its manifest does not list. Nothing was "
            f"written. Pass a place beside it: --html {command.dataset.name}.html"
        )
    from shards.html.page import write_page  # the lines for a terminal need none of it

    opened = [load_feature(word) for word in command.weights]
    write_page(path, folders, examples=command.examples, seed=command.seed, opened=opened)


def summary(folder: Path) -> Iterator[str]:
    """The lines a terminal shows of one dataset; what labels and paths hold that would steer a terminal is replaced."""
    for line in _lines(folder):
        yield "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _lines(folder: Path) -> Iterator[str]:
    manifest = Manifest.read(folder)
    origin = "rendered, not the published recordings" if manifest.rendered else "published recordings"
    megabytes = sum(stored.bytes for shard in manifest.shards for stored in shard.files.values()) / 1e6
    yield f"{folder}  {manifest.corpus} {manifest.split} ({origin})"
    yield f"  examples     {manifest.examples:,} of {manifest.planned:,} planned, {manifest.seconds / 3600:.2f} hours"
    yield f"  shards       {len(manifest.shards)}, {megabytes:,.1f} MB"
    yield f"  fingerprint  {manifest.fingerprint[:16]}"
    yield f"  made by      {rebuild_command(manifest)}"
    for column, contract in manifest.features.items():
        stored = f"{contract['stored']} as {contract['dtype']}, contract {str(contract['fingerprint'])[:8]}"
        yield f"  column       {column}: {contract['word']}, {stored}"
    yield from _labels(folder, manifest)
    yield from _events(folder, manifest)
    yield from _clipped(folder, manifest)
    yield from _rejected(folder, manifest)


def _labels(folder: Path, manifest: Manifest) -> Iterator[str]:
    names = [name for name, kind in manifest.labels.items() if not str(kind["type"]).startswith("list")]
    names = [name for name in names if name.removesuffix("_str") == name or name.removesuffix("_str") not in names]
    columns = [f"label.{name}" for name in names]
    tables = [read_index(folder, manifest, shard, columns) for shard in manifest.shards]
    for name, column in zip(names, columns, strict=True):
        values = [value for table in tables for value in table[column].to_pylist() if value is not None]
        yield f"  label        {name}: {_distribution(values, manifest.labels[name].get('classes'))}"  # type: ignore[arg-type]


def _events(folder: Path, manifest: Manifest) -> Iterator[str]:
    columns = [f"events.{name}" for name in manifest.events]
    tables = [read_index(folder, manifest, shard, columns) for shard in manifest.shards]
    for (name, kind), column in zip(manifest.events.items(), columns, strict=True):
        rows = [row for table in tables for row in table[column].to_pylist()]
        values = [event["value"] for row in rows for event in row or ()]
        shown = f"{len(values):,} in {sum(map(bool, rows)):,} examples"
        yield f"  events       {name}: {shown}" + (f"  {_distribution(values, kind.get('classes'))}" if values else "")  # type: ignore[arg-type]


def _clipped(folder: Path, manifest: Manifest) -> Iterator[str]:
    shares = [read_index(folder, manifest, shard, ["clipped_share"]) for shard in manifest.shards]
    if count := sum(int((table["clipped_share"].to_numpy() > CLIPPED_SHARE).sum()) for table in shares):
        yield f"  clipped      {count:,} examples have over {CLIPPED_SHARE:.1%} of their samples at full scale"


def _distribution(values: list, classes: list[str] | None) -> str:
    counts = Counter(values)
    if classes:
        return "  ".join(f"{name} {counts[number]:,}" for number, name in enumerate(classes))
    if len(counts) <= _SHOWN_CLASSES:
        return "  ".join(f"{value} {count:,}" for value, count in sorted(counts.items()))
    if isinstance(values[0], str):
        return f"{len(counts):,} different"
    return f"{min(values)} {_histogram(np.array(values))} {max(values)}, {len(counts):,} different"


def _histogram(values: np.ndarray) -> str:
    heights, _ = np.histogram(values, bins=min(24, len(set(values.tolist()))))
    return "".join(_BAR[round(height / heights.max() * (len(_BAR) - 1))] for height in heights)


def _rejected(folder: Path, manifest: Manifest) -> Iterator[str]:
    if not manifest.rejected:
        yield "  rejected     none"
        return
    rows = read_table(folder / REJECTED, ["stage", "reason"]).to_pylist()
    yield f"  rejected     {len(rows):,}, listed in {folder / REJECTED}"
    for (stage, reason), count in Counter((str(row["stage"]), str(row["reason"])) for row in rows).most_common(5):
        yield f"               {count:,} at {stage}: {reason}"


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("inspect")
