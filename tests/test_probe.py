"""The probe: exact on what is separable, at chance on noise, and blind to test until the end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from tests.bumps import bump_mels, write_bumps, write_split
from trainers.confusion import confusion_figure
from trainers.encoder import open_encoder
from trainers.evaluators.probe import Fitted, Rows, fit_probes, linear_probes, load, standardised
from trainers.results import Scores

SIZES = {"train": 120, "valid": 48, "test": 60}
Splits = Mapping[str, Reader]


@pytest.fixture(scope="module")
def bumps(tmp_path_factory) -> Splits:
    return readers(write_bumps(tmp_path_factory.mktemp("bumps"), examples=SIZES, frames=8))


@pytest.fixture
def relabelled(tmp_path) -> Callable[..., Splits]:
    """The bumps of `bumps` with the test labels (or all) passed through a function."""

    def write(change: Callable[[np.ndarray], Sequence[int]], splits: Sequence[str] = ("test",)) -> Splits:
        for seed, (split, count) in enumerate(SIZES.items()):
            rng = np.random.default_rng(seed)
            pitch = rng.permutation(np.arange(count) % 6)
            labels = change(pitch) if split in splits else pitch
            write_split(tmp_path / split, bump_mels(pitch, rng, frames=8), {"pitch": [int(label) for label in labels]})
        return readers(tmp_path)

    return write


def readers(root: Path) -> Splits:
    return {split: Reader(root / split) for split in SIZES}


def ask(datasets: Splits, *labels: str, seed: int = 0) -> dict[str, float | Figure | Scores]:
    return dict(load(labels, seed)(open_encoder("column:mel"), datasets))


def test_both_probes_read_separable_classes_without_an_error(bumps):
    answers = ask(bumps, "pitch", "family")
    for name in ("pitch_accuracy", "pitch_accuracy_linear", "pitch_accuracy_mlp", "family_accuracy"):
        assert answers[name].mean == 1.0
    assert answers["pitch_majority"] == pytest.approx(1 / 6)
    np.testing.assert_array_equal(answers["pitch_accuracy"].indices, bumps["test"].indices)


def test_labels_without_any_relation_to_the_sound_stay_at_chance(relabelled):
    rng = np.random.default_rng(7)
    answers = ask(relabelled(lambda pitch: rng.integers(0, 6, len(pitch)), splits=tuple(SIZES)), "pitch")
    # 60 draws with p = 1/6: 24 right or more have a probability below 1e-4.
    linear, mlp = answers["pitch_accuracy_linear"], answers["pitch_accuracy_mlp"]
    assert linear.mean < 0.4 and mlp.mean < 0.4
    preferred = max(linear, mlp, key=lambda scores: scores.about["valid_accuracy"])
    assert answers["pitch_accuracy"].about["valid_accuracy"] == preferred.about["valid_accuracy"]


def test_test_labels_change_the_score_and_nothing_that_was_chosen(relabelled):
    honest = ask(relabelled(lambda pitch: pitch), "pitch")
    permuted = ask(relabelled(lambda pitch: np.random.default_rng(3).permutation(pitch)), "pitch")
    for name in ("pitch_accuracy", "pitch_accuracy_linear", "pitch_accuracy_mlp"):
        assert permuted[name].about == honest[name].about
        assert permuted[name].mean < 0.4 < honest[name].mean


def test_a_class_that_train_never_shows_counts_as_wrong_and_is_reported(relabelled):
    answers = ask(relabelled(lambda pitch: np.where(pitch == 5, 99, pitch)), "pitch")
    assert answers["pitch_accuracy"].mean == pytest.approx(5 / 6)
    assert answers["pitch_unseen"] == pytest.approx(1 / 6)


def test_a_class_that_only_valid_lacks_can_still_be_answered(relabelled):
    answers = ask(relabelled(lambda pitch: np.where(pitch == 5, 4, pitch), splits=("valid",)), "pitch")
    assert answers["pitch_accuracy"].mean == 1.0


def test_statistics_come_from_train_alone(rng):
    train, test = rng.normal(3.0, 2.0, (500, 4)).astype("f4"), rng.normal(3.0, 2.0, (500, 4)).astype("f4")
    near, far = standardised({"train": train, "test": test}), standardised({"train": train, "test": test + 100})
    torch.testing.assert_close(near["train"], far["train"], rtol=0, atol=0)
    torch.testing.assert_close(near["train"].mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(far["test"] - near["test"], torch.from_numpy(100 / train.std(axis=0)).expand(500, 4))


def test_a_shifted_test_split_is_judged_as_shifted(rng):
    """Standardised by itself the shift would vanish, and test would have told the probe about its own mean."""
    numbers = torch.arange(300) % 2
    clouds = {split: np.stack([6.0 * numbers - 3, np.zeros(300)], axis=1) for split in SIZES}
    clouds = {split: (cloud + rng.normal(size=cloud.shape)).astype("f4") for split, cloud in clouds.items()}
    clouds["test"][:, 0] += 6.0
    inputs = standardised(clouds)
    rows = {split: Rows(inputs[split], numbers) for split in SIZES}
    for probe in fit_probes(rows["train"], rows["valid"], 2, seed=0):
        assert probe.valid_accuracy > 0.98
        assert (probe.predict(inputs["test"]) == numbers).double().mean() < 0.55  # all of it lies where class 1 was


def test_a_constant_dimension_does_no_harm():
    rows = np.stack([np.linspace(0, 1, 50), np.full(50, 7.3)], axis=1).astype("f4")
    inputs = standardised({"train": rows})["train"]
    assert inputs.isfinite().all() and inputs[:, 1].abs().max() < 1e-5


def test_the_linear_probe_is_multinomial_logistic_regression(rng):
    inputs = rng.normal(size=(400, 5)).astype("f4")
    numbers = (inputs @ rng.normal(size=(5, 3)) + rng.normal(size=(400, 3))).argmax(axis=1)
    rows = Rows(torch.from_numpy(inputs), torch.from_numpy(numbers))
    for probe in linear_probes(rows, rows, 3):
        l2 = probe.settings["l2"]
        reference = LogisticRegression(C=1 / (l2 * 400), tol=1e-8, max_iter=1000).fit(inputs, numbers)
        with torch.no_grad():
            ours = probe.head(rows.inputs).softmax(dim=1).numpy()
        np.testing.assert_allclose(ours, reference.predict_proba(inputs), atol=2e-3, err_msg=f"l2 {l2}")


def test_a_hidden_layer_answers_what_no_line_can_part(rng):
    def xor(count: int) -> Rows:
        inputs = rng.uniform(-1, 1, (count, 2)).astype("f4")
        return Rows(torch.from_numpy(inputs), torch.from_numpy((inputs[:, 0] * inputs[:, 1] > 0).astype("i8")))

    linear, mlp = fit_probes(xor(800), xor(300), 2, seed=0)
    assert linear.valid_accuracy < 0.7 and mlp.valid_accuracy > 0.95


def test_the_same_seed_gives_the_same_answer_on_any_number_of_threads(bumps):
    inputs = standardised({split: open_encoder("column:mel").embed(reader) for split, reader in bumps.items()})
    rows = {split: Rows(inputs[split], torch.from_numpy(bumps[split].labels("pitch"))) for split in SIZES}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    answers = []
    for count in (1, 3):
        torch.set_num_threads(count)
        fitted = fit_probes(rows["train"], rows["valid"], 6, seed=5)
        answers.append([(probe.about, probe.predict(inputs["test"]).tolist()) for probe in fitted])
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert answers[0] == answers[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_accuracy_on_valid_decides_and_cross_entropy_among_equals():
    def probe(accuracy: float, loss: float) -> Fitted:
        return Fitted("linear", {"l2": 1.0}, accuracy, loss, torch.nn.Identity())

    ranked = [probe(0.8, 0.5), probe(0.9, 9.0), probe(0.9, 1.0), probe(0.9, 2.0)]
    assert max(ranked, key=Fitted.rank) is ranked[2]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("pich", "Did you mean pitch?"),
        ("loudness", "need a regression"),
    ],
)
def test_a_label_that_cannot_be_classified_is_refused_before_anything_is_embedded(bumps, label, said):
    with pytest.raises(UsageProblem, match=said.replace("?", r"\?")):
        ask(bumps, label)


def test_a_label_with_one_class_is_refused(relabelled):
    with pytest.raises(DataProblem, match="nothing to tell apart"):
        ask(relabelled(lambda pitch: np.full(len(pitch), 60), splits=("train",)), "pitch")


def test_an_example_without_the_label_is_refused(tmp_path):
    for split, count in SIZES.items():
        powers = bump_mels(np.arange(count) % 6, np.random.default_rng(0), frames=8)
        write_split(tmp_path / split, powers, {"pitch": [None, *range(1, count)]})
    with pytest.raises(DataProblem, match="examples without 'pitch'"):
        ask(readers(tmp_path), "pitch")


def test_the_matrix_of_few_classes_shows_shares_of_the_true_class_under_their_names():
    truth, answers = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    figure = confusion_figure(truth, answers, {"type": "int", "classes": ["bass", "brass"]}, "title")
    matrix = figure.axes[0]
    np.testing.assert_array_equal(matrix.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [tick.get_text() for tick in matrix.get_xticklabels()] == ["bass", "brass"]
    assert [tick.get_text() for tick in matrix.get_yticklabels()] == ["bass (4)", "brass (2)"]


def test_many_pitches_are_shown_with_how_far_answers_miss():
    truth = np.arange(40).repeat(2)
    answers = truth + np.tile([0, 12], 40)
    image, bars, *_ = confusion_figure(truth, answers, {"type": "int", "classes": None}, "title").axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars.patches}
    assert heights == {0: 0.5, 12: 0.5}
    assert image.images[0].get_array().sum() == 80


def test_many_names_are_shown_as_an_image(tmp_path):
    truth = np.array([f"instrument {number:03d}" for number in range(50)])
    figure = confusion_figure(truth, truth[::-1], {"type": "str", "classes": None}, "title")
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].images[0].get_array().shape == (50, 50)
