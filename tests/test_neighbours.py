"""Neighbours and maps of an embedding: exact neighbours, agreement on what is separable and by chance, pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.problem import UsageProblem
from shards.reader import Reader
from tests.bumps import write_bumps
from trainers.encoder import open_encoder
from trainers.evaluators.neighbours import load, map_figure, nearest

SIZES = {"train": 120, "valid": 12, "test": 60}


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
def test_the_nearest_are_those_of_a_search_by_hand(points, others, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(rows, 3, generator=generator) for rows in (points, others))
    count = min(5, others)
    by_hand = ((a[:, None] - b) ** 2).sum(dim=2).argsort(dim=1)[:, :count]
    assert torch.equal(nearest(a, b, count), by_hand)


def test_neighbours_of_separable_classes_are_of_their_own_class(tmp_path):
    write_bumps(tmp_path, examples=SIZES, frames=8)
    datasets = {split: Reader(tmp_path / split) for split in SIZES}
    found = dict(load(("pitch", "family"), 0)(open_encoder("column:mel"), datasets))
    assert found["pitch_neighbours"].mean == found["family_neighbours"].mean == 1.0
    assert found["pitch_chance"] == pytest.approx(1 / 6, abs=0.01)
    assert np.array_equal(found["pitch_neighbours"].indices, datasets["test"].indices)
    panels = [axes.get_title() for axes in found["pitch_map"].axes if axes.get_title()]
    assert panels in (["principal components"], ["principal components", "UMAP"])
    with pytest.raises(UsageProblem, match="no label"):
        dict(load(("pitsch",), 0)(open_encoder("column:mel"), datasets))


@pytest.mark.parametrize("values", [np.arange(40), np.array([f"class {number % 25}" for number in range(40)])])
def test_a_map_shows_numbers_on_a_scale_and_words_in_a_legend(values, tmp_path):
    places = np.random.default_rng(0).normal(size=(40, 2))
    figure = map_figure({"a": places, "b": places}, values, "forty")
    figure.savefig(tmp_path / "map.png")
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(figure.axes) == 2 + (values.dtype.kind == "i")
    assert [len(legend.get_texts()) for legend in legends] == ([] if values.dtype.kind == "i" else [20])
