"""Run every benchmark, append a row each to results.jsonl, and refresh the table in the README.

A benchmark may turn its row into a page of docs/ too. One that needs a GPU is left out by name where there is none.

make bench          python -m tests.benchmarks.run [NAME ...]
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
README = FOLDER.parents[1] / "README.md"
_BEGIN, _END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def main(names: list[str]) -> None:
    for name in names or sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("run", "__init__")):
        benchmark = importlib.import_module(f"tests.benchmarks.{name}")
        if getattr(benchmark, "NEEDS_GPU", False) and not torch.cuda.is_available():
            print(f"{name:8} left out: there is no GPU here", flush=True)
            continue
        row = {"name": name, **about(), **benchmark.measure()}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for line in _lines(row):
            print(f"{name:8}{line['ratio']:6.2f}x of {line['peer_name']}  (target {line['target']}x)", flush=True)
        if page := getattr(benchmark, "PAGE", None):
            page.write_text(benchmark.page(row))
    refresh_readme()


def about() -> dict[str, object]:
    """When, on what and with what a figure was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=FOLDER).stdout
    return {
        "date": date.today().isoformat(),
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores {_processor()}",
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "numpy", "webdataset")},
    }


def refresh_readme() -> None:
    """Put the table between its two marks in the README."""
    README.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: table(), README.read_text(), flags=re.S))


def table() -> str:
    """The newest row of each benchmark, between marks."""
    lines = ["| what | ours | peer | ratio (range of 5) | target | measured |", "|---|---|---|---|---|---|"]
    lines += [_table_row(line) for _, row in sorted(newest().items()) for line in _lines(row)]
    return "\n".join([_BEGIN, *lines, _END])


def newest() -> dict[str, dict]:
    """The last row of each benchmark by its name."""
    return {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}


def _lines(row: dict) -> list[dict]:
    """A row, and itself against each further peer."""
    return [{**row, **other} for other in ({}, *row.get("against", ()))]


def _table_row(row: dict) -> str:
    low, high = row["ratio_spread"]
    return (
        f"| {row['what']} | {_short(row['ours'])} {row['unit']}{_memory(row, 'ours')} "
        f"| {_short(row['peer'])}{_memory(row, 'peer')}: {row['peer_name']} "
        f"| **{row['ratio']:.2f}** ({low:.2f}-{high:.2f}) | {row['target']} | {row['date']}, {row['machine']} |"
    )


def _memory(row: dict, side: str) -> str:
    return f", {row['gib'][side]:.1f} GiB" if "gib" in row else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _processor() -> str:
    names = (
        re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main(sys.argv[1:])
