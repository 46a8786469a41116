"""A build whose --out is a URL: the bytes of a local one, however often it is killed, and nothing sent twice."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import sonograph
from pipelines import build
from pipelines.plan import Work
from pipelines.staging import Carrier
from shards import inspect, verify
from shards.manifest import ShardRecord
from shards.problem import DataProblem, EnvironmentProblem, UsageProblem
from shards.stores.remote import Store
from tests.building import build_here, parsed
from tests.command import REPOSITORY
from tests.s3_server import S3, Fault, s3_in_environment

NOTES = Path(__file__).parent / "data" / "nsynth"
WORDS = ("nsynth", "--root", NOTES, "--shard-examples", 4)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_in_environment("music") as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONOGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build in a folder makes of the same notes."""
    out = tmp_path_factory.mktemp("local") / "nsynth"
    build_here(*WORDS, "--out", out)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every byte of the dataset `test`, but of what the corpus was found to be."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder / "test")}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def stored(s3: S3, name: str) -> dict[str, bytes]:
    return {
        key.removeprefix(f"{name}/"): content
        for key, content in s3.objects("music").items()
        if key.startswith(f"{name}/test/")
    }


def uploads(s3: S3) -> list[str]:
    """What was written since the last call, in order."""
    return [line.rpartition("/test/")[2] for line in s3.log() if line.startswith("PUT ") and "/test/" in line]


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"build-{tmp_path.name}"


