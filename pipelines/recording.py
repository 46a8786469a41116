"""The noun Recording: a piece of sound in a corpus, with labels, events and split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

Value = int | float | str
Label = Value | tuple[Value, ...]
Event = tuple[float, float, Value]
"""Start and end in seconds from the recording's begin, and what holds between; an instant starts and ends at once."""

SPLITS = ("train", "valid", "test")

_MARGIN_SECONDS = 1.0  # cutters keep whole key frames: a segment of 10 s may come as a file of almost 11 s
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recording:
    """What a corpus says of one of its pieces of sound; holds no audio."""

    recording_id: str
    """Unique in its corpus; letters, digits, `_` and `-` only, so that it can name a member of a shard."""
    path: str
    """Relative to the corpus root, with forward slashes; may lead through an archive: `a.tar.gz/folder/b.wav`."""
    split: str
    """One of SPLITS."""
    labels: Mapping[str, Label] = field(default_factory=dict)
    """Empty when there is a problem."""
    seconds: float | None = None
    """Where the layout fixes or states the length; None where the file's header must be asked."""
    problem: str = ""
    """Why it cannot be used: it keeps its place in the plan and is rejected with this reason."""
    events: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    """What happens when, by name; within its length."""
    parts: tuple[str, ...] = ()
    """Files of one length whose mean it is; `path` alone when empty."""
    segment: tuple[float, float] | None = None
    """Start and end in seconds in the whole video that its source may be, or may be the segment of already."""
    group: str = ""
    """Recordings of one group stay together: their spans of one start have consecutive indices in one shard."""

    def lasting(self, seconds: float) -> "Recording":
        """The same with its length; `dataclasses.replace` would take three times as long, for each of ten million."""
        return Recording(
            self.recording_id, self.path, self.split, self.labels, seconds,
            self.problem, self.events, self.parts, self.segment, self.group,
        )  # fmt: skip

    def is_piece_of(self, source_seconds: float) -> bool:
        """Whether a source of that length is the whole video: longer than the segment, and reaching to its end."""
        if self.segment is None:
            return False
        begin, end = self.segment
        return source_seconds > end - begin + _MARGIN_SECONDS and source_seconds >= end - _MARGIN_SECONDS


def safe_id(name: str) -> str:
    """`name` where it is made of allowed letters, else a readable form of it with a digest that keeps it unique."""
    if _SAFE_ID.fullmatch(name):
        return name
    digest = sha256(name.encode(errors="surrogatepass")).hexdigest()
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60] + "--" + digest[:12]
