"""Shared ground: checked tensor shapes, one rendered corpus and one dataset of it for the whole test run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests.command import sonograph

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
install_import_hook(["shards", "trainers"], "beartype.beartype")

settings.register_profile(
    "tests",
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")

NOTES = 330


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a device that is not here are skipped by name."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


@pytest.fixture(scope="session")
def rendered_nsynth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered NSynth corpus of a few hundred notes, all families, in the official layout."""
    root = tmp_path_factory.mktemp("data") / "nsynth"
    result = sonograph("render", "nsynth", "--out", root, "--notes", NOTES, "--seed", 0)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(scope="session")
def rendered_nsynth_dataset(rendered_nsynth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its train, valid and test datasets, built by the real command."""
    out = tmp_path_factory.mktemp("datasets") / "nsynth"
    result = sonograph("build", "nsynth", "--root", rendered_nsynth, "--out", out, "--shard-examples", 64)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
