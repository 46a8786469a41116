"""A frozen model over one column of a dataset: an example in, one vector out.

Controls are encoders too: the same network with fresh weights, and the mean of the column itself.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from shards.problem import DataProblem, UsageProblem
from shards.reader import Reader
from shards.store import digest_of
from shards.words import nearest
from trainers.checkpoint import WEIGHTS, checkpoint_folder, open_model, read_card
from trainers.components import Components, MeanFrame, MeanLogMel
from trainers.config import config_from_dict, config_to_dict, load
from trainers.published import adopt

log = logging.getLogger(__name__)
MEL = "mel"
COLUMN, PCA, TRAIN = "column", "pca", "train"
_COMPONENTS = 512
MODELS = Path("runs/models")  # where registered models of a remote store are copied to, and published ones kept
_LOG_SECONDS = 10.0


class ContractMismatch(DataProblem):
    """A dataset's column was computed in another way than the one a model was trained on."""


@dataclass(frozen=True)
class Encoder:
    """The mean embedding of an example's windows.

    `model` maps (batch, bands, frames) of a column in natural units to (batch, width) and is in evaluation mode.
    `contract` is the manifest's entry of the column that it was trained on; None: it was trained on nothing.
    `about` says in JSON types what decides the embedding: encoders of equal `about` give equal vectors.
    `run` is the folder of the run that made it, `step` its step there.
    """

    name: str
    model: nn.Module
    window_frames: int
    column: str = MEL
    contract: Mapping[str, object] | None = None
    about: Mapping[str, object] = field(default_factory=dict)
    run: Path | None = None
    step: int = 0
    device: str = "cpu"

    def embed(self, reader: Reader, *, batch_examples: int = 64) -> Float[np.ndarray, "batch width"]:
        """One float32 vector for each row of `reader`, in its order.

        Windows are `window_frames` long, side by side from frame 0; a remainder is left out, unless it is all there
        is: then zeros follow it. No masks. Principal components are those of the split `train` beside `reader`. Raises
        ContractMismatch when the column is not what was trained on.
        """
        require_contract(self.name, self.contract, reader)
        if isinstance(self.model, Components):
            train = Reader(reader.folder.parent / TRAIN, self.column)
            self.model.fit(torch.from_numpy(replace(self, model=self.model.mean_frame).embed(train)))
        with torch.inference_mode():
            parts = [self._embed(reader, rows) for rows in self._progress(reader, batch_examples)]
        return torch.cat(parts).numpy()

    def _embed(self, reader: Reader, rows: range) -> Float[Tensor, "batch width"]:
        mels = (reader.restore(torch.from_numpy(array)) for array in reader.arrays(rows))
        windows = [cut_windows(mel, self.window_frames) for mel in mels]
        embedded = self.model(torch.cat(windows).to(self.device)).float().cpu()
        return torch.stack([part.mean(dim=0) for part in embedded.split([len(cut) for cut in windows])])

    def _progress(self, reader: Reader, batch_examples: int) -> Iterator[range]:
        began = said = time.monotonic()
        for first in range(0, len(reader), batch_examples):
            rows = range(first, min(first + batch_examples, len(reader)))
            yield rows
            now = time.monotonic()
            if now - said >= _LOG_SECONDS or rows.stop == len(reader):
                told = f"example {rows.stop:,}/{len(reader):,}  {rows.stop / max(now - began, 1e-9):,.0f} examples/s"
                log.info("embed %s  %s  %s", self.name, reader.folder, told)
                said = now


