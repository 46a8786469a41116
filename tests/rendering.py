"""Three short pieces of a labelled set, rendered by its own file into its own layout."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.music.synthesis import SOUNDFONT


def short_pieces(planned: Callable[..., Sequence[Any]]) -> list[Any]:
    """Three of the pieces that a corpus plans, each 4 s long."""
    return [replace(piece, seconds=4.0) for piece in planned(size={"tracks": 3}, seed=3)]


def render_short(corpus: ModuleType, root: Path) -> Path:
    """Play them and write the tables of their corpus."""
    pieces = short_pieces(corpus.planned)
    for piece in pieces:
        corpus.render_piece(root, piece, SOUNDFONT)
    corpus.finish(root, pieces)
    return root
