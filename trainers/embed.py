"""Embed music of any length and container by a model; one row a file, or a window.

    sonograph embed music/*.flac --model runs/x --out embeddings.parquet

FILES may be folders, which mean all files in them. A model is what `sonograph evaluate` takes: RUN, a checkpoint,
models:/NAME@ALIAS, published:PATH or a control. Columns: path, seconds, windows (with --per-window start_s instead),
embedding. What cannot be embedded is listed with its reason beside it, in embeddings.rejected.parquet.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tyro.conf import FlagCreatePairsOff, Positional, arg

from shards.feature import Feature, differences, load_feature
from shards.features.mel import Mel
from shards.manifest import MANIFEST, growing_table, read_said, read_table, table_schema, vector_schema, write_table
from shards.problem import DataProblem, UsageProblem
from shards.store import canonical_json, digest_of, write_json
from shards.stores.remote import url_of
from trainers.encoder import ContractMismatch, Encoder, open_encoder
from trainers.listening import Listener

log = logging.getLogger(__name__)
SAID = "sonograph.embeddings"
_FILE = {"path": "str", "seconds": "float", "windows": "int"}
_WINDOW = {"path": "str", "start_s": "float"}
_REJECTED = {"path": "str", "reason": "str"}
_BATCH_WINDOWS, _PART_ROWS = 64, 512
_LOG_SECONDS = 10.0
_SHOWN = 10


@dataclass(frozen=True)
class Embed:
    """Which files, by which model, into which table."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILES...")]
    """audio files, or folders of them"""
    model: Annotated[str, arg(metavar="CHECKPOINT")]
    """what embeds"""
    out: Path
    """Parquet table"""
    per_window: FlagCreatePairsOff[bool] = False
    """a row a window, not their mean"""
    hop_frames: int | None = None
    """between windows; by default side by side"""
    size: Literal["paper", "laptop", "debug"] = "paper"
    """of random:SYSTEM:VARIANT"""
    fresh: FlagCreatePairsOff[bool] = False
    """embed again"""
    dry_run: FlagCreatePairsOff[bool] = False
    """check all, embed nothing"""


COMMAND = Embed


def main(command: Embed) -> dict[str, object]:
    """Embed every file, or recognise that it was done. Raises DataProblem when none could be embedded."""
    for place in (*command.files, command.out):
        _refuse_store(place)
    encoder = open_encoder(command.model, size=command.size, device="cuda" if torch.cuda.is_available() else "cpu")
    feature, files = feature_of(encoder), files_of(command.files)
    hop_frames = _hop(command.hop_frames, encoder.window_frames)
    said = _said(encoder, feature, files, hop_frames, per_window=command.per_window)
    if command.dry_run:
        return {"output": f"{json.dumps(said, indent=1)}\n{command.out}", "metrics": {"files": len(files)}}
    if not command.fresh and _said_before(command.out) == canonical_json(said):
        log.info("embed %s  complete since an earlier call; --fresh embeds again", command.out)
    else:
        _write(command, encoder, feature, files, hop_frames, said)
    result: dict[str, object] = {"output": str(command.out), "metrics": _counts(command.out, len(files))}
    write_json(command.out.with_suffix(".RESULT.json"), {"status": "ok", **result})
    return result


def feature_of(encoder: Encoder) -> Feature:
    """What turns clips into the encoder's input, by its contract.

    Raises ContractMismatch when ours is another, and UsageProblem where it is no mel, whose frames come one by one.
    """
    contract = encoder.contract
    column = "mel" if encoder.column == "mel" else encoder.column.replace("-", ":", 1)
    feature = load_feature(str(contract["word"]) if contract else column)
    if not isinstance(feature, Mel):
        raise UsageProblem(
            f"{encoder.name} reads column '{encoder.column}', which is computed of a whole clip and not frame by frame "
            "as a file is heard here, so nothing was embedded. Build a dataset of the files with that column "
            "(sonograph build folder --span-seconds), and ask there (sonograph evaluate)."
        )
    if contract and (names := differences(feature, contract)):
        raise ContractMismatch(
            f"{encoder.name} was trained on a column of another {', '.join(names)} than this version computes by the "
            f"name {contract['word']}, so it would hear everything differently. Use the version that built its data."
        )
    return feature


