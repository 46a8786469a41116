"""Work for tests of trainers/launch.py: what dies once, what fails, what only takes its time."""

import json
import os
import signal
import sys
from pathlib import Path

from shards.problem import RunFailed
from trainers.launch import spread


def work(path: Path) -> None:
    """Leave a mark; `mortal` is killed at its first try, `failing` fails at every one."""
    tries = path.with_suffix(".tries")
    with tries.open("a") as file:
        file.write("x")
    if path.name == "mortal" and len(tries.read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "failing":
        raise RunFailed("This one cannot work.")
    path.touch()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    names, ended, problem = ("failing", "mortal", "plain"), list[str](), ""
    try:
        for places in spread(work, [folder / name for name in names], workers=2, poll_seconds=1.0):
            ended += [names[place] for place in places]
    except RunFailed as error:
        problem = str(error)
    (folder / "found.json").write_text(json.dumps({"ended": sorted(ended), "problem": problem}))