def test_a_build_to_a_store_has_the_bytes_of_a_local_one_manifest_last_and_repeated_sends_nothing(
    s3: S3, local: Path, name: str, own_cache: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    s3.log()
    result = build_here(*WORDS, "--out", f"s3://music/{name}")
    sent = uploads(s3)
    assert result["output"] == f"s3://music/{name}"
    assert stored(s3, name) == bytes_of(local)
    assert sent[:2] == ["plan.json", "mel/column.json"]
    assert sent[-2:] == ["rejected.parquet", "manifest.json"]
    assert all(sent.index(f"mel/00000{n}.tar") < sent.index(f"index/00000{n}.parquet") for n in range(4))
    assert f"s3://music/{name}/test  16 recordings" in caplog.text
    assert str(own_cache) not in caplog.text
    assert _files(own_cache / "builds") == [own_cache / "builds" / ".lock"]
    assert build_here(*WORDS, "--out", f"s3://music/{name}") == result
    assert uploads(s3) == []


def started(words: Sequence[str]) -> subprocess.Popen:
    code = f"from tests.building import build_here; build_here(*{words!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)


def test_killed_and_repeated_it_ends_in_the_same_bytes_and_sends_only_what_is_missing(
    s3: S3, local: Path, name: str, own_cache: Path
):
    s3.log()
    s3.fail(Fault("slow", 1, "PUT", "mel/000002.tar", seconds=60.0))  # during which the builder dies
    words = [*map(str, WORDS), "--out", f"s3://music/{name}"]
    child = started(words)
    seen: list[str] = []
    while "mel/000002.tar" not in seen and child.poll() is None:
        seen += uploads(s3)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    s3.fail()
    there = stored(s3, name)
    assert "manifest.json" not in str(there.keys())
    assert "test/mel/000002.tar" not in there
    build_here(*words)
    again = uploads(s3)
    assert stored(s3, name) == bytes_of(local)
    assert not [sent for sent in again if "000000" in sent or "000001" in sent]
    assert _files(own_cache / "builds") == [own_cache / "builds" / ".lock"]


def test_two_builders_of_one_dataset_at_once_end_in_the_same_bytes(s3: S3, local: Path, name: str):
    words = [*map(str, WORDS), "--out", f"s3://music/{name}"]
    builders = [started(words) for _ in range(2)]
    assert [builder.wait() for builder in builders] == [0, 0]
    assert stored(s3, name) == bytes_of(local)


@pytest.mark.parametrize("lost", ["mel/000001.tar", "mel/000001.parquet", "index/000001.parquet"])
def test_a_cut_object_is_made_again(local: Path, name: str, lost: str, tmp_path: Path):
    build_here(*WORDS, "--out", f"memory://{name}")
    store = Store(f"memory://{name}/test")
    (tmp_path / "cut").write_bytes(store.read(lost)[:-100])
    store.upload(tmp_path / "cut", lost)
    build_here(*WORDS, "--out", f"memory://{name}")
    there = Store(f"memory://{name}")
    assert {file: there.read(file) for file in there.sizes("test")} == bytes_of(local)


def test_a_column_is_added_beside_those_that_are_there(s3: S3, name: str, tmp_path: Path):
    both = (*WORDS, "--features", "mel", "logmel_stats")
    build_here(*WORDS, "--out", f"s3://music/{name}")
    s3.log()
    build_here(*both, "--out", f"s3://music/{name}")
    sent = uploads(s3)
    build_here(*both, "--out", tmp_path / "local")
    assert stored(s3, name) == bytes_of(tmp_path / "local")
    assert not [file for file in sent if file.startswith(("mel/", "index/"))]


def test_verify_and_inspect_take_a_url_and_a_cut_object_is_found(s3: S3, name: str):
    url = f"s3://music/{name}"
    build_here(*WORDS, "--out", url)
    assert verify.main(sonograph.command_of("verify", [url]))["output"] == f"{url} is whole"
    shown = inspect.main(sonograph.command_of("inspect", [f"{url}/test"]))
    assert shown["metrics"] == {"test": {"examples": 16, "rejected": 0}}
    s3.client().put_object(Bucket="music", Key=f"{name}/test/mel/000001.tar", Body=bytes(5000))
    with pytest.raises(DataProblem, match=r"(?s)000001.tar: has 5,000.*Delete what is broken with"):
        verify.main(sonograph.command_of("verify", [url, "--repair"]))


def test_a_busy_store_delays_a_build_and_does_not_fail_it(s3: S3, local: Path, name: str):
    s3.fail(Fault("busy", 2, "PUT", "mel/000001.tar"), Fault("busy", 1, "GET"), Fault("lossy", 1, "PUT", "index/"))
    build_here(*WORDS, "--out", f"s3://music/{name}")
    s3.fail()
    assert stored(s3, name) == bytes_of(local)


def test_a_store_of_somebody_else_is_left_alone_and_a_refusing_one_is_named(s3: S3, name: str):
    s3.client().put_object(Bucket="music", Key=f"{name}/test/thesis.tex", Body=b"years of work")
    s3.log()
    with pytest.raises(DataProblem, match=f"s3://music/{name}/test is not empty and was not made by a build"):
        build_here(*WORDS, "--out", f"s3://music/{name}")
    assert uploads(s3) == []
    with pytest.raises(EnvironmentProblem, match=r"s3://nobody/x/train: there is no such bucket"):
        build_here(*WORDS, "--out", "s3://nobody/x")
    with pytest.raises(UsageProblem, match="https://host/x can only be read"):
        build_here(*WORDS, "--out", "https://host/x")


def test_a_dry_run_writes_nothing_and_speaks_of_the_store(s3: S3, name: str):
    s3.log()
    told = str(build_here(*WORDS, "--out", f"s3://music/{name}", "--dry-run")["output"])
    assert f"s3://music/{name}/test" in told
    assert uploads(s3) == []


def test_a_worker_on_another_machine_keeps_nothing_and_the_driver_takes_its_tables_from_the_store(
    s3: S3, local: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = tmp_path / "another machine"

    def run_there(function: Carrier, tasks: Sequence[Work], *, workers: int) -> Iterator[ShardRecord]:
        return (replace(function, root=elsewhere)(replace(task, folder=elsewhere / "test")) for task in tasks)  # type: ignore[misc]

    monkeypatch.setattr(build, "run_tasks", run_there)
    build.main(parsed(*WORDS, "--out", f"s3://music/{name}"))
    assert stored(s3, name) == bytes_of(local)
    assert _files(elsewhere) == []
