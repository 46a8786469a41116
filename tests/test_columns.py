"""Columns come and go one by one; the others, the index and every byte of a whole build stay what they were."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines import fit
from pipelines.add_feature import AddFeature, build_words
from shards.drop_feature import DropFeature
from shards.drop_feature import main as drop
from shards.lock import LOCK
from shards.manifest import MANIFEST, Manifest, feature_words, with_features
from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.statistics import QUANTILE_ERROR
from shards.verify import verify
from tests.building import build_here, everything_below
from tests.command import sonograph

RATE = 16_000
SHORT = "short.wav"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight recordings of coloured noise; one of 50 ms, too short for a mel."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(8):
        soundfile.write(root / f"{number}.wav", 0.3 * rng.standard_normal((number + 2) * 8000).cumsum() / 100, RATE)
    soundfile.write(root / SHORT, 0.1 * rng.standard_normal(RATE // 20), RATE)
    return root


def built(corpus: Path, out: Path, *features: str) -> Path:
    build_here("folder", "--root", corpus, "--out", out, "--shard-examples", 3, "--features", *features)
    return out


def added(dataset: Path, feature: str) -> None:
    build_here(*build_words(AddFeature(dataset, feature, workers=1))[1:])


def versions(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def splits_of(dataset: Path) -> list[Path]:
    return sorted(path.parent for path in dataset.glob(f"*/{MANIFEST}"))


def test_an_added_column_touches_nothing_else_and_ends_in_the_bytes_of_one_build(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio")
    before = versions(dataset)
    added(dataset, "codec:low128")
    changed = {name for name, version in versions(dataset).items() if before.get(name, version) != version}
    assert changed == {f"{split.name}/{MANIFEST}" for split in splits_of(dataset)}
    both = built(corpus, tmp_path / "b", "audio", "codec:low128")
    assert everything_below(dataset) == everything_below(both)
    assert [problem for split in splits_of(dataset) for problem in verify(split)] == []


def test_the_command_adds_a_column_to_all_splits_and_says_where(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio")
    told = sonograph("add-feature", dataset / "train", "codec:low128", "--dry-run")
    assert "to write     codec-low128: about" in told.stdout and not list(dataset.glob("*/codec-low128"))
    done = sonograph("add-feature", dataset / "train", "codec:low128")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(dataset / "train")), done.stderr
    assert all("codec-low128" in Manifest.read(split).features for split in splits_of(dataset))
    failed = sonograph("add-feature", dataset, "codec:lower128")
    assert failed.returncode == 2 and "low128" in failed.stderr


def test_a_column_that_is_there_is_not_computed_again(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio", "codec:low128")
    before = everything_below(dataset)
    inodes = {name: version for name, version in versions(dataset).items() if name.endswith((".tar", ".parquet"))}
    added(dataset, "codec:low128")
    built(corpus, dataset, "audio")
    assert everything_below(dataset) == before
    after = versions(dataset)
    assert all(after[name] == version for name, version in inodes.items() if "rejected" not in name)


def test_an_addition_that_was_stopped_makes_only_what_is_missing(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio")
    split = max(splits_of(dataset), key=lambda split: Manifest.read(split).examples)
    only_audio = (split / MANIFEST).read_bytes()
    added(dataset, "codec:low128")
    whole = everything_below(dataset)
    (split / MANIFEST).write_bytes(only_audio)
    (split / "codec-low128" / "000000.parquet").unlink()
    kept = versions(dataset)[f"{split.name}/codec-low128/000001.tar"]
    added(dataset, "codec:low128")
    assert everything_below(dataset) == whole
    assert versions(dataset)[f"{split.name}/codec-low128/000001.tar"] == kept


def test_a_dropped_column_leaves_the_dataset_as_it_was_without_it(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio")
    before = everything_below(dataset)
    added(dataset, "codec:low128")
    drop(DropFeature(dataset, "codec-low128"))
    assert everything_below(dataset) == before


def test_a_damaged_column_never_drops_out_of_the_manifest_unsaid(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio", "codec:low128")
    split = splits_of(dataset)[0]
    (split / "audio" / "000000.tar").unlink()
    with pytest.raises(DataProblem, match="Shard 0 of the column 'audio' .* is damaged or missing.*--repair"):
        added(dataset, "codec:full320")
    assert "audio" in Manifest.read(split).features


@pytest.mark.parametrize("column, said", [("mell", "has no column 'mell'"), ("audio", "is the only column")])
def test_a_column_that_cannot_be_dropped_is_an_error_and_nothing_happens(
    corpus: Path, tmp_path: Path, column: str, said: str
):
    dataset = built(corpus, tmp_path / "a", "audio")
    before = everything_below(dataset)
    with pytest.raises(UsageProblem, match=said):
        drop(DropFeature(dataset, column))
    assert everything_below(dataset) == before


def test_an_example_of_which_a_feature_makes_nothing_has_no_frames_in_an_added_column(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio")
    added(dataset, "mel")
    frames = {}
    for split in splits_of(dataset):
        reader = Reader(split, "mel")
        assert len(reader) == len(Reader(split, "audio"))
        shapes = [array.shape for array in reader.arrays(range(len(reader)))]
        frames |= dict(zip(reader.labels("source_path"), shapes, strict=True))
    assert frames.pop(SHORT) == (128, 0)
    assert all(shape[1] > 0 for shape in frames.values())


def test_a_recording_that_has_changed_gets_no_column_of_another_sound(corpus: Path, tmp_path: Path):
    root = tmp_path / "corpus"
    root.mkdir()
    for path in corpus.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    dataset = built(root, tmp_path / "a", "audio")
    soundfile.write(root / "3.wav", np.zeros(5 * 8000) + 0.1, RATE)
    with pytest.raises(DataProblem, match=r"3\.wav is not what it was .*its bytes are others"):
        added(dataset, "codec:low128")
    assert all(list(Manifest.read(split).features) == ["audio"] for split in splits_of(dataset))


def test_a_codec_is_fitted_once_on_the_training_split_and_kept_with_each(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "audio", "codec:linear")
    kept = {(split / "codec-linear" / "weights.npz").read_bytes() for split in splits_of(dataset)}
    entries = [Manifest.read(split).features["codec-linear"] for split in splits_of(dataset)]
    assert len(kept) == 1 and len({str(entry["weights"]) for entry in entries}) == 1
    before = everything_below(dataset)
    built(corpus, dataset, "audio", "codec:linear")
    assert everything_below(dataset) == before
    later = built(corpus, tmp_path / "b", "audio")
    added(later, "codec:linear")
    assert everything_below(later) == before
    assert [problem for split in splits_of(dataset) for problem in verify(split)] == []


def test_a_repetition_takes_the_fit_that_is_there(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = built(corpus, tmp_path / "a", "codec:linear")
    before = everything_below(dataset)
    monkeypatch.setattr(fit, "_chosen", lambda *_: pytest.fail("it was fitted again"))
    built(corpus, dataset, "codec:linear")
    assert everything_below(dataset) == before


@pytest.mark.parametrize("build", ["build x --root r".split(), "build x --features a b --last drop".split()])
def test_the_features_of_a_command_are_read_and_replaced(build: Sequence[str]):
    again = with_features(build, ["c"])
    assert feature_words(again) == ["c"] and feature_words(with_features(again, [])) == []
    assert [word for word in again if word not in ("c", "--features")] == [
        word for word in build if word not in ("a", "b", "--features")
    ]


def test_the_statistics_of_a_column_are_those_of_all_its_frames(corpus: Path, tmp_path: Path):
    dataset = built(corpus, tmp_path / "a", "mel", "audio")
    for split in splits_of(dataset):
        found = Manifest.read(split).statistics
        values = np.concatenate(
            [array.astype(np.float64) for array in Reader(split).arrays(range(len(Reader(split))))], 1
        )
        assert list(found) == ["mel"] and found["mel"]["count"] == values.shape[1]
        np.testing.assert_allclose(found["mel"]["mean"], values.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(found["mel"]["deviation"], values.std(axis=1), rtol=1e-9)
        for share, quantile in found["mel"]["quantiles"].items():
            below, above = (np.quantile(values, float(share), axis=1, method=side) for side in ("lower", "higher"))
            assert (below * (1 - QUANTILE_ERROR) <= quantile).all() and (quantile <= above * (1 + QUANTILE_ERROR)).all()
