"""What a newcomer gets: the pinned set is exact and complete, the wheel is whole, set-up says what is missing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("claims", "cluster", "pipelines", "shards", "trainers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"ffmpeg": "ffmpeg-python", "nnAudio": "nnaudio", "yaml": "pyyaml", "sklearn": "scikit-learn"}
RUN_NOT_IMPORTED = {"beartype", "build", "hatchling", "mypy", "pytest-timeout", "ruff"}
NOT_INSTALLED = {"umap"}  # of the extra `maps`: a map is drawn without it, too
WITHOUT_DEPENDENCIES = "vit-pytorch"  # one module of it is compared with ours


def test_the_wheel_holds_every_file_of_every_package(tmp_path: Path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    files = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.*")}
    ours = {name for name in files if "__pycache__" not in name and (ROOT / name).is_file()}
    assert {name for name in names if ".dist-info/" not in name} == ours | {"sonograph.py", "demo.py"}
    assert "sonograph = sonograph:main" in entry_points


def test_constraints_pin_all_that_is_needed_and_nothing_else():
    assert pins() == {name: metadata.version(name).partition("+")[0] for name in needed()}


def test_constraints_are_exact_sorted_and_name_no_build():
    lines = constraint_lines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert [line.partition("==")[0] for line in lines] == sorted(pins())


def test_every_import_is_declared_and_every_dependency_is_used():
    extras = PROJECT["optional-dependencies"]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras["codecs"]]}
    for_tests = {canonicalize_name(Requirement(line).name) for line in [*extras["dev"], *extras["bench"]]}
    assert imported(ROOT / name for name in (*PACKAGES, "sonograph.py", "demo.py")) - NOT_INSTALLED == declared
    in_tests = imported([ROOT / "tests"]) - declared
    assert in_tests - {"pytest", WITHOUT_DEPENDENCIES} == for_tests - RUN_NOT_IMPORTED - {"sonograph", "pytest"}


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    return dict(line.split("==") for line in constraint_lines())


def needed() -> set[str]:
    """Every distribution that the declared ones ask for on this machine, by its canonical name."""
    found: set[str] = {WITHOUT_DEPENDENCIES}
    waiting = [Requirement(line) for line in [*PROJECT["dependencies"], "sonograph[dev]"]]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if requirement.name != "sonograph":
            found.add(canonicalize_name(requirement.name))
        waiting += _asked_by(requirement)
    return found


def _asked_by(requirement: Requirement) -> Iterator[Requirement]:
    if requirement.name == "sonograph":
        yield from (
            Requirement(line) for extra in requirement.extras for line in PROJECT["optional-dependencies"][extra]
        )
        return
    for line in metadata.requires(requirement.name) or []:
        asked = Requirement(line)
        if any(asked.marker is None or asked.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, "")):
            yield asked


def imported(places: Iterator[Path] | list[Path]) -> set[str]:
    """Canonical names of the distributions whose packages are imported, ours and the standard library's left out."""
    files = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    ours = {*PACKAGES, "sonograph", "demo", "tests", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    names = {name.split(".")[0] for path in files for name in _import_lines(ast.parse(path.read_text()))}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names - ours - set(sys.stdlib_module_names)}


def _import_lines(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A new folder with what set-up reads."""
    for name in ("Makefile", "set-up.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *programs: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make .venv/ready` on a machine that has the given programs and a few that every machine has."""
    machine = folder / "bin"
    machine.mkdir()
    for name in ("bash", "sh", "make", "cat", "cksum", "dirname", "mkdir", "touch", *programs):
        (machine / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is not here"))
    (machine / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    return subprocess.run(
        [machine / "make", ".venv/ready"],
        cwd=folder,
        env={"PATH": str(machine), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_wrong_python_gives_one_clear_sentence(clone: Path):
    result = make(clone, PYTHON="/bin/false")
    assert result.returncode != 0
    assert result.stderr.startswith("sonograph: Python 3.11 or 3.12 with venv is needed and /bin/false is not that")
    assert not (clone / ".venv").exists()


def test_without_the_debian_packages_or_the_right_to_install_them_the_command_is_named(clone: Path):
    result = make(clone, "id")
    assert result.returncode != 0
    assert "sudo apt-get install ffmpeg fluidsynth fluid-soundfont-gm" in result.stderr
    assert not (clone / ".venv").exists()


def test_a_package_that_cannot_be_installed_leaves_the_set_up_unfinished_and_says_so(clone: Path):
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    result = make(clone, "ffmpeg", "fluidsynth", "id", **offline)
    assert result.returncode != 0
    assert "pip could not install 'torch'" in result.stderr
    assert "There is no C++ compiler here" in result.stderr
    assert not (clone / ".venv" / "ready").exists()


def test_a_second_start_installs_nothing(clone: Path):
    (clone / ".venv").mkdir()
    files = (clone / "pyproject.toml").read_bytes() + (clone / "constraints.txt").read_bytes()
    known = subprocess.run(["cksum"], input=files, capture_output=True, check=True).stdout
    (clone / ".venv" / "installed").write_bytes(known)
    began = time.monotonic()
    result = make(clone, "ffmpeg", "fluidsynth", "id")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 2
    assert not (clone / ".venv" / "bin").exists()
    again = subprocess.run(["make", "-q", ".venv/ready"], cwd=clone)
    assert again.returncode == 0


def test_continuous_integration_runs_what_a_newcomer_runs():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    planned = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert [word for word in ("ruff check", "ruff format --check", "mypy", "pytest") if word not in planned] == []
