"""Files in a store: whole or absent, through a server that is busy, slow, or breaks off; no secret is told."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.problem import EnvironmentProblem, UsageProblem
from shards.store import write_json
from shards.stores import remote
from shards.stores.remote import Patience, Piece, Store, place_of, url_of
from tests.s3_server import S3, Fault, s3_in_environment

HURRIED = Patience(attempts=5, first_seconds=0.01, most_seconds=0.02)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_in_environment("music") as server:
        yield server


# Places


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("s3://bucket/nsynth/", "s3://bucket/nsynth"),
        (Path("S3://bucket/nsynth"), "s3://bucket/nsynth"),
        ("memory://x", "memory://x"),
        ("https://host:81/a/b", "https://host:81/a/b"),
        ("datasets/nsynth", None),
        ("/s3:/x", None),
        (Path("~"), None),
    ],
)
def test_a_url_is_known_as_one_also_when_pathlib_has_folded_it(named: str | Path, url: str | None):
    assert url_of(named) == url
    if url is not None:
        assert str(place_of(named) / "train") == f"{url}/train" == str(place_of(place_of(named)).absolute() / "train")


@pytest.mark.parametrize(
    "named",
    ["pipe:/touch x", "file:///etc/passwd", "s3://key:S3CRET@bucket/x", "simplecache::s3://b/x", "ftp://host/x"],
)
def test_other_schemes_chains_and_credentials_are_refused_unseen(named: str):
    with pytest.raises(UsageProblem) as refused:
        place_of(named)
    assert "S3CRET" not in str(refused.value)


@given(attempts=st.integers(1, 12), first=st.floats(0.01, 5), most=st.floats(0.01, 30))
def test_pauses_are_bounded_in_number_and_length_and_differ(attempts: int, first: float, most: float):
    pauses = list(Patience(attempts, first, most).pauses())
    assert len(pauses) == attempts - 1
    assert all(0 <= pause <= min(most, first * 2**tried) for tried, pause in enumerate(pauses))
    assert len(set(pauses)) == len(pauses)


# Files


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Store:
    return Store(f"{request.param}://music/files-{tmp_path.name}", HURRIED)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(20_000))
    return tmp_path / "noise"


def test_what_was_uploaded_is_listed_and_read_whole_and_in_pieces(store: Store, noise: Path, tmp_path: Path):
    store.upload(noise, "a/b/noise")
    content = noise.read_bytes()
    assert store.sizes("a") == {"a/b/noise": 20_000}
    assert store.sizes("b") == {}
    assert store.read("a/b/noise") == content
    store.download("a/b/noise", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    pieces = [Piece("a/b/noise", 5, 10), Piece("a/b/noise", 19_990, 20_010), Piece("a/b/noise", 30_000, 30_010)]
    assert store.ranges(pieces) == [content[5:10], content[19_990:], b""]
    with pytest.raises(FileNotFoundError):
        store.read("a/c")


def test_a_url_is_a_path_to_be_read_and_not_to_be_written(store: Store, noise: Path):
    store.upload(noise, "train/mel/noise.npy")
    folder = place_of(store.url) / "train"
    path = folder / "mel" / "noise.npy"
    assert (path.is_file(), folder.is_file(), (folder / "mel.json").exists()) == (True, False, False)
    assert path.stat().st_size == len(path.read_bytes()) == 20_000
    assert list(map(str, folder.glob("*/*.npy"))) == list(map(str, folder.rglob("*"))) == [str(path)]
    assert list(folder.glob("*.npy")) == []
    buffer = bytearray(30_000)
    with path.open("rb") as stream:
        got = stream.readinto(memoryview(buffer)[:7])
        while part := stream.readinto(memoryview(buffer)[got:]):
            got += part
    assert bytes(buffer[:got]) == noise.read_bytes()
    assert abs(path.stat().st_mtime - time.time()) < 3600
    with pytest.raises(UsageProblem, match="where this command does not write"):
        write_json(folder / "manifest.json", {})
    with pytest.raises(UsageProblem, match="where this command does not write"):
        path.open("wb")


@pytest.mark.parametrize("kind", ["busy", "cut", "slow"])
def test_a_server_that_is_busy_slow_or_breaks_off_delays_and_does_not_fail(
    s3: S3, noise: Path, tmp_path: Path, kind: str
):
    store, content = Store("s3://music/busy", HURRIED), noise.read_bytes()
    trouble = Fault(kind, 2, path="/music/busy", seconds=0.05)
    if kind != "cut":
        s3.fail(trouble)
    store.upload(noise, kind)
    s3.fail(trouble)
    assert store.read(kind) == content
    s3.fail(trouble)
    assert store.ranges([Piece(kind, 0, 20_000)]) == [content]
    s3.fail(trouble)
    store.download(kind, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    s3.fail()


def test_an_object_that_arrived_in_part_is_sent_again(s3: S3, noise: Path):
    s3.fail(Fault("lossy", 1, "PUT"))
    Store("s3://music/lossy", HURRIED).upload(noise, "noise")
    assert Store("s3://music/lossy", HURRIED).read("noise") == noise.read_bytes()


def test_a_store_that_stays_busy_is_asked_a_bounded_number_of_times(s3: S3, noise: Path):
    s3.log()
    s3.fail(Fault("busy", 1000))
    with pytest.raises(EnvironmentProblem, match=r"s3://music/x/noise could not be reached in 5 attempts.*repeat the"):
        Store("s3://music/x", HURRIED).upload(noise, "noise")
    s3.fail()
    assert s3.log() == ["PUT /music/x/noise"] * 5


def test_what_is_forbidden_is_said_at_once_and_without_a_secret(s3: S3, noise: Path):
    s3.log()
    s3.fail(Fault("denied", 1000))
    with pytest.raises(EnvironmentProblem, match=r"the store refuses this.*403.*AWS_PROFILE") as refused:
        Store("s3://music/x", HURRIED).upload(noise, "noise")
    s3.fail()
    assert len(s3.log()) == 1
    assert "S3CRET" not in str(refused.value)


def test_a_bucket_that_is_not_there_and_a_store_that_can_only_be_read_are_named(s3: S3, noise: Path):
    nowhere = Store("s3://nowhere/x", HURRIED)
    for act in (lambda: nowhere.upload(noise, "n"), lambda: nowhere.read("n"), lambda: nowhere.sizes("")):
        with pytest.raises(EnvironmentProblem, match="there is no such bucket.*Correct the name"):
            act()
    with pytest.raises(UsageProblem, match="can only be read"):
        Store("https://host/x", HURRIED).upload(noise, "noise")


def test_files_are_removed_by_their_names_and_no_others(store: Store, noise: Path):
    for name in ("a/1", "a/2", "b"):
        store.upload(noise, name)
    store.remove(["a/2", "a/1"])
    assert store.sizes("") == {"b": 20_000}
    with pytest.raises(UsageProblem, match="can only be read"):
        Store("https://host/x").remove(["b"])


# A wrong address


@pytest.fixture
def anew(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that no store has answered yet."""
    remote._client.cache_clear()
    yield monkeypatch
    remote._client.cache_clear()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid:9000"])
