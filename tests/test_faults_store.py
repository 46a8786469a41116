"""A build into a store that is killed at each of its uploads, or whose requests fail one after the other."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.problem import EnvironmentProblem
from tests.building import build_here
from tests.command import REPOSITORY
from tests.s3_server import S3, Fault, s3_in_environment

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
NOTES = Path(__file__).parent / "data" / "nsynth"
WORDS = ("nsynth", "--root", NOTES, "--shard-examples", 8)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_in_environment("music") as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONOGRAPH_CACHE", str(tmp_path / "cache"))


def stored(s3: S3, name: str) -> dict[str, bytes]:
    found = s3.objects("music").items()
    return {key.removeprefix(f"{name}/"): content for key, content in found if key.startswith(f"{name}/test/")}


def requests(s3: S3, method: str) -> list[str]:
    """Paths in the bucket that were asked for since the last call."""
    return [line.split()[1] for line in s3.log() if line.startswith(f"{method} ")]


@pytest.fixture(scope="module")
def undisturbed(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONOGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        s3.log()
        build_here(*WORDS, "--out", "s3://music/whole")
    return stored(s3, "whole")


def test_killed_in_each_of_its_uploads_it_ends_in_the_same_objects(s3: S3, undisturbed: dict[str, bytes]):
    for number, object_name in enumerate(sorted(undisturbed)):
        name = f"killed-{number}"
        s3.fail(Fault("slow", 1, "PUT", object_name, seconds=600.0))  # in which the builder dies
        words = [*map(str, WORDS), "--out", f"s3://music/{name}"]
        code = f"from tests.building import build_here; build_here(*{words!r})"
        builder = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
        s3.log()
        seen: list[str] = []
        while not any(path.endswith(object_name) for path in seen) and builder.poll() is None:
            seen += requests(s3, "PUT")
        builder.kill()
        assert builder.wait() == -signal.SIGKILL
        s3.fail()
        left = stored(s3, name)
        assert object_name not in left and "test/manifest.json" not in left
        assert {path: undisturbed[path] for path in left} == left
        build_here(*WORDS, "--out", f"s3://music/{name}")
        sent = {path.removeprefix(f"/music/{name}/") for path in requests(s3, "PUT")}
        assert stored(s3, name) == undisturbed
        whole = {path[-14:-8] for path in left if path.startswith("test/index/")}  # numbers of finished shards
        assert not [path for path in sent if path[-14:-8] in whole and path.startswith("test/")]


@pytest.mark.parametrize("kind", ["busy", "cut", "slow", "lossy"])
def test_a_request_that_fails_delays_and_changes_nothing(s3: S3, undisturbed: dict[str, bytes], kind: str):
    for number, object_name in enumerate(sorted(undisturbed)):
        name = f"{kind}-{number}"
        method = "PUT" if kind == "lossy" else ""
        s3.fail(*(Fault(kind, 1, method, object_name, seconds=0.2) for _ in range(2)))
        build_here(*WORDS, "--out", f"s3://music/{name}")
        s3.fail()
        assert stored(s3, name) == undisturbed


def test_a_store_that_begins_to_refuse_stops_the_build_and_lets_it_continue(s3: S3, undisturbed: dict[str, bytes]):
    for number, object_name in enumerate(sorted(undisturbed)):
        name = f"refused-{number}"
        s3.fail(Fault("denied", 1000, "PUT", object_name))
        with pytest.raises(EnvironmentProblem, match="the store refuses this"):
            build_here(*WORDS, "--out", f"s3://music/{name}")
        s3.fail()
        assert "test/manifest.json" not in stored(s3, name)
        build_here(*WORDS, "--out", f"s3://music/{name}")
        assert stored(s3, name) == undisturbed
