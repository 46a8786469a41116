"""Music in; verified shards and trained, probed, reproducible models out.

    sonograph VERB ...          sonograph VERB --help

The one command. It finds the verb's module, imports only that, reads its options with tyro, and turns errors into one
readable line and an exit code: 0 ok, 1 failed, 2 usage, 3 data problem, 4 environment problem, 130 and 143 signals.
"""

import difflib
import importlib
import json
import logging
import os
import signal
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

VERBS = {
    "render": ("pipelines.render", "compose and play a corpus into its published layout"),
    "build": ("pipelines.build", "turn a corpus into shards"),
    "add-feature": ("pipelines.add_feature", "compute one more column of a built dataset"),
    "drop-feature": ("shards.drop_feature", "remove a column of a dataset"),
    "merge": ("shards.merge", "make one dataset of several"),
    "split": ("shards.split", "divide a dataset: by a label, into shares, or by keys"),
    "verify": ("shards.verify", "check every digest, count, offset and contract of a dataset"),
    "inspect": ("shards.inspect", "show what a dataset holds"),
    "describe": ("shards.describe", "write a Croissant description and a dataset card"),
    "train": ("trainers.train", "train a model from shards"),
    "sweep": ("trainers.sweep", "train many configs to compare them"),
    "evaluate": ("trainers.evaluate", "ask questions of a checkpoint"),
    "embed": ("trainers.embed", "embed music of any length by a checkpoint"),
    "claims": ("claims.ask", "re-test what a system's paper claims"),
    "sync": ("trainers.sync", "upload what the tracking server has not seen yet"),
    "ui": ("trainers.ui", "open the MLflow pages of all runs"),
    "submit": ("cluster.submit", "run any of these commands as an authenticated Ray job"),
    "demo": ("demo", "the main job on rendered music, from notes to a probed model"),
}
FLAGS = {
    "--json": "print the result record as JSON, for machines",
    "--quiet": "print nothing but errors and the last line",
    "--debug": "show the whole traceback of an error",
}
_OVERVIEW = """{summary}

usage: sonograph VERB [OPTIONS]

{verbs}

with every verb:
{flags}

example: sonograph build --help"""


def main() -> NoReturn:
    """Entry point of `sonograph`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        _show(_overview())
        sys.exit(0 if words else 2)
    run_verb(words[0], words[1:])


def run_verb(verb: str, words: list[str] | None = None) -> NoReturn:
    """Run one verb with its arguments (the command line's by default) and exit with its code."""
    words = sys.argv[1:] if words is None else words
    own, flags = _split_flags(words)
    if home := os.environ.get("SONOGRAPH_HOME"):
        os.chdir(home)  # a submitted job means the submitter's datasets/ and runs/, not its own copy of the code
    _set_up_logging("--quiet" in flags)
    signal.signal(signal.SIGTERM, _terminated)
    command = None
    try:
        module = _module_of(verb)
        command = _parse(module, verb, own)
        outcome = module.main(command)
    except KeyboardInterrupt:
        sys.exit(_fail("stopped by Ctrl-C; repeating the command continues", 130, command, flags))
    except Exception as error:
        if "--debug" in flags:
            raise
        sys.exit(_fail(*_explained(error), command, flags))
    _report(command, {"status": "ok", **outcome}, flags)
    sys.exit(0)


def command_of(verb: str, words: list[str]) -> Any:
    """What a command line of these words would run: the argument of the verb's `main`."""
    return _parse(_module_of(verb), verb, words)


def _module_of(verb: str) -> ModuleType:
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=2)
        hint = f"Did you mean {' or '.join(close)}?" if close else "See: sonograph --help"
        raise _Usage(f"There is no command '{verb}', so nothing was done. {hint}")
    return importlib.import_module(VERBS[verb][0])


def _parse(module: ModuleType, verb: str, words: list[str]) -> Any:
    """Build the verb's command from its words: a dataclass, or the one that a function chooses by the words.

    A function that returns no type has parsed them itself.
    """
    shape = module.COMMAND if isinstance(module.COMMAND, type) else module.COMMAND(words)
    if not isinstance(shape, type):
        return shape
    import tyro

    if {"-h", "--help"} & set(words):
        _show(_wrapped(module.__doc__ or ""))  # tyro would join the example and the paragraphs into long lines
    command: Any = tyro.cli(
        shape,
        prog=f"sonograph {verb}",
        description="",
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff, tyro.conf.FlagCreatePairsOff),
    )
    return _with_urls(command)


