"""Checkpoints that are whole or absent: weights as safetensors, the exact state of training, and the card last.

RUN/checkpoints/step-00000600/{model.safetensors, engine/..., card.json}; the card names every file with its SHA-256.
`open_model` needs neither deepspeed nor ray. Nothing here is ever unpickled, and any number of workers continues.
"""

import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.store import PARTIAL, digest_of, sha256_of, write_json
from trainers.config import TrainConfig, config_from_dict
from trainers.global_batch import rank, world_size
from trainers.tensor_files import read_part, write_part

log = logging.getLogger(__name__)
FORMAT, VERSION = "sonograph-checkpoint", 2
CARD, WEIGHTS, ENGINE, BEST = "card.json", "model.safetensors", "engine", "best.json"
_MODEL_PREFIX = "model."  # where an objective holds the model that it trains


@runtime_checkable
class Trainee(Protocol):
    """What a checkpoint keeps; trainers/engine.py has it. All ranks call these methods together."""

    @property
    def steps(self) -> int: ...
    def weights(self) -> dict[str, Tensor]: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def wait(self) -> None: ...
    def from_rank_zero(self, value: int) -> int: ...


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose digests were verified."""

    folder: Path
    card: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.card["step"])


def save(trainee: Trainee, checkpoints: Path, *, about: Mapping[str, Any], keep: int) -> Path:
    """Commit the trainee's state as checkpoints/step-N: all ranks write aside, then rank 0 proves, renames and prunes.

    `about` goes into the card: config, identity, column, contract, dataset, run, validation_loss. Of older checkpoints
    the `keep` newest and the one of the lowest validation loss stay. Raises EnvironmentProblem when the disk is full.
    """
    final = checkpoints / f"step-{trainee.steps:08d}"
    partial = checkpoints / f".{final.name}{PARTIAL}"
    with _disk_errors_explained(final):
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / ENGINE).mkdir(parents=True)
        trainee.wait()
        trainee.save(partial / ENGINE)
        weights = trainee.weights()
        trainee.wait()
        if rank() == 0:
            _commit(partial, final, weights, {**about, "step": trainee.steps})
            _prune(checkpoints, keep)
        trainee.wait()
    return final


def resume(trainee: Trainee, checkpoints: Path, *, identity: Mapping[str, Any]) -> int:
    """Put the trainee into the state of the newest whole checkpoint; returns its step, 0 when there is none.

    Raises DataProblem when it belongs to another training.
    """
    own = newest_step(checkpoints, identity) if rank() == 0 else 0
    step = trainee.from_rank_zero(own)
    if step:
        trainee.load(checkpoints / f"step-{step:08d}" / ENGINE)
    return step


def newest_step(checkpoints: Path, identity: Mapping[str, Any]) -> int:
    """The step from which this training continues, 0 for its beginning. Raises DataProblem when it cannot."""
    found = newest(checkpoints)
    if found is None:
        return 0
    require_same(found.card["identity"], identity, found.folder)
    return found.step


def newest(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint whose digests verify; every damaged one on the way is named in the log, with the reason.

    Raises DataProblem when there are checkpoints and none is whole: starting over silently would waste the run.
    """
    folders = sorted(checkpoints.glob("step-*"), reverse=True)
    whole = next((found for folder in folders if (found := _whole(folder))), None)
    if folders and whole is None:
        raise DataProblem(
            f"None of the {len(folders)} checkpoints in {checkpoints} is whole, so the training cannot be continued. "
            "Restore one of them, or begin anew with --fresh."
        )
    return whole


