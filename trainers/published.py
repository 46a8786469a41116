"""Published weights of Myna, in the form in which their authors gave them out, as checkpoints of ours.

A file of named tensors (torch's or .safetensors), a folder or a hub id of one. Tensors are all that is read: what holds
code is refused. Their variant shows in their shapes, but for square and vertical patches, which have equally many
values: `@square` or `@vertical` behind the path, or the folder's configuration, tells them apart.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.feature import described, load_feature
from shards.pretrained import CONFIG, resolve
from shards.problem import DataProblem, UsageProblem
from shards.store import digest_of, sha256_of
from trainers import checkpoint
from trainers.config import config_to_dict, load
from trainers.models.myna import SQUARE, VERTICAL
from trainers.tensor_files import read_part

log = logging.getLogger(__name__)
_CONTRACT, _BANDS = "mel:myna", 128
_PREFIXES = ("module.", "model.")  # of torch's wrappers for many GPUs, and of hub files and checkpoints of ours
_DROPPED = ("linear_head.", "head.", "pos_embedding")  # the projector, and positions, which are computed
_TELLING = "to_patch_embedding.2.weight"  # (width, 256)
_SECOND = "to_patch_embedding_b."
_VARIANTS: dict[tuple[int | None, bool], str | None] = {(384, False): None, (384, True): "hybrid", (768, True): "85m"}
_SINGLE = {SQUARE: "base", VERTICAL: "vertical"}
_SHOWN = 4


def adopt(word: str, models: Path) -> Path:
    """`PATH[@square|@vertical]` -> the checkpoint folder below `models` that holds these weights, made when needed.

    Raises DataProblem for files that are damaged, hold code or are no Myna, UsageProblem where the path leads nowhere
    or does not say which patches are meant.
    """
    path, at, patching = word.rpartition("@")
    path, patching = (path, patching) if at and patching in _SINGLE else (word, "")
    files, stated = _files(path)
    patching = _agreed(path, patching, stated)
    origin = {"files": {file.name: sha256_of(file) for file in files}, "patching": patching}
    place = models / f"published-myna-{digest_of(origin)[:8]}"
    if (found := place / "step-00000000" / checkpoint.CARD).is_file():
        return found.parent
    tensors = encoder_tensors({name: tensor for file in files for name, tensor in _read(file).items()}, path)
    config = load(f"myna:{variant_of(tensors, path, patching)}")
    _require_fit(tensors, config.model.build, path)
    hears = load_feature(_CONTRACT)
    about = {
        "config": config_to_dict(config),
        "identity": {"published": origin},
        "column": hears.column,
        "contract": described(hears),
        "validation_loss": None,
        "run": None,
    }
    log.info("published %s  %s  kept as %s", path, config.name, place)
    return checkpoint.save(_Adopted(tensors), place, about=about, keep=1)


def encoder_tensors(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """What belongs to the encoder, by its plain names, in float32. Raises DataProblem where two have one name."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name
        for prefix in _PREFIXES:
            plain = plain.removeprefix(prefix)
        if plain.startswith(_DROPPED):
            continue
        if plain in kept:
            raise DataProblem(f"{path} holds {plain} twice, with and without a prefix, so neither can be trusted.")
        kept[plain] = tensor.float() if tensor.dtype.is_floating_point else tensor
    return kept


def variant_of(tensors: Mapping[str, Tensor], path: str, patching: str) -> str:
    """base, vertical, hybrid or 85m, by the width of the tokens and the kinds of patch."""
    width = tensors[_TELLING].shape[0] if _TELLING in tensors and tensors[_TELLING].ndim == 2 else None
    is_hybrid = any(name.startswith(_SECOND) for name in tensors)
    if (width, is_hybrid) not in _VARIANTS:
        raise DataProblem(
            f"{path} holds no published Myna: {_TELLING} is {'absent' if width is None else f'{width} wide'}, and it "
            f"has {'two kinds' if is_hybrid else 'one kind'} of patch. Known are 384 with one or two, 768 with two."
        )
    if is_hybrid and patching == VERTICAL:
        raise UsageProblem(f"{path} holds both kinds of patch, so @{VERTICAL} does not fit it. Leave it out.")
    variant = _VARIANTS[width, is_hybrid] or _SINGLE.get(patching)
    if variant is None:
        raise UsageProblem(
            f"{path} does not say whether its patches are square or vertical: both have 256 values, and the wrong "
            f"guess would embed noise. Write published:{path}@square or published:{path}@vertical."
        )
    return variant


def _files(path: str) -> tuple[list[Path], Mapping[str, Any]]:
    """The files that hold the tensors, and what a configuration beside them says."""
    file = Path(path).expanduser()
    if file.is_file() and file.suffix != ".safetensors":
        return [file], {}
    weights = resolve(path)
    stated = _configuration(weights.folder / CONFIG) if CONFIG in weights.files else {}
    return [weights.folder / name for name in weights.files if name != CONFIG], stated


def _configuration(path: Path) -> Mapping[str, Any]:
    try:
        stated = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataProblem(
            f"{path} is no JSON ({error}), so what lies beside it cannot be told. Fetch it again."
        ) from error
    return stated if isinstance(stated, dict) else {}


def _agreed(path: str, patching: str, stated: Mapping[str, Any]) -> str:
    """The kind of patch by the command line or the configuration. Raises UsageProblem when they contradict."""
    size = stated.get("patch_size")
    if size is None:
        return patching
    bands = size[0] if isinstance(size, list) else size
    said = VERTICAL if bands == _BANDS else SQUARE
    if patching not in ("", said):
        raise UsageProblem(f"{path} says in its {CONFIG} that its patches are {said}, so @{patching} does not fit it.")
    return said


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        is_plain = file.suffix == ".safetensors"
        content = read_part(file) if is_plain else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may break its reader in any way
        told = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise DataProblem(
            f"{file} was not opened: it is damaged, or holds code, which is never run ({told}). Fetch it again; if "
            "that changes nothing, convert it to .safetensors where you trust it."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise DataProblem(
            f"{file} is no plain state dict: it holds something beside named tensors, so what it is cannot be told. "
            "Save the model's state_dict() alone."
        )
    return content


def _require_fit(tensors: Mapping[str, Tensor], build: Any, path: str) -> None:
    """Raises DataProblem, with the first names, unless every tensor has its place and every place its tensor."""
    with torch.device("meta"):
        wanted = build().state_dict()
    wrong = [f"{name} has no place" for name in sorted(tensors.keys() - wanted.keys())]
    wrong += [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        found, expected = tensors[name], tuple(wanted[name].shape)
        if tuple(found.shape) != expected or not found.dtype.is_floating_point:
            wrong.append(f"{name} is {found.dtype} of shape {tuple(found.shape)} in place of {expected}")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataProblem(
            f"{path} is not the Myna that it seems to be: {', '.join(wrong[:_SHOWN])}{more}. Its embeddings would mean "
            "nothing. Fetch the published file again."
        )


@dataclass(frozen=True)
class _Adopted:
    """Weights in the place of a training: a checkpoint of no steps."""

    tensors: Mapping[str, Tensor]
    steps: int = 0

    def weights(self) -> dict[str, Tensor]:
        return {f"model.{name}": tensor.contiguous() for name, tensor in self.tensors.items()}

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def wait(self) -> None: ...
    def from_rank_zero(self, value: int) -> int:
        return value
