"""The noun Recording: an audio file of a corpus, with labels and split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Label = int | float | str | tuple[int | str, ...]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Recording:
    """What a corpus says of one of its audio files; holds no audio."""

    recording_id: str
    """Unique in its corpus; letters, digits, `_` and `-` only, so that it can name a member of a shard."""
    path: str
    """Relative to the corpus root, with forward slashes."""
    split: str
    """One of SPLITS."""
    labels: Mapping[str, Label] = field(default_factory=dict)
    """Empty when there is a problem."""
    seconds: float | None = None
    """Where the layout fixes the length; None where a file must be asked."""
    problem: str = ""
    """Why it cannot be used: it keeps its place in the plan and is rejected with this reason."""
