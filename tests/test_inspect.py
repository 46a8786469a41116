"""`sonograph inspect`: the terminal's lines, and the page where one is wanted."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from shards import inspect
from shards.inspect import Inspect, main
from shards.problem import DataProblem, UsageProblem
from shards.verify import verify
from tests.command import sonograph
from tests.labelled import SCRIPT, labelled_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_dataset(tmp_path_factory.mktemp("inspect"), "mel")


def test_the_command_writes_the_page_and_names_it_last(dataset: Path, tmp_path: Path):
    page = tmp_path / "pages" / "tones.html"
    result = sonograph("inspect", dataset, "--html", page, "--examples", 2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(page)
    assert page.read_text().startswith("<!DOCTYPE html>") and page.read_text().count("<audio") == 2
    assert {path.name for path in page.parent.iterdir()} == {"tones.html"}


def test_the_terminal_alone_writes_nothing_and_loads_no_page(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "shards.html.page", raising=False)
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    lines = str(main(Inspect(dataset))["output"]).splitlines()
    assert lines[-1] == str(dataset) and any("examples     6 of 7 planned" in line for line in lines)
    assert before == {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert "shards.html.page" not in sys.modules


def test_one_split_has_a_page_of_its_own(dataset: Path, tmp_path: Path):
    main(Inspect(dataset / "valid", html=tmp_path / "valid.html"))
    assert "<title>folder: valid</title>" in (tmp_path / "valid.html").read_text()


def test_a_page_inside_a_dataset_is_refused_so_that_the_dataset_stays_whole(dataset: Path):
    with pytest.raises(UsageProblem, match=r"lies inside a dataset.*--html train\.html"):
        main(Inspect(dataset / "train", html=dataset / "train" / "page.html"))
    assert list(verify(dataset / "train")) == []


@pytest.mark.parametrize("command", [{"examples": -1}, {"seed": -1}])
def test_numbers_below_0_are_refused(dataset: Path, tmp_path: Path, command: dict[str, int]):
    with pytest.raises(UsageProblem, match=r"is -1, so nothing was done\. Pass 0 or more"):
        main(Inspect(dataset, html=tmp_path / "page.html", **command))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_example_is_named_and_no_page_is_left(dataset: Path, tmp_path: Path):
    folder = shutil.copytree(dataset / "valid", tmp_path / "valid")
    tar = folder / "mel" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[2_000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataProblem, match="000000.tar is damaged at byte"):
        main(Inspect(folder, html=tmp_path / "page.html"))
    assert {path.name for path in tmp_path.iterdir()} == {"valid"}


def test_a_folder_that_is_no_dataset_is_explained(tmp_path: Path):
    with pytest.raises(DataProblem, match="is no dataset"):
        main(Inspect(tmp_path, html=tmp_path / "page.html"))


def test_hostile_labels_reach_a_terminal_without_its_control_characters(dataset: Path):
    said = "\n".join(inspect.summary(dataset / "train"))
    assert SCRIPT in said and re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said) is None
