"""An actor's batches across shards make what plain tasks make, one clip after the other."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.batches import BatchBuilder
from pipelines.example_maker import Recipe
from pipelines.plan import Work, shard_tasks, spans
from pipelines.recording import Recording
from pipelines.task import build_shard
from shards.feature import Feature, load_feature
from tests.building import everything_below
from tests.command import sonograph

RATE = 16_000
FEATURES = ("mel", "audio", "codec:logpower")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of several lengths, one of 50 ms that is no mel, one that is no audio."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(9):
        samples = RATE // 20 if number == 4 else RATE * (1 + number % 3) // 2
        soundfile.write(root / f"{number}.wav", 0.1 * rng.standard_normal(samples), RATE)
    (root / "6.wav").write_bytes(b"RIFF, but no WAVE")
    return root


def features(*words: str) -> tuple[Feature, ...]:
    return tuple(load_feature(word) for word in words)


def works(folder: Path, *columns: str, has_index: bool = False) -> list[Work]:
    recordings = [Recording(f"{number}", f"{number}.wav", "train") for number in range(9)]
    tasks = shard_tasks(spans(recordings), shard_examples=2, contracts={})
    return [Work(folder, task, columns, has_index) for task in tasks]


def test_batches_across_shards_give_the_bytes_of_plain_tasks(root: Path, tmp_path: Path):
    recipe = Recipe(root, labels={}, events={}, features=features(*FEATURES))
    columns = [feature.column for feature in recipe.features]
    plain = [build_shard(work, recipe=recipe) for work in works(tmp_path / "plain", *columns)]
    records = BatchBuilder(recipe)(works(tmp_path / "batches", *columns))
    assert records == plain
    assert everything_below(tmp_path / "batches") == everything_below(tmp_path / "plain")
    reasons = {row.index: row.stage for record in records for row in record.rejected}
    assert reasons == {4: "feature", 6: "decode"}


def test_columns_are_added_in_batches_to_the_examples_that_are_there(root: Path, tmp_path: Path):
    audio, mel = (Recipe(root, labels={}, events={}, features=features(word)) for word in ("audio", "mel"))
    for folder in (tmp_path / "plain", tmp_path / "batches"):
        BatchBuilder(audio)(works(folder, "audio"))
    for work in works(tmp_path / "plain", "mel", has_index=True):
        build_shard(work, recipe=mel)
    BatchBuilder(mel)(works(tmp_path / "batches", "mel", has_index=True))
    assert everything_below(tmp_path / "batches") == everything_below(tmp_path / "plain")


def test_a_build_in_actors_ends_in_the_bytes_of_plain_tasks(
    rendered_nsynth: Path, rendered_nsynth_dataset: Path, tmp_path: Path
):
    out = tmp_path / "nsynth"
    words = ("--root", rendered_nsynth, "--out", out, "--shard-examples", 64, "--actors", 2)
    result = sonograph("build", "nsynth", *words)
    assert result.returncode == 0, result.stderr
    made, plain = everything_below(out), everything_below(rendered_nsynth_dataset)
    assert {name for name in plain if made.get(name) != plain[name]} <= {"RESULT.json"}
    assert made.keys() == plain.keys()
