"""Verify finds everything: each flipped bit, cut, swap and stale file, and what only a look inside can tell."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.manifest import MANIFEST, PLAN, Manifest, read_table
from shards.members import ustar_header
from shards.problem import DataProblem
from shards.store import digest_of
from shards.verify import Verify, damage_of, datasets_in, main, verify
from tests.forgery import (
    approve,
    flip,
    forge_manifest,
    forge_payloads,
    forge_tar,
    parts_of,
    swap,
    write_sounding_dataset,
)

BLOCK_BYTES = 512


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounding_dataset(tmp_path_factory.mktemp("whole") / "train")


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "train")


def damaged_names(dataset: Path) -> set[str]:
    return {damage.path.relative_to(dataset).as_posix() for damage in damage_of(dataset)}


@given(
    st.integers(0, 10**9 - 1),
    st.sampled_from(["json", "mel.npy", "codec-encodec_24khz.npy"]),
    st.integers(0, 2**33 - 1),
)
def test_the_one_header_that_is_accepted_is_that_of_the_standard_library(index: int, ending: str, size: int):
    header = tarfile.TarInfo(f"{index:09d}.{ending}")
    header.size, header.mode, header.mtime = size, 0o644, 0
    assert ustar_header(header.name.encode(), size) == header.tobuf(tarfile.USTAR_FORMAT)


def test_arrays_and_flac_members_of_an_untouched_dataset_verify(whole: Path):
    assert list(verify(whole)) == []
    assert (whole / "audio" / "000000.tar").is_file()


@pytest.mark.parametrize("column", ["mel", "audio"])
def test_a_flipped_bit_is_found_in_every_block_of_a_tar_in_headers_and_payloads(dataset: Path, column: str):
    tar = dataset / column / "000000.tar"
    for begin in range(0, tar.stat().st_size, BLOCK_BYTES):
        for byte, bit in ((begin, 7), (begin + 137, 0), (begin + BLOCK_BYTES - 1, begin // BLOCK_BYTES % 8)):
            flip(tar, byte, bit)
            assert damaged_names(dataset) == {f"{column}/000000.tar"}
            flip(tar, byte, bit)
    assert list(verify(dataset)) == []


def test_a_flipped_bit_of_a_header_or_an_array_is_found_without_the_digest_of_the_file(dataset: Path):
    tar = dataset / "mel" / "000001.tar"
    table = read_table(tar.with_suffix(".parquet")).to_pylist()
    begins = [row["offset"] - BLOCK_BYTES for row in table]
    inside = [begin + byte for begin in begins for byte in range(0, BLOCK_BYTES + table[0]["bytes"], 67)]
    for byte in [*inside, tar.stat().st_size - BLOCK_BYTES, tar.stat().st_size - 1]:
        flip(tar, byte, 3)
        approve(dataset, number=1)
        assert damaged_names(dataset) == {"mel/000001.tar"}, byte
        flip(tar, byte, 3)
    approve(dataset, number=1)
    assert list(verify(dataset)) == []


def test_a_tar_cut_at_every_boundary_of_a_member_is_found_though_every_digest_was_made_to_fit(dataset: Path):
    tar = dataset / "mel" / "000000.tar"
    original = tar.read_bytes()
    boundaries = [header.offset for header, _ in parts_of(tar)]
    for end in [*boundaries, len(original) - 1024, len(original) - 512]:
        tar.write_bytes(original[:end])
        assert any(f"has {end:,} bytes" in line for line in verify(dataset))
        approve(dataset)
        assert any("is cut off at byte" in line or "lacks" in line for line in verify(dataset))
    tar.write_bytes(original + bytes(512))
    approve(dataset)
    assert any("something follows its end" in line for line in verify(dataset))


def test_swapped_files_are_found(dataset: Path):
    swap(dataset / "mel" / "000000.tar", dataset / "audio" / "000000.tar")
    swap(dataset / "index" / "000000.parquet", dataset / "index" / "000001.parquet")
    wrong = {"mel/000000.tar", "audio/000000.tar", "index/000000.parquet", "index/000001.parquet"}
    assert damaged_names(dataset) >= wrong


def test_files_of_another_build_of_the_same_name_and_size_are_found(dataset: Path, tmp_path: Path):
    other = write_sounding_dataset(tmp_path / "other", seed=1)
    for name in ("mel/000000.tar", "mel/000001.parquet", "plan.json"):
        shutil.copy(other / name, dataset / name)
    assert damaged_names(dataset) == {"mel/000000.tar", "mel/000001.parquet"}  # their plans are the same


def test_a_stale_index_is_found_though_the_manifest_lists_it(dataset: Path, tmp_path: Path):
    other = write_sounding_dataset(tmp_path / "other", 6, shard_examples=2)
    shutil.copy(other / "index" / "000001.parquet", dataset / "index" / "000000.parquet")
    manifest = Manifest.read(dataset)
    stale = {"index/000000.parquet": Manifest.read(other).shards[1].files["index/000001.parquet"]}
    shards = [replace(manifest.shards[0], files={**manifest.shards[0].files, **stale}), manifest.shards[1]]
    replace(manifest, shards=shards).write(dataset)
    said = "\n".join(verify(dataset))
    assert "000000.parquet: is stale" in said and "it lists 2 examples where its shard has 3" in said
    assert "mel/000000.parquet: does not list the examples of index/000000.parquet" in said


@given(st.data())
def test_a_file_that_is_cut_or_flipped_anywhere_is_found(whole: Path, data: st.DataObject):
    path = data.draw(st.sampled_from(sorted(path for path in whole.rglob("*") if path.is_file())))
    original = path.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    try:
        path.write_bytes(original[:place])
        cut = damaged_names(whole)
        path.write_bytes(original)
        flip(path, place, data.draw(st.integers(0, 7)))
        flipped = damaged_names(whole)
    finally:
        path.write_bytes(original)
    assert path.relative_to(whole).as_posix() in cut & flipped


def first_problem(dataset: Path) -> str:
    """Of the manifest, before anything else is read."""
    problems = damage_of(dataset)
    first = str(next(problems, ""))
    problems.close()  # type: ignore[attr-defined]
    return first


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(dataset: Path):
    size = (dataset / MANIFEST).stat().st_size
    for byte in range(0, size, 7):
        flip(dataset / MANIFEST, byte, byte % 8)
        assert f"{MANIFEST}: " in first_problem(dataset), byte
        flip(dataset / MANIFEST, byte, byte % 8)
    assert first_problem(dataset) == ""


@pytest.mark.parametrize(("there", "flipped"), [(b"e-05", b"E-05"), (b"\\u001f", b"\\u001F")])
def test_a_flip_that_leaves_the_meaning_of_the_manifest_as_it_was_is_found(dataset: Path, there: bytes, flipped: bytes):
    manifest = Manifest.read(dataset)
    replace(manifest, seconds=1.5e-05, made_with={"python": "\x1f"}).write(dataset)
    text = (dataset / MANIFEST).read_bytes()
    assert there in text and first_problem(dataset) == ""
    (dataset / MANIFEST).write_bytes(text.replace(there, flipped, 1))
    assert Manifest.read(dataset).seconds == 1.5e-05
    assert "is spelled otherwise than it was written" in first_problem(dataset)


def test_a_manifest_cut_anywhere_or_lost_is_found(dataset: Path):
    text = (dataset / MANIFEST).read_bytes()
    for end in range(0, len(text), 61):
        (dataset / MANIFEST).write_bytes(text[:end])
        assert f"{MANIFEST}: is damaged" in first_problem(dataset)
    (dataset / MANIFEST).unlink()
    assert "has not finished" in first_problem(dataset)


def test_without_its_manifest_the_files_of_a_dataset_are_held_against_their_proofs(dataset: Path):
    flip(dataset / MANIFEST, 100)
    flip(dataset / "audio" / "000001.tar", 2000)
    (dataset / "mel" / "000000.tar").unlink()
    os.truncate(dataset / "index" / "000001.parquet", 900)
    assert damaged_names(dataset) == {MANIFEST, "audio/000001.tar", "mel/000000.tar", "index/000001.parquet"}


def rewritten(dataset: Path, **changes: object) -> None:
    """Change entries of the manifest's JSON, with a valid digest, as a hostile writer would."""
    content = json.loads((dataset / MANIFEST).read_bytes())
    content = {**content, **changes}
    del content["sha256"]
    forge_manifest(dataset, content)