def files_of(places: Sequence[Path]) -> list[Path]:
    """The files in their order, all those of a folder in place of it. Raises UsageProblem for none, or a dataset."""
    files: list[Path] = []
    for place in places:
        if (place / MANIFEST).is_file():
            raise UsageProblem(
                f"{place} is a dataset, whose features are computed already; embed takes audio files, so nothing was "
                "done. Name the recordings that it was built from."
            )
        files += sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
    if not files:
        raise UsageProblem("There is no file to embed, so nothing was done. Name audio files, or folders of them.")
    return files


def _refuse_store(place: Path) -> None:
    if url := url_of(place):
        raise UsageProblem(
            f"{url} lies in a store, and embed reads audio files and writes its table on this machine, so nothing was "
            "done. Copy the files here with the store's own tool, and the table there afterwards."
        )


class Windows:
    """Windows of a stream of frames, `hop_frames` apart from frame 0; as they come, whatever its pieces are."""

    def __init__(self, window_frames: int, hop_frames: int) -> None:
        self._window_frames, self._hop_frames = window_frames, hop_frames
        self._left: Tensor | None = None
        self.count = 0

    def of(self, mel: Float[Tensor, "bands _"], *, is_last: bool) -> Float[Tensor, "windows bands frames"]:
        """Those that these frames complete; a stream shorter than one window is followed by zero power."""
        joined = mel if self._left is None else torch.cat([self._left, mel], dim=1)
        missing = self._window_frames - joined.shape[1]
        if is_last and missing > 0 and not self.count:
            joined, missing = F.pad(joined, (0, missing)), 0
        whole = 0 if missing > 0 else -missing // self._hop_frames + 1
        self._left = joined[:, whole * self._hop_frames :]
        self.count += whole
        if not whole:
            return joined.new_empty(0, joined.shape[0], self._window_frames)
        return joined.unfold(1, self._window_frames, self._hop_frames).transpose(0, 1)


def rows_of(
    listener: Listener, files: Sequence[Path], encoder: Encoder, feature: Feature, hop_frames: int, *, per_window: bool
) -> Iterator[dict[str, object]]:
    """The table's rows in the order of the files; instead of what cannot be embedded, a row with the reason."""
    frame_seconds = _frame_seconds(feature)
    windows = Windows(encoder.window_frames, hop_frames)
    total = np.zeros(())
    for path, block in listener.blocks(files):
        if isinstance(block, str):
            yield {"path": str(path), "reason": block}
        else:
            first = windows.count
            mel = feature.restore(torch.from_numpy(block.stored)).to(encoder.device)
            for vectors in _embedded(encoder, windows.of(mel, is_last=block.is_last)):
                total = total + vectors.sum(axis=0, dtype=np.float64)
                for number, vector in enumerate(vectors if per_window else (), first):
                    yield {"path": str(path), "start_s": number * hop_frames * frame_seconds, "embedding": vector}
                first += len(vectors)
            if block.is_last and not per_window:
                yield {
                    "path": str(path),
                    "seconds": block.seconds,
                    "windows": windows.count,
                    "embedding": (total / windows.count).astype(np.float32),
                }
        if isinstance(block, str) or block.is_last:
            windows, total = Windows(encoder.window_frames, hop_frames), np.zeros(())


def _embedded(
    encoder: Encoder, windows: Float[Tensor, "windows bands frames"]
) -> Iterator[Float[np.ndarray, "batch width"]]:
    for batch in windows.split(_BATCH_WINDOWS) if len(windows) else ():
        with torch.inference_mode():
            yield encoder.model(batch).float().cpu().numpy()


