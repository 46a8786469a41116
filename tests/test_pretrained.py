"""Published weights: found without a network, whole, identified by their bytes, under a licence that is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shards.pretrained import NOT_STATED, WeightsMissing, folder_of, open_local, resolve
from shards.problem import DataProblem, UsageProblem
from shards.store import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and one small tensor."""
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    save_file({"weight": torch.arange(6.0)}, path / "model.safetensors")
    return path


def test_a_folder_is_itself_with_the_digest_of_its_files(folder: Path):
    weights = resolve(str(folder))
    assert folder_of(str(folder)) == weights.folder == folder
    assert (weights.source, weights.revision, weights.licence) == ("tiny-model", "", NOT_STATED)
    assert weights.files == ("config.json", "model.safetensors")
    assert weights.stated == {"sha256": weights.sha256, "source": "tiny-model", "licence": NOT_STATED}
    assert resolve(str(folder / "model.safetensors")) == weights


def test_the_digest_follows_the_bytes_and_not_the_place(folder: Path, tmp_path: Path):
    before = open_local(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_local(moved).sha256 == before.sha256
    (moved / "notes.txt").write_text("not part of the model")
    assert open_local(moved).sha256 == before.sha256
    (moved / "config.json").write_text(json.dumps({"model_type": "other"}))
    assert open_local(moved).sha256 != before.sha256


def test_weights_replaced_in_place_are_read_again_and_found_out(folder: Path):
    weights = open_local(folder)
    weights.check()
    path = folder / "model.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataProblem, match="does not hold the weights that the work began with"):
        weights.check()


def test_weights_that_a_worker_lacks_are_found_out(folder: Path, tmp_path: Path):
    weights = open_local(folder)
    folder.rename(tmp_path / "gone")
    with pytest.raises(DataProblem, match="SHA-256 absent"):
        weights.check()


def test_unchanged_files_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    hashed: list[Path] = []
    monkeypatch.setattr("shards.pretrained.sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    first, second = open_local(folder), open_local(folder)
    assert first == second and len(hashed) == 2


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt", "model.pkl"])
def test_pickled_weights_are_never_opened(name: str, folder: Path):
    (folder / "model.safetensors").rename(folder / name)
    for path in (folder, folder / name):
        with pytest.raises(DataProblem, match=f"{name}, a pickle, .* convert it with safetensors"):
            open_local(path)


def test_a_pickle_beside_sound_weights_is_not_looked_at(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert open_local(folder).files == ("config.json", "model.safetensors")


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(DataProblem, match="holds no .safetensors file"):
        open_local(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "longer", "pointer", "empty", "header"])
def test_what_is_no_whole_safetensors_file_is_refused(harm: str, folder: Path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    harmed = {
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 59000000\n",
        "empty": b"",
        "header": whole[:8] + b"[" * (len(whole) - 8),
    }
    path.write_bytes(harmed[harm])
    with pytest.raises(DataProblem, match="is no whole safetensors file"):
        open_local(folder)


CARD = "---\nlanguage: en\nlicense: {}\n---\n# A model\n"


@pytest.mark.parametrize(
    "files, name",
    [
        ({"README.md": CARD.format("mit")}, "mit"),
        ({"README.md": CARD.format("Apache-2.0")}, "apache-2.0"),
        ({"README.md": CARD.format("other\nlicense_name: our-terms")}, "our-terms"),
        ({"LICENSE": "MIT License\n\nCopyright"}, "mit"),
        ({"licence.txt": "Apache License\nVersion 2.0"}, "apache-2.0"),
        ({"COPYING": "Do as you like."}, "see its licence file"),
        ({"README.md": "# A model without front matter"}, NOT_STATED),
    ],
)
def test_the_licence_that_lies_beside_the_weights_is_named(files: dict[str, str], name: str, folder: Path):
    for file, text in files.items():
        (folder / file).write_text(text)
    assert open_local(folder).licence == name


@pytest.mark.parametrize(
    "files, name",
    [
        ({"README.md": CARD.format("cc-by-nc-4.0")}, "cc-by-nc-4.0"),
        ({"LICENSE": "Creative Commons Attribution-NonCommercial 4.0 International"}, "cc-by-nc"),
        ({"README.md": CARD.format("mit") + "Weights are under CC BY-NC 4.0."}, "mit+non-commercial"),
        ({"README.md": "For non-commercial use only."}, "non-commercial"),
    ],
)
def test_weights_not_for_commercial_use_ask_to_be_agreed_to_by_name(files: dict[str, str], name: str, folder: Path):
    for file, text in files.items():
        (folder / file).write_text(text)
    for wrong in ("", "mit", "yes"):
        with pytest.raises(UsageProblem, match=f"--accept-licence {name}$".replace("+", r"\+")):
            resolve(str(folder), accept_licence=wrong)
    assert resolve(str(folder), accept_licence=name).licence == name


@pytest.mark.parametrize("word", ["./absent", "/absent/folder", "~/absent", "absent", "a/b/c", "../absent/x"])
def test_a_path_that_is_not_there_is_never_taken_for_a_hub_id(word: str):
    with pytest.raises(WeightsMissing, match="does not exist"):
        resolve(word)


def test_a_mistyped_path_beside_a_folder_is_no_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(WeightsMissing, match="tiny-model/typo does not exist"):
        resolve("tiny-model/typo")


HUB = "import sys\nfrom shards.pretrained import resolve, WeightsMissing\n"


def in_hub_cache(cache: Path, code: str) -> str:
    """Output of a process whose hub is offline and whose cache lies in `cache`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    command = [sys.executable, "-c", HUB + code]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_hub_id_is_found_in_the_hubs_cache_and_else_missed_with_the_remedy(folder: Path, tmp_path: Path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "hub" / "models--someone--tiny"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    shown = in_hub_cache(
        tmp_path / "cache",
        "found = resolve('someone/tiny')\n"
        "print(found.source, found.revision, found.folder.name)\n"
        f"print(resolve('someone/tiny@{commit}') == found)\n"
        "try:\n    resolve('someone/else')\n"
        "except WeightsMissing as problem:\n    print(problem)\n",
    ).splitlines()
    assert shown[0] == f"someone/tiny {commit} {commit}"
    assert shown[1] == "True"
    assert shown[2].startswith("someone/else could not be fetched") and "copy the folder here" in shown[2]
