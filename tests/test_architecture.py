"""The rules of the tree, read from the sources: who imports whom, who owns which dependency, sizes, names, dangers."""

import ast
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from sonograph import VERBS

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "shards", "trainers", "claims", "cluster")
MAY_IMPORT = {
    "pipelines": {"shards"},
    "shards": set(),
    "trainers": {"shards"},
    "claims": {"shards", "trainers"},
    "cluster": set(),
}
OWNERS = {
    "aiohttp": {"cluster/submit.py"},
    "argparse": {"cluster/head.py"},
    "av": {"shards/libav.py"},
    "deepspeed": {"trainers/engine.py", "trainers/zero.py"},
    "ffmpeg": {"shards/ffmpeg.py"},
    "indexed_gzip": {"pipelines/archive.py"},
    "mido": {"pipelines/published/midi.py"},
    "mlflow": {"trainers/mlflow_store.py"},
    "numba": {"shards/loading/bulk_read.py"},
    "pathspec": {"cluster/upload.py"},
    "pretty_midi": {"pipelines/published/midi.py"},
    "pyarrow": {"shards/manifest.py"},
    "pyloudnorm": {"pipelines/music/performance.py"},
    "ray": {"pipelines/workers.py", "trainers/launch.py", "cluster/submit.py"},
    "safetensors": {"trainers/checkpoint.py", "trainers/tensor_files.py", "shards/audiomae_vit.py"},
    "soundfile": {"shards/decode.py", "pipelines/music/synthesis.py"},
    "soxr": {"shards/decode.py", "pipelines/music/synthesis.py"},
    "torchaudio": {"shards/spectrum.py"},
    "tyro": {"sonograph.py", "trainers/command_line.py"},
    "yaml": {"pipelines/published/slakh_track.py", "pipelines/music/layouts/slakh.py"},
    "webdataset": {"shards/plain.py"},  # our tars are plain: neither side needs it
    "fsspec": {"shards/stores/remote.py"},
    "huggingface_hub": {"shards/pretrained.py"},
    "transformers": {"shards/codecs/neural.py"},
    "mlcroissant": set(),  # a description is JSON; what reads it needs no part of us
}
INNER_ARROWS = (  # (these modules, may not import these)
    ("shards.example", "shards"),
    ("shards.order", "shards"),
    ("pipelines.recording", "pipelines"),
    ("pipelines.plan", "ray"),
    ("trainers.train", "trainers.models"),
    ("trainers.train", "trainers.objectives"),
    ("trainers.models", "trainers.objectives"),
    ("trainers.models", "trainers.engine"),
    ("trainers.objectives", "trainers.engine"),
    ("trainers.objectives", "trainers.tracking"),
    ("trainers.evaluators", "trainers.engine"),
)
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE_CALLS = {
    *("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
UNSAFE_KEYWORDS = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}
MAY_PRINT = {"trainers/command_line.py"}  # it parses for `train`, and shows that command's help
COLUMNS = 100
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc", "manager", "tools"}


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Path to syntax tree of every file of ours under `folders`, by default of everything that is installed."""
    found = [path for folder in folders or PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]
    found += [] if folders else [path for path in (ROOT / "sonograph.py", ROOT / "demo.py") if path.exists()]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in found}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module a tree imports, anywhere in it; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def without_start_block(tree: ast.Module) -> ast.Module:
    """The module without `if __name__ == "__main__"`, where a command hands itself to `sonograph`."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
    return ast.Module(body=kept, type_ignores=[])


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def within(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


def test_packages_import_along_the_arrows_only():
    ours = {*PACKAGES, "sonograph", "demo", "tests"}
    wrong = [
        f"{path} imports {target}"
        for path, tree in sources(*PACKAGES).items()
        for target in imported(without_start_block(tree))
        if target.split(".")[0] in ours - MAY_IMPORT[path.split("/")[0]] - {path.split("/")[0]}
    ]
    assert wrong == []


@pytest.mark.parametrize(("user", "forbidden"), INNER_ARROWS)
def test_inside_a_package_arrows_point_one_way_too(user: str, forbidden: str):
    wrong = [
        f"{path} imports {target}"
        for path, tree in sources(*PACKAGES).items()
        for target in imported(without_start_block(tree))
        if within(module_name(path), user) and within(target, forbidden) and not within(target, user)
    ]
    assert wrong == []


def test_modules_import_each_other_in_no_circle():
    trees = {module_name(path): tree for path, tree in sources().items()}
    graph = {
        name: {target for target in imported(_at_start(tree)) if target in trees and target != name}
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def _at_start(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: no function bodies, nothing for type checkers only."""
    plain = (ast.FunctionDef, ast.AsyncFunctionDef)
    kept = [node for node in without_start_block(tree).body if not isinstance(node, plain)]
    kept = [node for node in kept if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body=kept, type_ignores=[])


@pytest.mark.parametrize("dependency", OWNERS)
def test_a_heavy_dependency_has_one_home(dependency: str):
    users = {path for path, tree in sources().items() if dependency in _used(tree)}
    assert users <= OWNERS[dependency]


def _used(tree: ast.Module) -> set[str]:
    """Top-level packages in use; `tyro.conf`, with which a command says how its own fields are read, is free."""
    used = {name.split(".")[0] for name in imported(tree) if not within(name, "tyro.conf")}
    if "tyro" in used and not re.search(r"\btyro\.(?!conf\b)|from tyro import", ast.unparse(tree)):
        used.remove("tyro")
    return used


def test_only_synthesis_starts_fluidsynth():
    started = {path for path, tree in sources().items() if re.search(r"[\[(]'fluidsynth'", ast.unparse(tree))}
    assert started <= {"pipelines/music/synthesis.py"}


def test_nothing_read_is_ever_executed():
    wrong = [f"{path}:{line} {what}" for path, tree in sources().items() for line, what in _dangers(tree)]
    assert wrong == []


def _dangers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    yield from ((1, f"imports {name}") for name in imported(tree) if name.split(".")[0] in UNSAFE_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {key.arg: key.value.value for key in node.keywords if isinstance(key.value, ast.Constant)}
            if name in UNSAFE_CALLS or (name == "torch.load" and given.get("weights_only") is not True):
                yield node.lineno, name
            unsafe = (key for key in given if key in UNSAFE_KEYWORDS and given[key] is UNSAFE_KEYWORDS[key])
            yield from ((node.lineno, f"{key}={given[key]}") for key in unsafe)


@pytest.mark.parametrize(
    "danger",
    [
        "import pickle",
        "eval(x)",
        "run(x, shell=True)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x)",
    ],
)
def test_the_search_for_dangers_finds_one(danger: str):
    assert list(_dangers(ast.parse(danger)))


def test_a_package_file_holds_its_docstring_and_no_code():
    inits = {path: tree for path, tree in sources(*PACKAGES).items() if path.endswith("__init__.py")}
    assert len(inits) >= len(PACKAGES)
    assert [path for path, tree in inits.items() if len(tree.body) != 1 or not ast.get_docstring(tree)] == []


def test_every_module_says_what_it_is():
    assert [path for path, tree in {**sources(), **sources("tests")}.items() if not ast.get_docstring(tree)] == []


def test_files_and_functions_stay_short():
    files = [path for path in {**sources(), **sources("tests")} if len((ROOT / path).read_text().splitlines()) > 400]
    lengths = {
        f"{path}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert files == []
    assert [name for name, lines in lengths.items() if lines > 50] == []
    assert statistics.median(lengths.values()) <= 10


def test_files_are_named_by_the_noun_they_hold():
    parts = {part for path in sources() for part in re.split(r"[/_.]", path)}
    assert parts & EMPTY_NAMES == set()


def test_only_commands_print():
    quiet = {path: tree for path, tree in sources().items() if not _is_command(tree) and path not in MAY_PRINT}
    calls = [(path, node) for path, tree in quiet.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [f"{path}:{node.lineno}" for path, node in calls if ast.unparse(node.func) == "print"] == []


def _is_command(tree: ast.Module) -> bool:
    top = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign | ast.If))
    return "COMMAND =" in top or "__main__" in top


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen_with_defaults_and_an_example(verb: str):
    shown = subprocess.run(
        [sys.executable, "-m", "sonograph", verb, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": str(COLUMNS), "HOME": str(Path.home())},
    )
    assert shown.returncode == 0, shown.stderr
    lines = [part for line in shown.stdout.splitlines() for part in textwrap.wrap(line, COLUMNS) or [""]]
    assert len(lines) <= 50
    assert f"    sonograph {verb}" in shown.stdout, "no example"
    assert "default" in shown.stdout or "--" not in shown.stdout.replace("--help", "").split("usage:")[1]


def test_the_overview_starts_with_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['sonograph', '--help']\n"
        "import sonograph\ntry:\n    sonograph.main()\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(shown.stderr.split()) - set(sys.stdlib_module_names) == {"sonograph"}
    assert all(verb in shown.stdout for verb in VERBS)


def test_no_file_names_a_registry_or_a_place_on_one_machine():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    hosts = "|".join(
        ("pypi" + r"\.org", "python" + "hosted", "deb" + r"\.debian", "registry" + r"\.npmjs", "/opt/" + "pypi")
    )
    places = r"(?<![\w.])/(?:work|root|home)/\w"
    texts = {name: (ROOT / name).read_bytes().decode(errors="ignore") for name in names if (ROOT / name).is_file()}
    assert texts
    assert [name for name, text in texts.items() if re.search(f"{hosts}|{places}", text)] == []
