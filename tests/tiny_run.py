"""A run folder with real checkpoints of the debug Myna, without the minute that workers take to start."""

from pathlib import Path

import torch

from shards.example import Batch
from shards.manifest import Manifest
from shards.reader import Reader
from shards.store import write_json
from trainers import checkpoint
from trainers.config import config_to_dict, identity, load
from trainers.engine import Engine


def write_run(folder: Path, dataset: Path) -> Path:
    """Steps 1 and 2 on crops of `dataset`/train; the validation loss says that step 1 is the better."""
    config = load("myna:base", "debug")
    manifest = Manifest.read(dataset / "train")
    engine = Engine(
        checkpoint.build_objective(config),
        optimizer=config.optimizer,
        engine=config.engine,
        learning_rate=lambda step: 1e-2,
        batch_examples=8,
    )
    about = {
        "config": config_to_dict(config),
        "identity": identity(config, manifest.fingerprint),
        "column": "mel",
        "contract": manifest.features["mel"],
        "run": folder.name,
    }
    for step in range(2):
        engine.step(_batch(Reader(dataset / "train"), step))
        checkpoint.save(engine, folder / "checkpoints", about={**about, "validation_loss": float(step)}, keep=3)
    write_json(folder / "config.json", config_to_dict(config))
    return folder


def _batch(reader: Reader, step: int) -> Batch:
    rows = range(8 * step, 8 * step + 8)
    view = torch.stack([reader.restore(torch.from_numpy(array)) for array in reader.arrays(rows)])[:, :, :96]
    seeds = torch.randint(2**62, (8, 2), generator=torch.Generator().manual_seed(step))
    return Batch(torch.tensor(reader.indices[list(rows)]), torch.ones(8), (view, view), seeds)
