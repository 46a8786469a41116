"""AudioSet's ontology and class list, whole and broken."""

from pathlib import Path

import pytest

from pipelines.published.ontology import MUSIC, PUBLISHED, below, read_children, read_class_names
from shards.problem import DataProblem
from tests.segment_lists import (
    excerpts,
    listed,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return excerpts(tmp_path)


def test_an_ontology_without_the_music_node_is_an_error(root: Path):
    (root / "ontology.json").write_text('[{"id": "/m/0dgw9r", "name": "Human sounds", "child_ids": []}]')
    with pytest.raises(DataProblem, match=r"ontology.json has no /m/04rlf, .*--below all"):
        listed(root)
    assert len(listed(root, below="all")) == 100


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"id": 1}', '[{"id": "/m/04rlf"}]', '[{"id": 7, "child_ids": []}]']
)
def test_a_broken_ontology_is_an_error_that_says_how_to_go_on(root: Path, content: str):
    (root / "ontology.json").write_text(content)
    with pytest.raises(DataProblem, match=r"is no ontology of AudioSet .*Download ontology.json again"):
        listed(root)


@pytest.mark.parametrize("rows", ["", "0,1,x", "0,/m/1", "0,/m/1,", "0,/m/1,x\n1,/m/1,y"])
@pytest.mark.parametrize("header", ["", "index,mid,display_name\n", "number,id,name\n"])
def test_a_broken_class_list_is_an_error_that_says_how_to_go_on(root: Path, header: str, rows: str):
    (root / "class_labels_indices.csv").write_text(header + rows)
    with pytest.raises(DataProblem, match=r"is no class list of AudioSet .*or delete it to use our copy"):
        listed(root)


def test_an_ontology_with_circles_and_absent_children_ends():
    children = {"/m/a": ("/m/b", "/m/gone"), "/m/b": ("/m/a", "/m/b"), "/m/c": ()}
    assert below("/m/a", children) == {"/m/a", "/m/b", "/m/gone"}


def test_our_copies_hold_the_published_music_part(root: Path):
    children = read_children(PUBLISHED / "ontology.json")
    assert below(MUSIC, children) == children.keys()
    assert len(children) == 189
    assert len(read_class_names(PUBLISHED / "class_labels_indices.csv")) == 527
