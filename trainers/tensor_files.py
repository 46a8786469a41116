"""Named tensors in safetensors files of bounded size: nothing in them is executed, any program opens them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor

_PART_BYTES = 256 * 2**20


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, part_bytes: int = _PART_BYTES) -> None:
    """Write FOLDER/00000.safetensors, 00001 and so on; no more than a part is held in memory. CPU tensors only."""
    part, number = dict[str, Tensor](), 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in tensors:
        if part and sum(map(_bytes, part.values())) + _bytes(tensor) > part_bytes:
            write_part(folder / f"{number:05d}.safetensors", part)
            part, number = {}, number + 1
        part[name] = tensor.contiguous()
    write_part(folder / f"{number:05d}.safetensors", part)


def write_part(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file, readable like any other: safetensors' own writer hides files from other users."""
    path.write_bytes(as_safetensors(dict(tensors)))


def read_part(path: Path) -> dict[str, Tensor]:
    """All tensors of one file."""
    return load_file(path)


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of such a folder by name, each read when it is asked for; close with `with`."""

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        files = [self._open.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        self._homes = {name: file for file in files for name in file.keys()}  # noqa: SIM118  it is no mapping

    def __getitem__(self, name: str) -> Tensor:
        return self._homes[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
