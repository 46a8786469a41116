"""Margins: what each code tells of each label, on a part of the test split that is dealt out fairly."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from tests.bumps import write_split
from trainers.encoder import Encoder
from trainers.evaluate import TABLE, Evaluate
from trainers.evaluate import main as evaluate
from trainers.evaluators import margins
from trainers.heads import Answer, Parts, Target, initial_head
from trainers.models.multiview import MultiviewConfig
from trainers.results import Scores

KINDS = {"pitch": {"type": "int", "classes": None}, "family": {"type": "int", "classes": ["a", "b", "c"]}}
LABELS = ("pitch", "family")
Splits = Mapping[str, Reader]
Answers = Mapping[str, float | Scores]


class Halves(nn.Module):
    """The mean spectrum: pitch rings in its lower half, family in its upper one; `order` takes the two as codes."""

    subspaces: Mapping[str, slice] = MappingProxyType({"private": slice(0, 64), "shared": slice(64, 128)})

    def __init__(self, order: tuple[int, int]) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, mel: Tensor) -> Tensor:
        return mel.log1p().mean(dim=2).unflatten(1, (2, 64))[:, self.order].flatten(1)


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Splits:
    root = tmp_path_factory.mktemp("halves")
    for seed, (split, count) in enumerate({"train": 12, "valid": 12, "test": 203}.items()):
        rng = np.random.default_rng(seed)
        pitch, family = rng.integers(5, size=count), rng.integers(3, size=count)
        pitch[:3] = 7 if split == "test" else pitch[:3]  # too rare to ask about
        powers = rng.exponential(0.05, size=(count, 16, 8, 8))
        powers[np.arange(count), pitch] += 4.0
        powers[np.arange(count), 8 + family] += 4.0
        labels = {"pitch": pitch.tolist(), "family": family.tolist()}
        write_split(root / split, list(powers.reshape(count, 128, 8).astype("f4")), labels, KINDS)
    return {split: Reader(root / split) for split in ("train", "valid", "test")}


def ask(splits: Splits, order: tuple[int, int], seed: int = 0) -> Answers:
    return dict(margins.load(LABELS, seed)(Encoder("halves", Halves(order).eval(), 8), splits))


def mean(answers: Answers, name: str) -> float:
    value = answers[name]
    assert isinstance(value, Scores)
    return value.mean


def test_codes_that_hold_one_label_each_have_wide_margins(splits):
    answers = ask(splits, (0, 1))
    for name in ("pitch_private", "pitch_overall", "family_shared", "family_overall"):
        assert mean(answers, name) > 0.85
    assert mean(answers, "pitch_shared") < 0.6 and mean(answers, "family_private") < 0.7
    assert mean(answers, "pitch_margin") == pytest.approx(
        mean(answers, "pitch_private") - mean(answers, "pitch_shared")
    )
    assert mean(answers, "family_margin") == pytest.approx(
        mean(answers, "family_shared") - mean(answers, "family_private")
    )
    assert answers["pitch_chance"] == 1 / 5 and answers["family_chance"] == pytest.approx(1 / 3)
    assert 0 < answers["pitch_majority"] < 0.5
    assert answers["shared_from_private_r2"] < 0.3 and "mse" not in answers


def test_exchanged_codes_turn_the_signs_of_both_margins(splits):
    as_is, exchanged = ask(splits, (0, 1)), ask(splits, (1, 0))
    for name in ("pitch_margin", "family_margin"):
        assert mean(exchanged, name) == -mean(as_is, name) != 0


def test_equal_codes_have_margins_of_exactly_nothing_and_explain_each_other(splits):
    answers = ask(splits, (0, 0))
    for name in ("pitch_margin", "family_margin"):
        assert not answers[name].values.any()
    assert answers["shared_from_private_r2"] == pytest.approx(1.0, abs=1e-4)


def test_a_pitch_margin_of_71_against_61_percent_is_a_tenth():
    rows = np.arange(100)
    division = margins.Division(
        rows, rows, Parts(rows, rows, rows), {"pitch": Target(torch.zeros(100).long(), 2)}, {"pitch": [0, 1]}
    )

    def right(count: int) -> Answer:
        one = torch.ones(1)
        return Answer((torch.arange(100) >= count).long()[None], one, one, one.long())

    reading = {"private": right(71), "shared": right(61)}
    answers = dict(margins.load(("pitch", "family"), 0).scores({"pitch": reading}, division))
    assert mean(answers, "pitch_margin") == pytest.approx(0.10)


def test_an_encoder_without_codes_has_accuracies_from_all_of_it_alone(splits):
    model = Halves((0, 1))
    model.subspaces = {}
    answers = dict(margins.load(LABELS, 0)(Encoder("whole", model.eval(), 8), splits))
    assert {name for name, value in answers.items() if isinstance(value, Scores)} == {"pitch_overall", "family_overall"}


def test_rare_classes_are_left_out_and_the_kept_ones_told(splits):
    answers = ask(splits, (0, 1))
    scores = answers["pitch_overall"]
    assert scores.about["classes"] == [0, 1, 2, 3, 4]
    asked = np.isin(splits["test"].indices, scores.indices)
    assert 7 in splits["test"].labels("pitch") and 7 not in splits["test"].labels("pitch")[asked]
    assert len(scores.indices) == pytest.approx(0.15 * 200, abs=2)


@given(rows=st.integers(60, 400), first=st.integers(2, 6), second=st.integers(2, 6), seed=st.integers(0, 99))
def test_rows_are_dealt_out_once_each_and_every_class_gives_its_share(rows, first, second, seed):
    rng = np.random.default_rng(seed)
    numbers, others = np.arange(rows) % first, rng.integers(second, size=rows)
    parts = margins._dealt(numbers, others, shares=(0.15, 0.15), seed=17)
    dealt = np.concatenate([parts.train, parts.valid, parts.test])
    assert np.array_equal(np.sort(dealt), np.arange(rows))
    for number in range(first):
        whole = (numbers == number).sum()
        for part in (parts.valid, parts.test):
            assert abs((numbers[part] == number).sum() - 0.15 * whole) < 2
            assert whole < 10 or (numbers[part] == number).any()


def test_the_same_rows_are_asked_whatever_the_seed_of_the_heads(splits):
    one, other = (margins.load(LABELS, seed).divide(splits["test"]) for seed in (0, 1))
    np.testing.assert_array_equal(one.indices[one.parts.test], other.indices[other.parts.test])


def test_many_members_at_once_answer_as_each_alone(splits):
    question = margins.load(LABELS, 3)
    division = question.divide(splits["test"])
    encoders = [Encoder("halves", Halves(order).eval(), 8) for order in ((0, 1), (1, 0), (0, 0))]
    embeddings = torch.stack([torch.from_numpy(e.embed(splits["test"])[division.rows]) for e in encoders])
    for reading, encoder in zip(question.read(embeddings, Halves.subspaces, division), encoders, strict=True):
        alone = dict(question(encoder, splits))
        for name, scores in question.scores(reading, division):
            np.testing.assert_array_equal(scores.values, alone[name].values)


def test_what_follows_from_a_code_is_explained_and_what_does_not_is_not():
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1200, 6, generator=generator)
    noise, turned = torch.randn(1200, 4, generator=generator), given @ torch.randn(6, 4, generator=generator)
    parts = Parts(np.arange(800), np.arange(800, 1000), np.arange(1000, 1200))
    assert float(margins.explained(given, turned, parts)) == pytest.approx(1.0, abs=1e-4)
    assert abs(float(margins.explained(given, noise, parts))) < 0.05
    unit = turned / turned.std(dim=0)
    assert float(margins.explained(given, unit + noise, parts)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("width", "parameters"), [(256, 2_827), (512, 5_643), (768, 8_459)])
def test_a_head_for_eleven_families_has_the_published_size(width, parameters):
    assert initial_head(width, 11, seed=0).numel() == parameters


def test_reconstructions_are_judged_in_the_standardised_space(splits):
    torch.manual_seed(0)
    model = MultiviewConfig(bands=128, frames=8, hidden=16, latent=8).build().eval()
    features = splits["valid"].restore(torch.from_numpy(np.stack(list(splits["valid"].arrays(range(12))))))
    model.mean, model.deviation = features.mean(dim=(0, 2)), torch.full((128,), 2.0)
    answers = dict(margins.load(LABELS, 0)(Encoder("autoencoder", model, 8), splits))
    with torch.no_grad():
        pooled = (features.mean(dim=2) - model.mean) / 2.0
        expected = (model.decoder(model(features)) - pooled).square().mean()
    assert answers["mse_valid"] == pytest.approx(float(expected), rel=1e-5)
    assert mean(answers, "mse") > 0 and {"pitch_margin", "family_margin"} <= set(answers)


def test_the_command_judges_the_part_that_was_asked_and_pairs_it_with_controls(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = splits["test"].folder.parent
    command = Evaluate("column:mel", "margins", folder, LABELS, ("column:mel",), cluster="pitch", resamples=100)
    result = evaluate(command)
    answer = json.loads((Path(result["folder"]) / "results.json").read_bytes())
    metric = answer["metrics"]["pitch_overall"]
    assert answer["examples"] == metric["examples"] == metric["intervals"]["example"]["units"] < 40
    assert metric["against"]["column:mel"]["difference"] == 0.0
    with np.load(Path(result["folder"]) / "scores.npz") as scores:
        assert len(scores["unit.pitch"]) == len(scores["score.pitch_overall"]) == answer["examples"]
        asked = np.isin(splits["test"].indices, scores["unit.example"])
        assert sorted(scores["unit.pitch"]) == sorted(splits["test"].labels("pitch")[asked])
    assert f"{answer['examples']} examples" in (Path(result["folder"]) / TABLE).read_text()


@pytest.mark.parametrize("labels", [("pitch",), ("pitch", "pitch"), ("pitch", "family", "instrument")])
def test_two_labels_are_asked_for(labels):
    with pytest.raises(UsageProblem, match="two labels"):
        margins.load(labels, 0)


def test_a_test_split_without_enough_clips_is_refused_with_a_remedy(splits):
    with pytest.raises(DataProblem, match="Build a larger test split"):
        margins.load(LABELS, 0).divide(splits["valid"])


def test_an_unknown_label_is_refused_before_anything_is_computed(splits):
    with pytest.raises(UsageProblem, match="Did you mean"):
        margins.load(("pich", "family"), 0).divide(splits["test"])


def test_the_default_labels_are_those_of_nsynth():
    assert margins.load((), 0).labels == ("pitch", "instrument_family")
