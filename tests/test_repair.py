"""`verify --repair`: what is broken is set aside and built again, what is not is left alone, and nothing gets lost."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.dataset import PLAN
from shards import repair as repairing
from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem
from shards.verify import Verify, main, verify
from tests.building import build_here, everything_below
from tests.command import sonograph
from tests.forgery import flip

REAL = Path(__file__).parent / "data" / "nsynth"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of real notes, beside their source."""
    home = tmp_path_factory.mktemp("built")
    shutil.copytree(REAL, home / "source")
    build_here("nsynth", "--root", home / "source", "--out", home / "notes", "--shard-examples", 4)
    return home


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy to be damaged, and the source that its manifest names where it was."""
    return shutil.copytree(built / "notes", tmp_path / "notes") / "test"


@pytest.fixture
def built_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Builds run in this process; a list of their words."""
    ran: list[list[str]] = []

    def run(words: Sequence[str]) -> None:
        ran.append(list(words))
        build_here(*words[1:])

    monkeypatch.setattr(repairing, "_run", run)
    return ran


def versions(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file that belongs to a shard."""
    paths = (path for path in folder.glob("*/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def garble(path: Path) -> None:
    flip(path, path.stat().st_size // 2, 3)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


SHARD_1 = {"index/000001.parquet", "mel/000001.tar", "mel/000001.parquet"}


@pytest.mark.parametrize(
    ("name", "damage", "may_change"),
    [
        ("mel/000001.tar", garble, SHARD_1 - {"index/000001.parquet"}),
        ("mel/000001.parquet", halve, SHARD_1 - {"index/000001.parquet"}),
        ("mel/000001.tar", Path.unlink, SHARD_1 - {"index/000001.parquet"}),
        ("index/000001.parquet", garble, SHARD_1),
        ("rejected.parquet", garble, set()),
        ("manifest.json", garble, set()),
        ("manifest.json", halve, set()),
        ("mel/column.json", Path.unlink, {"mel/column.json"}),
    ],
)
def test_only_what_is_broken_is_built_again_with_the_same_bytes(
    dataset: Path, built_here: list, name: str, damage: Callable[[Path], None], may_change: set[str]
):
    whole, before = everything_below(dataset), versions(dataset)
    damage(dataset / name)
    broken = (dataset / name).read_bytes() if (dataset / name).exists() else None
    result = main(Verify(dataset, repair=True))
    assert everything_below(dataset) == whole and list(verify(dataset)) == []
    after = versions(dataset)
    assert {path for path in before if before[path] != after[path]} <= may_change
    aside = dataset.parent / "set-aside" / "test" / "000"
    assert everything_below(aside).get(name) == broken
    assert (str(aside) in str(result["output"])) == (broken is not None)


def test_many_kinds_of_damage_at_once_are_repaired_and_every_broken_file_is_kept(dataset: Path, built_here: list):
    whole = everything_below(dataset)
    garble(dataset / "mel" / "000000.tar")
    halve(dataset / "index" / "000002.parquet")
    garble(dataset / MANIFEST)
    (dataset / "mel" / "000003.parquet").unlink()
    main(Verify(dataset.parent, repair=True))
    assert everything_below(dataset) == whole
    kept = {
        name for name, content in everything_below(dataset.parent / "set-aside" / "test" / "000").items() if content
    }
    assert kept == {"mel/000000.tar", "index/000002.parquet", MANIFEST}
    assert len(built_here) == 1


def test_files_that_do_not_belong_are_set_aside_and_told(dataset: Path, built_here: list, caplog):
    (dataset / "mel" / "thesis.tex").write_text("years of work")
    (dataset / "index" / "000009.parquet").symlink_to("/etc/passwd")
    main(Verify(dataset, repair=True))
    aside = dataset.parent / "set-aside" / "test" / "000"
    assert (aside / "mel" / "thesis.tex").read_text() == "years of work"
    assert (aside / "index" / "000009.parquet").is_symlink()
    assert f"set aside  {dataset / 'mel' / 'thesis.tex'} -> {aside / 'mel' / 'thesis.tex'}" in caplog.text


def test_a_second_repair_keeps_what_the_first_set_aside(dataset: Path, built_here: list):
    for number in (0, 1):
        garble(dataset / "mel" / "000002.tar")
        main(Verify(dataset, repair=True))
        assert (dataset.parent / "set-aside" / "test" / f"{number:03d}" / "mel" / "000002.tar").is_file()


def test_a_whole_dataset_is_left_alone(dataset: Path, built_here: list):
    assert main(Verify(dataset, repair=True))["output"] == f"{dataset} is whole"
    assert built_here == [] and not (dataset.parent / "set-aside").exists()


def test_the_splits_beside_it_are_checked_before_the_build_may_meet_them_and_other_datasets_left_alone(
    dataset: Path, built_here: list
):
    beside, foreign = dataset.parent / "train", dataset.parent / "other"
    for folder in (beside, foreign):
        shutil.copytree(dataset, folder)
        replace(Manifest.read(dataset), split=folder.name).write(folder)
        garble(folder / "index" / "000000.parquet")
    rewrite_build(foreign, ["build", "gtzan", "--root", "elsewhere"])
    before = everything_below(foreign)
    garble(dataset / "mel" / "000000.tar")
    with pytest.raises(DataProblem, match="did not mend that"):  # the source has no split train
        main(Verify(dataset, repair=True))
    assert (dataset.parent / "set-aside" / "train" / "000" / "index" / "000000.parquet").is_file()
    assert everything_below(foreign) == before


def test_a_dataset_of_another_name_than_its_build_gives_is_refused(dataset: Path):
    renamed = dataset.rename(dataset.parent / "renamed")
    garble(renamed / "mel" / "000000.tar")
    assert "its build writes a folder test" in refusal(renamed)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(dataset: Path, built: Path):
    garble(dataset / "mel" / "000000.tar")
    before = everything_below(dataset.parent)
    said = str(main(Verify(dataset, dry_run=True))["output"]).splitlines()
    aside = dataset.parent / "set-aside" / "test" / "000" / "mel" / "000000.tar"
    assert said[0] == f"would set aside {dataset / 'mel' / '000000.tar'} -> {aside}"
    assert said[1].startswith(f"would run sonograph build nsynth --root {built / 'source'} ")
    assert said[1].endswith(f" --out {dataset.parent}")
    assert everything_below(dataset.parent) == before


def refusal(dataset: Path, **options: Path) -> str:
    """Why a repair was refused; nothing has moved."""
    before = everything_below(dataset.parent)
    with pytest.raises(DataProblem) as refused:
        main(Verify(dataset, repair=True, **options))
    assert everything_below(dataset.parent) == before
    return str(refused.value)


def rewrite_build(dataset: Path, build: Sequence[str]) -> None:
    replace(Manifest.read(dataset), build=build).write(dataset)


def test_a_source_that_is_gone_is_named_and_one_that_moved_can_be_given(
    dataset: Path, built: Path, built_here: list, tmp_path: Path
):
    whole = everything_below(dataset)
    rewrite_build(dataset, ["build", "nsynth", "--root", str(tmp_path / "gone"), "--shard-examples", "4"])
    garble(dataset / "mel" / "000001.tar")
    said = refusal(dataset)
    assert f"its source {tmp_path / 'gone'} is not there" in said and "add --root DIR" in said
    main(Verify(dataset, repair=True, root=built / "source"))
    rebuilt = everything_below(dataset)
    assert {name for name in whole if rebuilt[name] != whole[name]} == set()


@pytest.mark.parametrize(
    "build",
    [
        ["train", "myna:base", "--root", "/"],
        ["build", "nsynth", "--root", "/", "--out", "/elsewhere"],
        ["build", "nsynth", "--root", "/", "--out=/elsewhere"],
        ["build", "nsynth", "--root"],
        ["build", "nsynth"],
        [],
        "build --root /",
    ],
)
def test_a_manifest_can_make_a_repair_run_nothing_but_the_build_of_its_own_folder(
    dataset: Path, built_here: list, build: Sequence[str]
):
    rewrite_build(dataset, build)
    garble(dataset / "mel" / "000001.tar")
    assert "no manifest in it says by which build it was made" in refusal(dataset)
    assert built_here == []


def test_a_lost_manifest_is_made_again_by_the_build_that_the_split_beside_it_names(dataset: Path, built: Path):
    other = dataset.parent / "train"
    other.mkdir()
    replace(Manifest.read(dataset), split="train").write(other)
    (dataset / MANIFEST).unlink()
    words = repairing.build_words([dataset, other], None)
    assert words[:4] == ["build", "nsynth", "--root", str(built / "source")]
    assert words[-2:] == ["--out", str(dataset.parent)]


def test_a_build_that_refuses_or_fails_leaves_every_file_where_it_was(dataset: Path, tmp_path: Path):
    other = tmp_path / "source"
    shutil.copytree(REAL, other)
    next((other / "nsynth-test" / "audio").glob("*.wav")).unlink()  # the source is not what it was
    notes = json.loads((other / "nsynth-test" / "examples.json").read_text())
    (other / "nsynth-test" / "examples.json").write_text(json.dumps(dict(list(notes.items())[1:])))
    garble(dataset / "mel" / "000001.tar")
    before = everything_below(dataset)
    with pytest.raises(DataProblem) as refused:
        main(Verify(dataset, repair=True, root=other))
    assert "its build ended with exit code 3" in str(refused.value)
    assert "holds another dataset: its listing" in str(refused.value)
    assert everything_below(dataset) == before
    assert not (dataset.parent / "set-aside" / "test" / "000").exists()


def test_what_no_build_can_mend_is_refused_before_anything_moves(dataset: Path):
    manifest = Manifest.read(dataset)
    mel = {**manifest.features["mel"], "hop_samples": 256}
    replace(manifest, features={"mel": mel}).write(dataset)
    said = refusal(dataset)
    assert "they differ in fingerprint, hop_samples" in said and "into another --out" in said


@pytest.mark.slow
def test_the_command_repairs_by_the_real_build_and_says_where_the_broken_files_lie(dataset: Path):
    whole, before = everything_below(dataset), versions(dataset)
    garble(dataset / "mel" / "000001.tar")
    found = sonograph("verify", dataset)
    assert found.returncode == 3 and f"sonograph verify {dataset} --repair" in found.stderr
    result = sonograph("verify", dataset, "--repair", "--workers", 1)
    assert result.returncode == 0, result.stderr
    aside = dataset.parent / "set-aside" / "test" / "000"
    assert result.stdout == f"{dataset} is whole again. What was broken lies in {aside}.\n"
    assert everything_below(dataset) == whole
    after = versions(dataset)
    assert {name for name in before if before[name] != after[name]} == {"mel/000001.tar", "mel/000001.parquet"}
    assert (dataset / PLAN).is_file()
