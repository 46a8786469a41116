"""Commands beside build and train on URLs: what they make is what they make in folders, or they refuse at once."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlcroissant
import pytest

import sonograph
from pipelines import render
from shards import describe, drop_feature, merge, split
from shards.manifest import MANIFEST, Manifest
from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.store import canonical_json, sha256_of
from shards.stores.remote import Store
from shards.verify import verify
from tests import command
from tests.building import build_here, everything_below
from tests.copies import run, write_labelled
from tests.s3_server import S3, Fault, s3_in_environment

NOTES = Path(__file__).parent / "data" / "nsynth"
WORDS = ("nsynth", "--root", NOTES, "--shard-examples", 4, "--features", "mel", "logmel_stats")
GENRES = {"genre": {"type": "int", "classes": ["folk", "jazz"]}}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_in_environment("music") as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONOGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset `test`, of two columns."""
    out = tmp_path_factory.mktemp("notes") / "nsynth"
    build_here(*WORDS, "--out", out)
    return out


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [None if index == 4 else {"genre": index % 2} for index in range(10)]
    return write_labelled(tmp_path_factory.mktemp("songs") / "songs" / "train", rows, labels=GENRES)


@pytest.fixture
def url(tmp_path: Path, s3: S3) -> str:
    s3.log()
    return f"s3://music/{tmp_path.name}"


def put(folder: Path, url: str) -> str:
    for name in everything_below(folder):
        if (folder / name).is_file() and not name.endswith(".lock"):
            Store(url).upload(folder / name, name)
    return url


def stored(url: str) -> dict[str, bytes]:
    return {name: Store(url).read(name) for name in Store(url).sizes("")}


def copied(folder: Path) -> dict[str, bytes]:
    """All bytes below a folder, but for the commands that manifests name and what these were made of."""
    files = {name: content for name, content in everything_below(folder).items() if (folder / name).is_file()}
    made = {name: content for name, content in files.items() if not name.endswith((MANIFEST, ".lock"))}
    return made | {path.parent.name: Manifest.read(path.parent).fingerprint.encode() for path in folder.rglob(MANIFEST)}


# drop-feature


def test_a_dropped_column_leaves_what_it_leaves_in_a_folder_and_the_manifest_goes_up_before_anything_is_deleted(
    s3: S3, notes: Path, url: str, tmp_path: Path
):
    put(notes, url)
    build_here(*WORDS, "--out", tmp_path / "here")
    s3.log()
    run(drop_feature, "drop-feature", url, "logmel_stats")
    writes = [line.split()[0] for line in s3.log() if not line.startswith(("GET", "HEAD"))]
    run(drop_feature, "drop-feature", tmp_path / "here", "logmel_stats")
    here = {name: content for name, content in everything_below(tmp_path / "here" / "test").items() if content}
    assert stored(f"{url}/test") == here
    assert writes == ["PUT", "POST"]
    with pytest.raises(UsageProblem, match="has no column 'logmel_stats', so nothing was dropped"):
        run(drop_feature, "drop-feature", url, "logmel_stats")
    with pytest.raises(UsageProblem, match="'mel' is the only column"):
        run(drop_feature, "drop-feature", url, "mel")


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_drop_that_was_refused_in_the_middle_is_ended_by_a_repeat(
    s3: S3, notes: Path, url: str, is_stored: bool, tmp_path: Path
):
    place: Path | str = put(notes, url)
    if not is_stored:
        place = tmp_path / "here"
        build_here(*WORDS, "--out", place)
    left = {name: content for name, content in everything_below(notes / "test" / "mel").items() if content}
    run(drop_feature, "drop-feature", place, "mel")
    for name, content in left.items():  # what a kill between the two would leave
        (tmp_path / "file").write_bytes(content)
        if is_stored:
            Store(url).upload(tmp_path / "file", f"test/mel/{name}")
        else:
            (tmp_path / "here" / "test" / "mel").mkdir(exist_ok=True)
            (tmp_path / "here" / "test" / "mel" / name).write_bytes(content)
    run(drop_feature, "drop-feature", place, "mel")
    with pytest.raises(UsageProblem, match="has no column 'index'"):
        run(drop_feature, "drop-feature", place, "index")
    assert list(verify(sonograph.command_of("verify", [str(place)]).dataset / "test")) == []


def test_a_store_that_forbids_deleting_is_named_and_nothing_reads_the_column(s3: S3, notes: Path, url: str):
    put(notes, url)
    s3.fail(Fault("denied", 100, "POST"))
    with pytest.raises((EnvironmentProblem, UsageProblem), match="the store refuses this"):
        run(drop_feature, "drop-feature", url, "mel")
    s3.fail()
    assert list(json.loads(stored(url)[f"test/{MANIFEST}"])["features"]) == ["logmel_stats"]


