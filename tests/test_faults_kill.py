"""Killed at any of its renames and repeated, a command ends in the bytes of one that was not disturbed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shards import merge, split
from shards.manifest import MANIFEST
from tests.building import build_here, everything_below
from tests.copies import run
from tests.killing import killed_at_each_rename
from tests.test_split import songs

pytestmark = pytest.mark.slow
NOTES = Path(__file__).parent / "data" / "nsynth"


def require_same(moments: Sequence[Mapping[str, Sequence[str]]], killed: Path, whole: Path) -> None:
    """Every kill left another state; none looked whole; what was finished was not made again; all end in one."""
    manifests = [sum(name.endswith(MANIFEST) for name in moment["left"]) for moment in moments]
    splits = len(list(whole.rglob(MANIFEST)))
    assert manifests == sorted(manifests) and set(manifests) == set(range(splits))
    for number, moment in enumerate(moments):
        finished = {name for name in moment["left"] if "/index/" in name}
        assert not finished & set(moment["again"])
        assert everything_below(killed / f"{number:03d}") == everything_below(whole)


def test_a_build(tmp_path: Path):
    words = ("nsynth", "--root", NOTES, "--shard-examples", 8)
    build_here(*words, "--out", tmp_path / "whole")
    moments = killed_at_each_rename(tmp_path / "killed", "build", *words)
    assert len(moments) == 10  # plan, column, three files of each of two shards, rejected ones, manifest
    require_same(moments, tmp_path / "killed", tmp_path / "whole")


def test_a_merge(tmp_path: Path):
    datasets = [songs(tmp_path / name / "train", count) for name, count in (("a", 4), ("b", 3))]
    run(merge, "merge", *datasets, "--out", tmp_path / "whole")
    moments = killed_at_each_rename(tmp_path / "killed", "merge", *datasets, "--workers", 1)
    require_same(moments, tmp_path / "killed", tmp_path / "whole")


def test_a_split(tmp_path: Path):
    dataset = songs(tmp_path / "all" / "train", 9)
    words = (dataset, "--fractions", "one=0.5", "two=0.5")
    run(split, "split", *words, "--out", tmp_path / "whole")
    moments = killed_at_each_rename(tmp_path / "killed", "split", *words, "--workers", 1)
    require_same(moments, tmp_path / "killed", tmp_path / "whole")