def forgeries(dataset: Path) -> Iterator[tuple[dict[str, object], str]]:
    content = json.loads((dataset / MANIFEST).read_bytes())
    stored = {"bytes": 1, "sha256": "0" * 64}
    first, second = content["shards"]
    without_tar = {name: value for name, value in first["files"].items() if name != "mel/000000.tar"}
    mel = content["features"]["mel"]
    yield {"files": {"../../outside": stored}}, "no name of a file in a dataset"
    yield {"files": {"/dev/zero": stored}}, "no name of a file in a dataset"
    yield {"files": {"mel/.hidden": stored}}, "no name of a file in a dataset"
    yield {"shards": [{**first, "files": without_tar}, second]}, "lists other files of shard 0"
    yield {"shards": [first, {**second, "number": 0}]}, "lists other files of shard 0"
    yield {"shards": [{**first, "number": "zero"}, second]}, "is no manifest"
    yield {"shards": 7}, "is no manifest"
    yield {"shards": [{}]}, "is no manifest"
    yield {"features": {"mel": {**mel, "member": "pkl"}, "audio": content["features"]["audio"]}}, "'pkl' members"
    yield {"features": {"mel": {}, "audio": content["features"]["audio"]}}, "is no manifest"
    yield {"features": {"../mel": mel, "audio": content["features"]["audio"]}}, "lists other files"