def _hop(asked: int | None, window_frames: int) -> int:
    hop_frames = window_frames if asked is None else asked
    if not 1 <= hop_frames <= window_frames:
        raise UsageProblem(
            f"--hop-frames {hop_frames} does not fit windows of {window_frames} frames: music between them would not "
            f"be heard. Give 1 to {window_frames}."
        )
    return hop_frames


def _said(
    encoder: Encoder, feature: Feature, files: Sequence[Path], hop_frames: int, *, per_window: bool
) -> dict[str, Any]:
    """What decides the table: equal answers, equal tables. Files count by path, length and time of change."""
    stats = [(file, file.stat()) for file in files if file.exists()]
    return {
        "checkpoint": encoder.name,
        "encoder": dict(encoder.about),
        "feature": feature.word,
        "window_frames": encoder.window_frames,
        "hop_frames": hop_frames,
        "rows": "windows" if per_window else "files",
        "files": len(files),
        "files_digest": digest_of([str(file) for file in files] + [[s.st_size, s.st_mtime_ns] for _, s in stats]),
    }


def _write(
    command: Embed, encoder: Encoder, feature: Feature, files: Sequence[Path], hop_frames: int, said: dict[str, Any]
) -> None:
    schema = vector_schema(_WINDOW if command.per_window else _FILE, "embedding", _width(encoder, feature))
    with (
        growing_table(command.out, schema, {SAID: canonical_json(said)}) as write,
        Listener(feature.word) as listener,
    ):
        rows = rows_of(listener, files, encoder, feature, hop_frames, per_window=command.per_window)
        told, rejected = _told(rows, len(files), encoder.name), list[dict[str, object]]()
        while part := list(islice(told, _PART_ROWS)):
            rejected += [row for row in part if "reason" in row]
            write([row for row in part if "reason" not in row])
        write_table(_rejected(command.out), rejected, table_schema(_REJECTED))


def _told(rows: Iterator[dict[str, object]], files: int, name: str) -> Iterator[dict[str, object]]:
    """The same rows, with a line in the log now and then."""
    began = said = time.monotonic()
    seen, rejected, last = 0, 0, None
    for row in rows:
        seen += row["path"] != last
        rejected += "reason" in row
        last = row["path"]
        yield row
        now = time.monotonic()
        if now - said >= _LOG_SECONDS:
            left = (files - seen) * (now - began) / seen / 60
            log.info("embed %s  file %d/%d  rejected %d  eta %.0f min", name, seen, files, rejected, left)
            said = now


def _width(encoder: Encoder, feature: Feature) -> int:
    """Width of the model's embeddings, by asking it for that of silence."""
    silence = torch.zeros(1, int(str(feature.contract["bands"])), encoder.window_frames, device=encoder.device)
    with torch.inference_mode():
        return int(encoder.model(silence).shape[1])


def _frame_seconds(feature: Feature) -> float:
    contract = feature.contract
    return float(str(contract["hop_samples"])) / float(str(contract["sample_rate_hz"]))


def _said_before(out: Path) -> bytes | None:
    """What an earlier table says of itself, or None where there is none that is whole."""
    try:
        return read_said(out, SAID) if out.is_file() else None
    except DataProblem:
        return None


def _rejected(out: Path) -> Path:
    return out.with_suffix(".rejected.parquet")


def _counts(out: Path, files: int) -> dict[str, int]:
    """Of files and of rows in the finished table. Raises DataProblem when no file could be embedded."""
    rows, rejected = read_table(out, ["path"]).num_rows, read_table(_rejected(out)).to_pylist()
    for row in rejected[:_SHOWN]:
        log.warning("embed %s  rejected: %s", row["path"], row["reason"])
    if not rows:
        raise DataProblem(
            f"None of {files} files could be embedded; the first: {rejected[0]['reason']}. {_rejected(out)} has every "
            "reason. Name audio files that can be decoded."
        )
    return {"files": files, "rejected": len(rejected), "rows": rows}


if __name__ == "__main__":
    from sonograph import run_verb

    run_verb("embed")
