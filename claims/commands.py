"""Commands run as a user would run them, each in a process of its own, with their result records."""

import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One finished command: its words, its result record, and how long it took."""

    words: list[str]
    result: dict[str, Any]
    seconds: float

    @property
    def shown(self) -> str:
        """What the command said before its last line."""
        return self.result["output"].rpartition("\n")[0]

    @property
    def place(self) -> str:
        """Its last line: where its output lies."""
        return self.result["output"].rpartition("\n")[2]


def run(*words: object) -> Step:
    """Run one command, its progress shown. Ends this program with its exit code when it fails."""
    line = [str(word) for word in words]
    log.info("\n$ sonograph %s", " ".join(line))
    begin = time.monotonic()
    finished = subprocess.run([sys.executable, "-m", "sonograph", *line, "--json"], stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(finished.returncode)
    return Step(line, json.loads(finished.stdout.strip().splitlines()[-1]), time.monotonic() - begin)