def test_a_manifest_that_lists_what_no_build_writes_is_damaged_and_nothing_it_names_is_opened(dataset: Path):
    for changes, reason in forgeries(dataset):
        original = (dataset / MANIFEST).read_bytes()
        rewritten(dataset, **changes)
        assert reason in first_problem(dataset)
        (dataset / MANIFEST).write_bytes(original)


def test_deep_nesting_instead_of_a_manifest_is_damage(dataset: Path):
    (dataset / MANIFEST).write_bytes(b"[" * 200_000)
    assert "is no manifest" in first_problem(dataset)


def test_members_of_other_examples_and_labels_are_found_though_every_digest_was_made_to_fit(dataset: Path):
    parts = parts_of(dataset / "mel" / "000000.tar")
    for wrong, reason in [
        ([*parts[:4]], "lacks 000000002.mel.npy"),
        ([*parts, *parts[:2]], "holds 000000000.mel.npy, where its table has none or another"),
        ([*parts[:2], *parts[4:], *parts[2:4]], "holds 000000002.mel.npy"),
        ([parts[0], (parts[1][0], parts[3][1]), *parts[2:]], "000000000.json is not about the example noise-0"),
        ([parts[0], (parts[1][0], b"[" * len(parts[1][1])), *parts[2:]], "000000000.json is not about"),
        ([(parts[0][0], parts[2][1]), *parts[1:]], "000000000.mel.npy does not match its xxh3 digest"),
    ]:
        forge_tar(dataset, wrong)
        assert any(reason in line for line in verify(dataset)), reason


@pytest.mark.parametrize(
    ("column", "change", "reason"),
    [
        ("audio", lambda payload: b"RIFF" + payload[4:], "000000000.audio.flac is no FLAC file"),
        ("mel", lambda payload: payload[:-2], "000000000.mel.npy is no array: it is float16(128, 3) of 896 bytes"),
        (
            "mel",
            lambda payload: payload.replace(b"<f2", b"<i2"),
            "000000000.mel.npy is int16, the contract says float16",
        ),
        ("mel", lambda payload: b"not an array", "000000000.mel.npy is no array"),
    ],
)
def test_a_payload_that_is_not_of_its_contract_is_found_though_every_digest_was_made_to_fit(
    dataset: Path, column: str, change: Callable[[bytes], bytes], reason: str
):
    forge_payloads(dataset, change, column=column)
    said = "\n".join(verify(dataset))
    assert reason in said and "digest" not in said and "SHA" not in said


