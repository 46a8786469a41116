"""What a build would do, told and not done: recordings, examples, shards, bytes, what is missing, what is there."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.dataset import Split, kind_of
from pipelines.source import Tree, paths_of

_SHOWN_REASONS = 8


def foretold(splits: Sequence[Split], tree: Tree) -> dict[str, object]:
    """The outcome of a dry run: lines for people, figures by split for machines."""
    facts = {split.folder.name: _facts(split, tree) for split in splits}
    lines = [line for split in splits for line in _told(split, facts[split.folder.name])]
    return {"output": "\n".join([*lines, "dry run: nothing was written"]), "metrics": facts}


def _facts(split: Split, tree: Tree) -> dict[str, Any]:
    recordings = {span.recording.recording_id: span.recording for task in split.tasks for span in task.spans}
    pending = split.pending()
    usable = (span.recording for task in pending for span in task.spans if not span.recording.problem)
    files = {path for recording in usable for path in paths_of(recording)}
    return {
        "recordings": len(recordings),
        "spans": split.planned,
        "shards": len(split.tasks),
        "whole_shards": len(split.tasks) - len(pending),
        "files_to_read": len(files),
        "bytes_to_read": sum(tree.status(path)[0] for path in files),
        "rejected": dict(Counter(kind_of(one.problem) for one in recordings.values() if one.problem).most_common()),
    }


def _told(split: Split, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{split.folder}"
    yield f"  recordings   {facts['recordings']:,} listed, {sum(facts['rejected'].values()):,} of them cannot be used"
    for reason, count in list(facts["rejected"].items())[:_SHOWN_REASONS]:
        yield f"               {count:,}: {reason}"
    if (more := len(facts["rejected"]) - _SHOWN_REASONS) > 0:
        yield f"               and {more} other reasons"
    yield f"  examples     {facts['spans']:,} planned"
    to_make = facts["shards"] - facts["whole_shards"]
    yield f"  shards       {facts['shards']:,}, {facts['whole_shards']:,} of them whole already, {to_make:,} to make"
    yield f"  to read      {facts['files_to_read']:,} files, {facts['bytes_to_read'] / 1e6:,.1f} MB"
