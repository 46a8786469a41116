"""Published Myna weights in their authors' formats: opened like any checkpoint, or refused with the reason."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.feature import described, load_feature
from shards.problem import DataProblem, UsageProblem
from trainers.checkpoint import open_model
from trainers.config import load
from trainers.encoder import open_encoder
from trainers.objectives.contrastive import ContrastiveConfig
from trainers.published import adopt, encoder_tensors, variant_of


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A Myna-Base with its projector, as its authors' training would leave it: 128 tensors and the head."""
    torch.manual_seed(3)
    objective = ContrastiveConfig().build(load("myna:base").model.build())
    head = {f"linear_head.{name}": tensor for name, tensor in objective.linear_head.state_dict().items()}
    return {**objective.model.state_dict(), **head}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def published(trained) -> Path:
    torch.save(trained, "myna-base.pt")
    return Path("myna-base.pt")


def empty(name: str) -> dict[str, Tensor]:
    """The names and shapes of a variant, without a value."""
    with torch.device("meta"):
        return load(name).model.build().state_dict()


def encoder_of(word: str) -> torch.nn.Module:
    return open_encoder(f"published:{word}").model


def embedding(model: torch.nn.Module, mel: Tensor) -> Tensor:
    with torch.no_grad():
        return model(mel)


def test_a_state_dict_of_torch_computes_what_its_tensors_say(published, trained):
    ours = load("myna:base").model.build().eval()
    ours.load_state_dict({name: tensor for name, tensor in trained.items() if "head" not in name})
    mel = 100 * torch.rand(2, 128, 96)
    assert torch.equal(embedding(encoder_of(f"{published}@square"), mel), embedding(ours, mel))


def test_the_folder_that_is_kept_is_a_checkpoint_of_ours_and_made_once(published):
    folder = adopt(f"{published}@square", Path("models"))
    model, card = open_model(folder)
    assert card["contract"] == described(load_feature("mel:myna")) and card["column"] == "mel"
    assert (card["config"]["variant"], card["step"], len(model.state_dict())) == ("base", 0, 128)
    written = (folder / "card.json").stat().st_mtime_ns
    assert adopt(f"{published}@square", Path("models")) == folder
    assert (folder / "card.json").stat().st_mtime_ns == written
    assert open_encoder(str(folder)).contract == card["contract"]


def test_our_own_export_comes_back_unchanged(published):
    folder = adopt(f"{published}@square", Path("models"))
    again = adopt(f"{folder / 'model.safetensors'}@square", Path("models"))
    first, second = (load_file(each / "model.safetensors") for each in (folder, again))
    assert again != folder and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_hub_folder_says_by_its_configuration_which_patches_are_meant(trained):
    vertical = {f"model.{name}": tensor.half() for name, tensor in trained.items() if "head" not in name}
    Path("hub").mkdir()
    save_file(vertical, "hub/model.safetensors")
    Path("hub/config.json").write_text(json.dumps({"spec_size": [128, 96], "patch_size": [128, 2], "dim": 384}))
    model = encoder_of("hub")
    assert model.patchings == ("vertical",) and model.tokens_of("vertical") == 49
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(UsageProblem, match="are vertical, so @square"):
        encoder_of("hub@square")


@pytest.mark.parametrize("name", ["myna:base", "myna:vertical", "myna:hybrid", "myna:85m"])
def test_the_variant_shows_in_width_and_kinds_of_patch(name):
    patching = "vertical" if name == "myna:vertical" else "square"
    assert variant_of(empty(name), "x", patching) == name.removeprefix("myna:")


@pytest.mark.parametrize("name", ["myna:hybrid", "myna:85m"])
def test_hybrids_need_no_word_about_their_patches_and_take_none_that_is_wrong(name):
    assert variant_of(empty(name), "x", "") == name.removeprefix("myna:")
    with pytest.raises(UsageProblem, match="both kinds of patch"):
        variant_of(empty(name), "x", "vertical")


def test_prefixes_go_and_projector_head_and_positions_are_dropped():
    one = torch.ones(1)
    names = ["module.transformer.norm.bias", "model.to_patch_embedding.1.bias", "linear_head.0.weight", "head.bias"]
    kept = encoder_tensors(dict.fromkeys([*names, "module.linear_head.2.bias", "pos_embedding"], one), "x")
    assert set(kept) == {"transformer.norm.bias", "to_patch_embedding.1.bias"}


def test_square_and_vertical_patches_are_never_guessed(published):
    with pytest.raises(UsageProblem, match=f"published:{published}@vertical"):
        encoder_of(str(published))


def _without(trained: dict[str, Tensor]) -> dict[str, object]:
    return {name: tensor for name, tensor in trained.items() if name != "transformer.norm.bias"}


def _beside(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "transformer.layers.12.0.norm.bias": torch.ones(384)}


def _misshapen(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "transformer.layers.3.0.to_qkv.weight": torch.ones(384, 1152)}


def _of_integers(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "transformer.norm.bias": torch.ones(384, dtype=torch.int64)}


def _narrow(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "to_patch_embedding.2.weight": torch.ones(192, 256)}


def _twice(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "module.transformer.norm.bias": torch.ones(384)}


def _with_code(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "transformer.norm.bias": _Trap()}


def _with_words(trained: dict[str, Tensor]) -> dict[str, object]:
    return {**trained, "epoch": 500}


class _Trap:
    """Pickled, it is a call that leaves a file behind."""

    def __reduce__(self):
        return Path.touch, (Path("it_ran"),)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without, "transformer.norm.bias is missing"),
        (_beside, "transformer.layers.12.0.norm.bias has no place"),
        (_misshapen, r"of shape \(384, 1152\) in place of \(1152, 384\)"),
        (_of_integers, "torch.int64"),
        (_narrow, "is 192 wide"),
        (_twice, "twice"),
        (_with_code, "holds code"),
        (_with_words, "no plain state dict"),
    ],
)
def test_what_is_not_exactly_the_published_model_is_refused_with_the_first_thing_that_is_wrong(trained, spoil, said):
    torch.save(spoil(trained), "spoiled.pt")
    with pytest.raises(DataProblem, match=said):
        encoder_of("spoiled.pt@square")
    assert not Path("it_ran").exists() and not Path("runs").exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(trained, name, share):
    small = {name: tensor[:8].clone() for name, tensor in trained.items() if "norm" in name}
    torch.save(small, name) if name.endswith("pt") else save_file(small, name)
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataProblem, match=name):
        encoder_of(f"{name}@square")
