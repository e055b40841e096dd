"""The rules of this code base, each as a test: who imports whom, what is public, what the files must agree on."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vidbatch
from vidbatch import errors
from vidbatch.config import LabelConfig, PlanConfig
from vidbatch.enhancing.config import EnhanceConfig
from vidbatch.evaluation.config import EvaluateConfig
from vidbatch.training.config import TrainConfig
from vidbatch.training.restore_config import RestoreConfig

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "vidbatch"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

# A room may import what stands on an earlier line, and itself; rooms on one line do not import each other.
ROOMS: list[dict[str, tuple[str, ...]]] = [
    {"schema": ("schema",), "errors": ("errors",)},
    {"sampling": ("sampling", "windows", "epochs"), "storage": ("storage", "storage.*"), "yuv": ("yuv",)},
    {"transforms": ("input_spec", "transforms", "augment")},
    {"config": ("config",), "watch": ("watch",)},
    {
        "models": (
            "models",
            "model_names",
            "networks",
            "bundles",
            "stamp",
            "video_spec",
            "video_networks",
            "video_weights",
            "window_networks",
            "hf_models",
            "hf_processors",
            "published",
            "programs",
            "program_networks",
            "computing",
            "cores",
            "onnx_networks",
        ),
        "restoring": ("restoring", "restoring.*"),
        "metrics": ("metrics", "logs"),
        "results": ("results",),
    },
    {
        "source": ("source", "shards", "manifests"),
        "decode": ("decode", "decoding", "decoding.*"),
        "classify": ("classify",),
        "sink": ("sink", "publish"),
    },
    {"testing": ("testing",)},
    {"pipeline": ("pipeline", "plan", "blocks", "growth", "pools", "runs", "exported")},
    {"training": ("training", "training.*"), "enhancing": ("enhancing", "enhancing.*")},
    {"evaluation": ("evaluation", "evaluation.*")},
    {"cli": ("cli", "cli_shared", "cli_enhance", "cli_train")},
]
MAY_IMPORT = {
    "ray": {"source", "sink", "pipeline", "watch", "training", "enhancing"},
    "av": {"decode", "testing", "enhancing"},
    "torch": {"models", "classify", "yuv", "transforms", "restoring", "training", "enhancing"},
    "torchvision": {"models", "transforms"},
    "timm": {"models"},
    "transformers": {"models"},
    "huggingface_hub": {"models"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "cv2": {"restoring", "enhancing"},
    "sklearn": {"evaluation"},
    "mlflow": {"training"},
    "matplotlib": {"evaluation", "enhancing"},
    "s3fs": {"storage"},
    "botocore": {"storage"},
    "boto3": {"storage"},
    "azure": {"storage"},
    "adlfs": {"storage"},
    "google": {"storage", "models"},
    "gcsfs": {"storage"},
}
"""Libraries that only these rooms may import, at any depth of the file."""


def room_of(module: str) -> tuple[int, str]:
    for line, rooms in enumerate(ROOMS):
        for room, patterns in rooms.items():
            if any(module == p or (p.endswith("*") and module.startswith(p[:-1])) for p in patterns):
                return line, room
    raise AssertionError(f"vidbatch/{module}.py belongs to no room of ROOMS: say where it stands")


def file_of(module: str) -> Path:
    place = PACKAGE.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def imports_of(module: str) -> Iterator[str]:
    """Dotted names a module imports anywhere, type-checking blocks left out: `vidbatch.errors`, `ray.data`, ..."""
    tree = ast.parse(file_of(module).read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    line, room = room_of(module)
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] != "vidbatch" or parts[1] not in MODULES:
            continue
        other_line, other_room = room_of(parts[1])
        assert other_room == room or other_line < line, f"{module} must not import {parts[1]}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_only_where_they_belong(module: str) -> None:
    _, room = room_of(module)
    for name in imports_of(module):
        library = name.split(".")[0]
        assert room in MAY_IMPORT.get(library, {room}), f"{module} must not import {library}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("vidbatch", {"ray", "torch", "av", "pyarrow"}),
        ("vidbatch.cli", {"ray", "torch", "av"}),
        ("vidbatch.decode", {"torch", "ray"}),
        ("vidbatch.models", {"torch", "ray"}),
        ("vidbatch.epochs", {"torch", "ray", "av", "pyarrow"}),
        ("vidbatch.input_spec", {"torch", "ray", "av", "pyarrow"}),
        ("vidbatch.video_spec", {"torch", "ray", "av"}),
        ("vidbatch.pipeline", {"torch"}),
        ("vidbatch.training.run", {"torch", "ray", "av"}),
        ("vidbatch.enhancing.run", {"torch", "ray", "av"}),
    ],
)
def test_importing_a_module_does_not_load(module: str, never: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not never & loaded


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_readable(module: str) -> None:
    text = file_of(module).read_text()
    assert text.count("\n") <= 420
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{module}.{node.name} has {length} lines"


def exception_classes() -> list[type[Exception]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    return [value for value in found if value.__module__ == "vidbatch.errors"]


@pytest.mark.parametrize("error_class", exception_classes(), ids=lambda error_class: error_class.__name__)
def test_exceptions_survive_pickling(error_class: type[Exception]) -> None:
    arguments = ("corrupt", "bad data at 12") if error_class is errors.VideoError else ("what went wrong",)
    original = error_class(*arguments)
    copy = pickle.loads(pickle.dumps(original))
    assert type(copy) is error_class
    assert str(copy) == str(original)
    assert vars(copy) == vars(original)
    assert issubclass(error_class, errors.VidbatchError)


def test_error_kinds_are_one_closed_list_with_a_sentence_each() -> None:
    assert set(errors.ERROR_KINDS) == set(get_args(errors.ErrorKind))
    assert set(errors.ERROR_KINDS) >= errors.TRANSIENT_KINDS
    assert all(len(sentence.split()) >= 4 for sentence in errors.ERROR_KINDS.values())


def test_public_names_are_these() -> None:
    assert sorted(vidbatch.__all__) == [
        "__version__",
        "enhance",
        "evaluate",
        "label",
        "tables",
        "train",
        "train_enhancer",
    ]
    for name in vidbatch.__all__:
        assert getattr(vidbatch, name) is not None
    for function in (vidbatch.label, vidbatch.enhance, vidbatch.train, vidbatch.train_enhancer, vidbatch.evaluate):
        assert list(inspect.signature(function).parameters) == ["inputs", "output", "settings"]


def test_every_setting_is_described_and_is_a_flag() -> None:
    from vidbatch.cli import cli

    for name, settings in (
        ("label", LabelConfig), ("enhance", EnhanceConfig), ("train", TrainConfig), ("train-enhancer", RestoreConfig),
        ("evaluate", EvaluateConfig), ("plan", PlanConfig),
    ):  # fmt: skip
        flags = {parameter.name for parameter in cli.commands[name].params}
        assert set(settings.model_fields) <= flags
        assert all(field.description for field in settings.model_fields.values())


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [REPOSITORY / name for name in listed.splitlines() if (REPOSITORY / name).is_file()]


def test_no_file_names_a_package_index_or_a_place_on_somebodys_machine() -> None:
    forbidden = re.compile(
        r"py"
        r"pi\.org|python"
        r"hosted|registry\.np"
        r"mjs|deb\.deb"
        r"ian|security\.deb"
        r"ian|file:///(?:opt|home|root)"
        r"|(?<![\w./])/(?:work|root|home|opt/py"
        r"pi)/"
    )
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # pictures
            continue
        found = forbidden.search(text)
        assert found is None, f"{path.relative_to(REPOSITORY)} names {found and found.group()!r}"


def test_tests_use_no_mocks() -> None:
    for path in sorted((REPOSITORY / "tests").glob("*.py")):
        names = [
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        ]
        assert not [name for name in names if "mock" in name and not name.startswith("moto")], path.name


def locked() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_lock_pins_every_dependency_within_its_bounds() -> None:
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    versions = locked()
    for requirement in map(Requirement, wanted):
        if requirement.name != "vidbatch":
            version = versions.get(canonicalize_name(requirement.name))
            assert version is not None, f"run `make lock`: {requirement.name} is not locked"
            assert requirement.specifier.contains(version), f"run `make lock`: {requirement} got {version}"


def test_the_lock_holds_plain_pins_only() -> None:
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r'[\w.-]+==[\w.!+]+( ; sys_platform == "linux")?', line), line


def test_versions_agree() -> None:
    version = PYPROJECT["project"]["version"]
    assert vidbatch.__version__ == version
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE)


def make_targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def test_the_make_targets_exist_and_say_what_they_do() -> None:
    wanted = {"demo", "test", "test-long", "lint", "bench", "lock", "wheel", "job", "clean"}
    assert wanted <= make_targets()
    # without this run's make flags, and as if everything were installed
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--old-file=.venv/.installed", *sorted(wanted)]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["make", "help"], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    assert wanted <= {line.split()[0] for line in listed.stdout.splitlines()}


def test_ci_runs_exactly_what_a_developer_runs() -> None:
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["make lint", "make test"]


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "tests/CLIPS.md"])
def test_documented_commands_exist(document: str) -> None:
    from vidbatch.cli import cli

    text = (REPOSITORY / document).read_text()
    code = "\n".join(re.findall(r"`([^`\n]+)`", text) + re.findall(r"```(?:sh|console)?\n(.*?)```", text, re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code)) <= make_targets()
    assert set(re.findall(r"\bvidbatch (label|plan|status|enhance|train|evaluate|[a-z][a-z-]+)\b", code)) <= set(
        cli.commands
    )
    for script in re.findall(r"python ((?:jobs|tests|scripts|benchmarks)/\w+\.py)", code):
        assert (REPOSITORY / script).is_file(), script


@pytest.mark.parametrize(("name", "constant"), [("label", "model"), ("train", "model"), ("enhance", "steps")])
def test_recipes_import_and_take_the_command_lines_arguments(name: str, constant: str) -> None:
    sys.path.insert(0, str(REPOSITORY / "jobs"))
    try:
        recipe = importlib.import_module(name)
    finally:
        sys.path.remove(str(REPOSITORY / "jobs"))
    assert recipe.arguments(["a", "--output", "b"]) == [name, "a", "--output", "b"]
    setattr(recipe, constant.upper(), "chosen")
    recipe.INPUTS = ("s3://bucket/videos",)
    assert recipe.arguments([]) == [name, f"--{constant}", "chosen", "s3://bucket/videos"]