# describe


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_dataset_in_a_store_is_described_beside_its_splits(s3: S3, notes: Path, url: str, tmp_path: Path):
    put(notes, url)
    assert run(describe, "describe", url)["output"] == f"{url}/{describe.CARD}"
    files = stored(url)
    (tmp_path / describe.CROISSANT).write_bytes(files[describe.CROISSANT])
    described = mlcroissant.Dataset(tmp_path / describe.CROISSANT).metadata
    (manifest,) = [found for found in described.distribution if found.name == "manifest-test"]
    assert (manifest.content_url, manifest.sha256) == (f"test/{MANIFEST}", sha256_of(notes / "test" / MANIFEST))
    assert described.date_published.year >= 2024
    assert b"test/mel/*.tar" in files[describe.CARD]
    run(describe, "describe", url)  # its own files are replaced
    (tmp_path / "card").write_text("somebody else's")
    Store(url).upload(tmp_path / "card", describe.CARD)
    with pytest.raises(DataProblem, match=r"README.md exists and was not written by sonograph describe"):
        run(describe, "describe", url)


def test_a_description_in_a_folder_names_what_lies_in_a_store_by_its_url(notes: Path, url: str, tmp_path: Path):
    put(notes, url)
    run(describe, "describe", url, "--out", tmp_path / "about")
    described = json.loads((tmp_path / "about" / describe.CROISSANT).read_text())
    assert f"{url}/test/{MANIFEST}" in [found.get("contentUrl") for found in described["distribution"]]
    with pytest.raises(UsageProblem, match="does not lie below"):
        run(describe, "describe", notes, "--out", url)


# merge and split


def test_datasets_in_stores_are_merged_into_the_bytes_of_those_in_folders(
    s3: S3, songs: Path, notes: Path, url: str, tmp_path: Path
):
    put(songs, f"{url}/songs/train")
    put(notes / "test", f"{url}/notes/test")
    options = ("--split", "all", "--columns", "mel")
    run(merge, "merge", f"{url}/songs", f"{url}/notes", *options, "--out", tmp_path / "from_store")
    run(merge, "merge", songs.parent, notes, *options, "--out", tmp_path / "from_folders")
    assert copied(tmp_path / "from_store") == copied(tmp_path / "from_folders")
    fetched = [line for line in s3.log() if line.startswith("GET") and line.endswith(".tar")]
    assert len(fetched) == len(set(fetched)) > 0
    assert list(verify(tmp_path / "from_store" / "all")) == []


def test_a_dataset_in_a_store_is_divided_into_the_bytes_of_one_in_a_folder(songs: Path, url: str, tmp_path: Path):
    put(songs, f"{url}/train")
    run(split, "split", f"{url}/train", "--by", "genre", "--out", tmp_path / "from_store")
    run(split, "split", songs, "--by", "genre", "--out", tmp_path / "from_folder")
    assert copied(tmp_path / "from_store") == copied(tmp_path / "from_folder")


@pytest.mark.parametrize("name", ["mel/000001.tar", "mel/000001.parquet", "index/000001.parquet"])
def test_a_spoiled_object_or_copy_of_one_is_not_copied(
    songs: Path, url: str, name: str, own_cache: Path, tmp_path: Path
):
    put(songs, f"{url}/train")
    words = ("split", f"{url}/train", "--by", "genre", "--out")
    run(split, *words, tmp_path / "first")
    digest = sha256_of(songs / name)
    copy = own_cache / "files" / digest[:2] / digest
    spoiled = bytearray(copy.read_bytes())
    spoiled[600 if name.endswith("tar") else len(spoiled) // 2] ^= 1
    copy.write_bytes(spoiled)
    with pytest.raises(DataProblem, match=rf"{name} cannot be copied: .* has been dropped now"):
        run(split, *words, tmp_path / "second")
    run(split, *words, tmp_path / "second")  # the copy was dropped, and is fetched anew
    assert copied(tmp_path / "first") == copied(tmp_path / "second")
    copy.unlink()
    (tmp_path / "spoiled").write_bytes(spoiled)
    Store(f"{url}/train").upload(tmp_path / "spoiled", name)
    with pytest.raises(DataProblem, match="do not match their SHA-256"):
        run(split, *words, tmp_path / "third")


# What does not write to a store


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (merge, ("merge", "datasets/a", "datasets/b")),
        (split, ("split", "datasets/a", "--by", "genre")),
        (render, ("render", "nsynth")),
    ],
)
@pytest.mark.parametrize("out", ["s3://music/out", "memory://out"])
def test_what_writes_to_folders_alone_refuses_a_url_before_it_asks_the_store(
    s3: S3, module: object, words: tuple[str, ...], out: str
):
    s3.log()
    with pytest.raises(UsageProblem, match=rf"--out {out} lies in a store, .* Pass a folder"):
        run(module, *words, "--out", out)
    assert s3.log() == []


# The record of a command


def test_the_record_of_a_command_is_stored_beside_its_outputs_and_a_failure_replaces_it(notes: Path, url: str):
    put(notes, url)
    words = ("describe", url, "--out", url)
    assert command.sonograph(*words).returncode == 0
    assert json.loads(stored(url)["RESULT.json"]) == {
        "status": "ok",
        "output": f"{url}/{describe.CARD}",
        "metrics": {"examples": 16},
    }
    for place, kept in ((url, {"status": "failed"}), (f"{url}-elsewhere", None)):
        described = sonograph.command_of("describe", [url, "--out", place])
        sonograph._write_record(described, {"status": "failed"})
        assert stored(place).get("RESULT.json") == (kept and canonical_json(kept, indent=1) + b"\n")