def verified(folder: Path) -> Checkpoint:
    """The checkpoint, after every digest of its card was checked. Raises DataProblem with the first that differs."""
    card = read_card(folder)
    for name in sorted(card["files"]):
        _require_digest(folder, name, card)
    return Checkpoint(folder, card)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint. Raises DataProblem when it is missing, altered, or of another format version."""
    path = folder / CARD
    try:
        card = json.loads(path.read_bytes())
        claimed = card.pop("sha256")
    except FileNotFoundError:
        raise DataProblem(f"{folder} is no whole checkpoint: it has no {CARD}, which is written last.") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataProblem(f"{path} is damaged ({error}), so nothing beside it can be trusted.") from error
    if digest_of(card) != claimed:
        raise DataProblem(f"{path} does not match its own SHA-256, so nothing beside it can be trusted.")
    if (card.get("format"), card.get("version")) != (FORMAT, VERSION):
        raise DataProblem(
            f"{path} is {card.get('format')} version {card.get('version')}; this version reads {FORMAT} version "
            f"{VERSION} and would misread it. Use the version of Sonograph that wrote it."
        )
    return card


def require_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: Path) -> None:
    """Refuse to continue another training. Raises DataProblem listing every field that differs."""
    names = [name for name in {**theirs, **ours} if theirs.get(name, "absent") != ours.get(name, "absent")]
    if names:
        rows = "".join(f"\n  {n}: {theirs.get(n, 'absent')} there, {ours.get(n, 'absent')} here" for n in names)
        raise DataProblem(
            f"{place} belongs to another training:{rows}\nContinuing from it would be neither of the two. Give the old "
            "values, choose another --out, or begin anew with --fresh."
        )


def checkpoint_folder(place: Path) -> Path:
    """The checkpoint that a run or checkpoint folder names; of a run, the one of the lowest validation loss.

    Raises UsageProblem when there is none, DataProblem when the one that the run points to is gone.
    """
    if (place / CARD).is_file():
        return place
    try:
        best = place / "checkpoints" / json.loads((place / "checkpoints" / BEST).read_bytes())["checkpoint"]
    except (OSError, ValueError, KeyError):
        raise UsageProblem(
            f"{place} holds no checkpoint, neither {CARD} nor checkpoints/{BEST}, so there is no model to open. Name "
            "the folder that sonograph train printed as its last line, or one of its checkpoints/step-*."
        ) from None
    if not best.is_dir():
        left = ", ".join(sorted(str(folder) for folder in (place / "checkpoints").glob("step-*"))) or "none"
        raise DataProblem(
            f"{place / 'checkpoints' / BEST} points to {best.name}, which is gone, so the best model cannot be opened. "
            f"Name one that is left ({left}), or continue the training: its next checkpoint points anew."
        )
    return best


def open_model(place: Path, *, random: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model in evaluation mode, and the card; with `random`, its architecture as it was before training.

    Raises DataProblem when the weights are damaged or do not fit the architecture exactly.
    """
    folder = checkpoint_folder(Path(place))
    card = read_card(folder)
    config = config_from_dict(card["config"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = config.model.build()
    if not random:
        _require_digest(folder, WEIGHTS, card)
        _fill(model, read_part(folder / WEIGHTS), folder)
    return model.eval(), card


def build_objective(config: TrainConfig[Any, Any]) -> nn.Module:
    """The objective with its model, with the initial weights that the config's seed gives; the same in any process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.objective.build(config.model.build())


def _whole(folder: Path) -> Checkpoint | None:
    try:
        return verified(folder)
    except DataProblem as error:
        log.warning("%s Falling back to the checkpoint before it.", error)
        return None


def _fill(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    own = {name.removeprefix(_MODEL_PREFIX): value for name, value in weights.items() if name.startswith(_MODEL_PREFIX)}
    try:
        model.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise DataProblem(f"The weights in {folder} do not fit the model that its card describes: {error}") from error


def _require_digest(folder: Path, name: str, card: Mapping[str, Any]) -> None:
    path, expected = folder / name, card["files"][name]
    if not path.is_file():
        raise DataProblem(f"{folder} is not whole: {name} is missing.")
    if (found := path.stat().st_size) != expected["bytes"]:
        raise DataProblem(f"{folder} is not whole: {name} has {found:,} of {expected['bytes']:,} bytes.")
    if sha256_of(path) != expected["sha256"]:
        raise DataProblem(f"{folder} is damaged: {name} does not match the SHA-256 in its card.")


def _commit(partial: Path, final: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """The proof comes last: weights, digests, card; then the folder gets its name."""
    write_part(partial / WEIGHTS, weights)
    files = {str(path.relative_to(partial)): _settled(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    card = {
        **about,
        "format": FORMAT,
        "version": VERSION,
        "layout": {
            n: {"shape": list(w.shape), "dtype": str(w.dtype).removeprefix("torch.")} for n, w in weights.items()
        },
        "files": files,
        "world_size": world_size(),
        "made_with": _made_with(),
    }
    write_json(partial / CARD, {**card, "sha256": digest_of(card)})
    shutil.rmtree(final, ignore_errors=True)  # a damaged one that was passed over
    partial.rename(final)
    _fsync(final.parent)


@contextmanager
def _disk_errors_explained(final: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        free_mib = shutil.disk_usage(final.parents[1]).free / 2**20
        raise EnvironmentProblem(
            f"{final} could not be written: {str(error).splitlines()[0]} ({free_mib:,.0f} MiB are free there). The "
            "checkpoints before it are whole. Free some space, then repeat the command: it continues from them."
        ) from error


def _prune(checkpoints: Path, keep: int) -> None:
    """Point to the best checkpoint, then delete what is neither among the newest nor the best."""
    cards = {folder: read_card(folder) for folder in checkpoints.glob("step-*") if (folder / CARD).is_file()}
    best = min(cards, key=lambda folder: (cards[folder]["validation_loss"], folder))
    loss = cards[best]["validation_loss"]
    write_json(checkpoints / BEST, {"checkpoint": best.name, "step": cards[best]["step"], "validation_loss": loss})
    for folder in sorted(checkpoints.glob("step-*"))[:-keep]:
        if folder != best:
            shutil.rmtree(folder)
    for stale in checkpoints.glob(f".step-*{PARTIAL}"):
        shutil.rmtree(stale)


def _settled(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file that is on the disk to stay."""
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made_with() -> dict[str, str | None]:
    versions = {name: metadata.version(name) for name in ("torch", "deepspeed", "safetensors")}
    return {"python": platform.python_version(), **versions, "git_commit": _git_commit()}


def _git_commit() -> str | None:
    repository = Path(__file__).parents[1]
    if not (repository / ".git").exists():  # installed from a wheel; a repository further up is another project's
        return None
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