def _with_urls(command: Any) -> Any:
    """The command with those of its paths as URLs that name a place in a store: pathlib has folded their slashes."""
    given = {field.name: getattr(command, field.name) for field in fields(command)}
    lists = {name: paths for name, paths in given.items() if isinstance(paths, tuple) and _has_url(paths)}
    single = {name: path for name, path in given.items() if _has_url((path,))}
    if not lists and not single:
        return command
    from shards.stores.remote import place_of

    placed: dict[str, Any] = {name: tuple(place_of(path) for path in paths) for name, paths in lists.items()}
    return replace(command, **placed, **{name: place_of(path) for name, path in single.items()})


def _has_url(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, Path) and ":" in str(value) for value in values)


def _wrapped(docstring: str) -> str:
    """The paragraphs of a docstring for a terminal of 80 columns; indented ones, the examples, as they are."""
    paragraphs = textwrap.dedent(docstring).strip().split("\n\n")
    lines = [part if part.startswith("    ") else textwrap.fill(part, 80) for part in paragraphs]
    return "\n\n".join([*lines, ""])


def _report(command: Any, result: dict[str, object], flags: set[str]) -> None:
    """The result record, then the last line: where the outputs lie."""
    _write_record(command, result)
    _show(json.dumps(result, sort_keys=True, default=str) if "--json" in flags else str(result.get("output", "")))


def _show(text: str) -> None:
    """Print, and end quietly when nobody listens any more, as in `sonograph --help | head -1`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int, command: Any, flags: set[str]) -> int:
    result = {"status": "failed", "error": message, "exit_code": code}
    _write_record(command, result)
    print(f"sonograph: {message}", file=sys.stderr)
    if "--json" in flags:
        print(json.dumps(result))
    return code


def _write_record(command: Any, result: dict[str, object]) -> None:
    """RESULT.json beside the outputs: by it a scheduler judges success, whatever became of exit codes and logs.

    A failure only replaces an earlier record: a command that was refused a folder leaves nothing there.
    """
    out = getattr(command, "out", None)
    if out is None or getattr(command, "dry_run", False):
        return
    from shards.store import write_json
    from shards.stores.remote import Url, place_of
    from shards.stores.upload import written

    try:
        place = place_of(out)
        if not (isinstance(place, Url) or place.is_dir()):
            return
        if result["status"] != "ok" and not (place / "RESULT.json").is_file():
            return
        with written(place) as folder:
            write_json(folder / "RESULT.json", result)
    except Exception as error:
        logging.getLogger("sonograph").warning("the result record could not be written: %s", error)


def _explained(error: Exception) -> tuple[str, int]:
    """The message and exit code of an error: our own carry both, any other is a bug or a surprise and says so."""
    code = getattr(error, "exit_code", None)
    if code is not None:
        return str(error), int(code)
    logging.getLogger("sonograph").debug("unexpected error", exc_info=error)
    surprise = f"unexpected {type(error).__name__}: {error}"
    return f"{surprise}. Nothing half-written was kept. Repeat with --debug for the traceback.", 1


def _split_flags(words: list[str]) -> tuple[list[str], set[str]]:
    """Take the frame's own flags out of the words, but never from behind a `--`."""
    end = words.index("--") if "--" in words else len(words)
    flags = {word for word in words[:end] if word in FLAGS}
    return [word for word in words[:end] if word not in FLAGS] + words[end:], flags


def _set_up_logging(quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("pipelines", "shards", "trainers", "claims", "cluster", "demo"):
        logging.getLogger(package).setLevel(logging.WARNING if quiet else logging.INFO)


def _terminated(signal_number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(143)


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<14}{summary}" for verb, (_, summary) in VERBS.items())
    flags = "\n".join(f"  {flag:<14}{summary}" for flag, summary in FLAGS.items())
    summary = (__doc__ or "").splitlines()[0]
    return _OVERVIEW.format(summary=summary, verbs=verbs, flags=flags)


class _Usage(Exception):
    exit_code = 2


if __name__ == "__main__":
    main()