def cut_windows(mel: Float[Tensor, "bands _"], window_frames: int) -> Float[Tensor, "batch bands frames"]:
    """Windows side by side from frame 0, without the remainder; what is shorter than one is padded with zero power."""
    missing = window_frames - mel.shape[1]
    whole = F.pad(mel, (0, missing)) if missing > 0 else mel[:, : mel.shape[1] // window_frames * window_frames]
    return rearrange(whole, "bands (windows frames) -> windows bands frames", frames=window_frames)


def require_contract(name: str, contract: Mapping[str, object] | None, reader: Reader) -> None:
    """Raises ContractMismatch, with every field that differs, when `reader` holds another column than `contract`."""
    found = reader.manifest.features[reader.column]
    if contract is None or contract["fingerprint"] == found["fingerprint"]:
        return
    fields = [
        field for field in sorted({*contract, *found} - {"fingerprint"}) if contract.get(field) != found.get(field)
    ]
    rows = "".join(f"\n  {field}: {found.get(field)} there, {contract.get(field)} in training" for field in fields)
    raise ContractMismatch(
        f"{reader.folder} has another column '{reader.column}' than {name} was trained on:{rows}\nIt would hear "
        "everything differently and its results would mean nothing. Name a dataset of the contract "
        f"{contract['word']} with fingerprint {str(contract['fingerprint'])[:8]}, or build one: "
        f"sonograph build CORPUS --features {contract['word']}"
    )


def open_encoder(reference: str, *, size: str = "paper", seed: int = 0, device: str = "cpu") -> Encoder:
    """The encoder that a CHECKPOINT on the command line names, in evaluation mode on `device`.

    RUN (its best checkpoint by validation), RUN/checkpoints/step-N, models:/NAME@ALIAS; published:PATH, weights of
    Myna as their authors gave them out, published:PATH@vertical where their patches are upright; and the controls:
    random:SYSTEM:VARIANT, fresh weights from `seed` at `size`; random:RUN, fresh weights of that run's own config, with
    what it had measured on its data; column:NAME, the mean over all frames of a column, of mels that of log(1 + power);
    pca:NAME, at most 512 principal components of the same. Raises UsageProblem or DataProblem when the reference leads
    to nothing.
    """
    kind, _, rest = reference.partition(":")
    if kind in (COLUMN, PCA):
        encoder = _column(kind, rest)
    elif kind == "random":
        encoder = _random(rest, size, seed)
    elif kind == "published":
        encoder = replace(_trained(str(adopt(rest, MODELS))), name=reference)
    else:
        encoder = _trained(reference)
    return replace(encoder, model=encoder.model.eval().to(device), device=device)


def _column(kind: str, name: str) -> Encoder:
    if not name:
        raise UsageProblem(f"{kind}: names no column, so nothing was asked. Write {kind}:{MEL}.")
    is_power = name.partition("-")[0] == MEL
    mean_frame: nn.Module = MeanLogMel() if is_power else MeanFrame()
    model = mean_frame if kind == COLUMN else Components(mean_frame, _COMPONENTS)
    # One window a frame: the mean over windows is then the mean over every frame, and padding never occurs.
    return Encoder(f"{kind}:{name}", model, window_frames=1, column=name, about={"encoder": f"{kind}:{name}"})


def _random(rest: str, size: str, seed: int) -> Encoder:
    """Weights as they are before training; `random:RUN` hears only what that run was trained on."""
    contract, folder = None, None
    if ":" in rest:
        config = load(rest, size)
    else:
        folder = checkpoint_folder(_existing(Path(rest)))
        card = read_card(folder)
        config, contract = config_from_dict(card["config"]), card["contract"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.model.build()
    about = {"encoder": "random", "model": config_to_dict(config)["model"], "seed": seed}
    if folder and (names := getattr(model, "fitted", ())):
        trained, _ = open_model(folder)
        for name in names:
            model.get_buffer(name).copy_(trained.get_buffer(name))
        about["fitted"] = digest_of({name: trained.get_buffer(name).tolist() for name in names})
    return Encoder(f"random:{rest} seed {seed}", model, config.data.frames, config.data.column, contract, about)


def _trained(reference: str) -> Encoder:
    place = _registered(reference) if reference.startswith("models:/") else _existing(Path(reference))
    folder = checkpoint_folder(place)
    model, card = open_model(folder)
    config = config_from_dict(card["config"])
    about = {"encoder": "checkpoint", "step": card["step"], "weights": card["files"][WEIGHTS]["sha256"]}
    return Encoder(
        f"{reference} step {card['step']:,}" if place != folder else reference,
        model,
        config.data.frames,
        config.data.column,
        card["contract"],
        about,
        run=_run_of(folder),
        step=card["step"],
    )


def _run_of(folder: Path) -> Path | None:
    """RUN of RUN/checkpoints/step-N and of RUN/models/NAME; a checkpoint that was copied elsewhere has none."""
    run = folder.parents[1]
    return run if (run / "config.json").is_file() else None


def _registered(reference: str) -> Path:
    from trainers.mlflow_store import MlflowStore, store_address  # seconds to import, and only needed here

    return MlflowStore(store_address()).model_folder(reference, MODELS)


def _existing(place: Path) -> Path:
    if place.is_dir():
        return place
    runs = sorted(str(path.parent) for path in place.parent.glob("*/config.json"))
    hint = nearest(str(place), runs) if runs else "Train one: sonograph train myna:base --size laptop."
    raise UsageProblem(
        f"There is no folder {place}, so there is no model to open. {hint} A CHECKPOINT is a run folder, one of its "
        "checkpoints/step-*, models:/NAME@ALIAS, published:PATH, random:SYSTEM:VARIANT, random:RUN, column:NAME or "
        "pca:NAME."
    )