def test_an_address_at_which_nobody_answers_is_told_after_two_attempts(
    address: str, anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    anew.setenv("AWS_ENDPOINT_URL_S3", address)
    with pytest.raises(
        EnvironmentProblem, match=rf"no store answers: .*AWS_ENDPOINT_URL_S3 is {address}\), then repeat"
    ):
        Store("s3://music/x").read("noise")
    assert [record.message.rpartition("; ")[2][:9] for record in caplog.records] == ["attempt 2"]


def test_a_web_server_that_is_not_there_is_told_and_not_taken_for_a_missing_file(anew: pytest.MonkeyPatch):
    for act in (lambda store: store.read("noise"), lambda store: store.stat("noise")):
        with pytest.raises(EnvironmentProblem, match="http://127.0.0.1:9/x/noise: no store answers"):
            act(Store("http://127.0.0.1:9/x"))


def test_who_takes_the_connection_and_says_nothing_is_asked_once(anew: pytest.MonkeyPatch):
    anew.setattr(remote, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        anew.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(EnvironmentProblem, match=r"no store answers: Read timeout"):
            Store("s3://music/x").read("noise")


def test_a_store_that_has_answered_and_one_that_another_has_spoken_to_are_waited_for(
    s3: S3, anew: pytest.MonkeyPatch, noise: Path
):
    Store("s3://music/x").upload(noise, "noise")
    hurried = Store("s3://music/x", HURRIED)
    s3.fail(Fault("cut", 3, "GET"))
    assert hurried.read("noise") == noise.read_bytes()
    remote._client.cache_clear()
    anew.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentProblem, match="could not be reached in 5 attempts"):
        hurried.known().read("noise")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:9000"}, r"address is none: Invalid endpoint.*http://127.0.0.1:9000"),
        ({"AWS_PROFILE": "nobody"}, r"The config profile \(nobody\) could not be found.*AWS_PROFILE"),
        (
            {"AWS_ACCESS_KEY_ID": "", "HOME": "/nonexistent"},
            r"(Unable to locate|Partial) credentials.*AWS_ACCESS_KEY_ID",
        ),
    ],
)
def test_settings_that_cannot_serve_are_told_at_once_with_what_sets_them(
    changed: dict[str, str], sentence: str, anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name, value in changed.items():
        anew.setenv(name, value)
    with pytest.raises(EnvironmentProblem, match=sentence):
        Store("s3://music/x").read("noise")
    assert caplog.records == []
