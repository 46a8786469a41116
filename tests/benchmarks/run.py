"""Run every benchmark, append a row each to results.jsonl, and refresh the table in the README.

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

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
README = FOLDER.parents[1] / "README.md"
_BEGIN, _END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def main(names: list[str]) -> None:
    for name in names or sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("run", "__init__")):
        row = {"name": name, **about(), **importlib.import_module(f"tests.benchmarks.{name}").measure()}
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for line in _lines(row):
            print(f"{name:8}{line['ratio']:6.2f}x of {line['peer_name']}  (target {line['target']}x)", flush=True)
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
    """The newest row of each benchmark as a table between two marks of the README."""
    newest = {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    lines = ["| what | ours | peer | ratio (range of 5) | target | measured |", "|---|---|---|---|---|---|"]
    lines += [_table_row(line) for _, row in sorted(newest.items()) for line in _lines(row)]
    text = README.read_text()
    table = "\n".join([_BEGIN, *lines, _END])
    README.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: table, text, flags=re.S))


def _lines(row: dict) -> list[dict]:
    """A row, and itself against each further peer."""
    return [{**row, **other} for other in ({}, *row.get("against", ()))]


def _table_row(row: dict) -> str:
    low, high = row["ratio_spread"]
    return (
        f"| {row['what']} | {_short(row['ours'])} {row['unit']} | {_short(row['peer'])}: {row['peer_name']} "
        f"| **{row['ratio']:.2f}** ({low:.2f}-{high:.2f}) | {row['target']} | {row['date']}, {row['machine']} |"
    )


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