def test_a_column_computed_with_weights_verifies_without_them(dataset: Path):
    features = dict(Manifest.read(dataset).features)
    contract = {name: value for name, value in features["mel"].items() if name not in ("word", "member", "fingerprint")}
    contract["weights"] = {"sha256": "f00"}  # of a network that is not here
    entry = {**features["mel"], **contract, "fingerprint": digest_of(contract)}
    replace(Manifest.read(dataset), features={**features, "mel": entry}).write(dataset)
    for number in (0, 1):
        approve(dataset, number=number)
    assert list(verify(dataset)) == []


def test_a_contract_that_was_changed_names_the_field(dataset: Path):
    features = dict(Manifest.read(dataset).features)
    replace(Manifest.read(dataset), features={**features, "mel": {**features["mel"], "bands": 64}}).write(dataset)
    assert any("they differ in bands, fingerprint" in line for line in verify(dataset))


def test_counts_that_do_not_add_up_are_found(dataset: Path):
    replace(Manifest.read(dataset), planned=6).write(dataset)
    assert "6 examples were planned, 5 accounted for" in first_problem(dataset)
    with pytest.raises(DataProblem, match="6 examples were planned"):
        Manifest.read(dataset)


def test_a_missing_file_and_a_foreign_one_are_found(dataset: Path):
    (dataset / "mel" / "000000.parquet").unlink()
    (dataset / "index" / "notes.txt").write_text("mine")
    said = "\n".join(verify(dataset))
    assert "mel/000000.parquet: is missing" in said and "notes.txt: is not part of the dataset" in said


def test_a_link_a_pipe_and_a_folder_in_a_files_place_are_found(dataset: Path):
    tar = dataset / "mel" / "000000.tar"
    kept = tar.rename(dataset.parent / "kept.tar")
    tar.symlink_to(kept)
    os.mkfifo(dataset / "notes")
    (dataset / "audio" / "000000.tar").unlink()
    (dataset / "audio" / "000000.tar").mkdir()
    said = "\n".join(verify(dataset))
    assert "mel/000000.tar: is no regular file" in said and "notes: is not part of the dataset" in said
    assert "audio/000000.tar: is no regular file" in said


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_tells_the_same_in_the_same_order(dataset: Path, workers: int):
    for name in ("mel/000000.tar", "audio/000001.tar", "index/000000.parquet"):
        flip(dataset / name, 1000)
    assert list(damage_of(dataset, workers=workers)) == list(damage_of(dataset, workers=2))


def test_the_folder_of_splits_includes_one_whose_manifest_is_lost_but_none_of_which_nothing_could_be_used(
    dataset: Path,
):
    out = dataset.parent
    lost, empty = shutil.copytree(dataset, out / "valid"), out / "test"
    (lost / MANIFEST).unlink()
    empty.mkdir()
    for name in (PLAN, "rejected.parquet"):
        shutil.copy(dataset / name, empty / name)
    assert datasets_in(out) == [dataset]
    with pytest.raises(DataProblem, match=r"valid/manifest.json.*has not finished"):
        main(Verify(out))


def test_the_problems_are_told_with_the_command_that_repairs_them(dataset: Path):
    flip(dataset / "mel" / "000000.tar", 3000)
    with pytest.raises(DataProblem) as told:
        main(Verify(dataset))
    assert told.value.exit_code == 3
    assert "mel/000000.tar: has SHA-256" in str(told.value)
    assert str(told.value).endswith(f"sonograph verify {dataset} --repair")


@pytest.mark.parametrize("name", ["000000.tar", MANIFEST])
def test_a_file_that_the_disk_refuses_is_damage_and_not_the_end(
    whole: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    real = Path.open

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == name:
            raise OSError(5, "Input/output error")
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    problems = list(verify(whole))
    assert problems and all(f"{name}: cannot be read (Input/output error)" in line for line in problems)


def test_a_folder_that_is_no_dataset_is_named_and_no_repair_is_offered(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataProblem, match="is no dataset: it has no manifest.json. Build one"):
            main(Verify(folder))
