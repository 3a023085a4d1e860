"""Architecture of the package: which package may import which, on how many levels."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fftnet"
FILES = {
    ".".join(("fftnet", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SHARED = {
    *("fftnet.devices", "fftnet.errors", "fftnet.fields", "fftnet.locks", "fftnet.protocols"),
    "fftnet.serialization",
}
"""Small modules that every package may import; together they are the lowest level."""
ENTRY_POINTS = {"fftnet", "fftnet.__main__", "fftnet.cli"}
"""The highest level, which may import everything below."""
DATA = {"fftnet.data", "fftnet.utils.dataset", "fftnet.utils.tokenizer"}
TRAINING = {"fftnet.training", "fftnet.utils.trainer"}
MODEL = {"fftnet.model", "fftnet.ops"}
METRICS = {"fftnet.metrics"}
MAX_LEVELS = 8
ALLOWED: dict[str, set[str]] = {
    "fftnet.errors": set(),
    "fftnet.locks": set(),
    "fftnet.fields": set(),
    "fftnet.protocols": set(),
    "fftnet.serialization": {"fftnet.errors"},
    "fftnet.devices": {"fftnet.errors"},
    "fftnet.testing": set(),
    "fftnet.wait_policy": set(),
    "fftnet.ops": {"fftnet.errors", "fftnet.wait_policy"},
    "fftnet.model": SHARED | {"fftnet.ops"},
    "fftnet.data": SHARED,
    "fftnet.utils.tokenizer": SHARED | {"fftnet.data"},
    "fftnet.utils.dataset": SHARED | {"fftnet.data"},
    "fftnet.metrics": SHARED,
    "fftnet.training": SHARED | METRICS,
    "fftnet.utils.trainer": SHARED | METRICS | {"fftnet.training"},
    "fftnet.utils": set(),
    "fftnet.tasks": SHARED | METRICS | DATA | MODEL,
    "fftnet.evaluation": SHARED | METRICS | DATA | MODEL | {"fftnet.tasks"},
    "fftnet.hf": SHARED | MODEL | {"fftnet.data", "fftnet.utils.tokenizer"},
    "fftnet.export": SHARED | MODEL | {"fftnet.utils.tokenizer"},
    "fftnet.demo": SHARED | MODEL | {"fftnet.data", "fftnet.export", "fftnet.utils.tokenizer"},
    "fftnet.api": SHARED | METRICS | DATA | MODEL | TRAINING | {"fftnet.tasks", "fftnet.evaluation"},
    "fftnet.lm_eval": SHARED | MODEL | {"fftnet.api", "fftnet.evaluation", "fftnet.hf", "fftnet.tasks"},
    "fftnet.serving": SHARED | MODEL | {"fftnet.api", "fftnet.utils.tokenizer"},
    "fftnet.cli": {"fftnet"},
    "fftnet.__main__": {"fftnet.cli"},
    "fftnet": {"fftnet"},
}
"""Package or module to those that it may import, in addition to itself."""


def package(module: str) -> str:
    """Return the entry of ``ALLOWED`` for a module: the longest name that is a prefix."""
    return max((name for name in ALLOWED if module == name or module.startswith(f"{name}.")), key=len)


@cache
def level(name: str) -> int:
    """Return the level of an entry of ``ALLOWED``, from 1; a circle of imports ends in a RecursionError."""
    if name in SHARED:
        return 1
    below = ALLOWED.keys() - ENTRY_POINTS if name in ENTRY_POINTS else ALLOWED[name]
    return 1 + max(map(level, below), default=0)


def imports(module: str) -> set[str]:
    """Return the modules of the package that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            # An imported name is a submodule, or something that the module defines.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "fftnet"}


def reached(module: str) -> set[str]:
    """Return the modules that importing a module loads, except the ``__init__`` of the package."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name in FILES and name != "fftnet":
            seen.add(name)
            waiting += [*imports(name), name.rpartition(".")[0]]
    return seen


@pytest.mark.parametrize("module", FILES)
def test_imports_are_allowed(module: str) -> None:
    own = package(module)
    for name in imports(module):
        assert name in FILES, f"{module} imports {name}, which does not exist"
        allowed = own == package(name) or any(name == p or name.startswith(f"{p}.") for p in ALLOWED[own])
        assert allowed, f"{module} may not import {name}"


def test_the_longest_chain_of_imports_has_eight_levels() -> None:
    assert max(map(level, ALLOWED)) <= MAX_LEVELS
    assert level("fftnet.cli") > level("fftnet.api") > level("fftnet.tasks") > level("fftnet.model")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("fftnet.utils.trainer", METRICS | TRAINING),
        ("fftnet.training.checkpointer", METRICS | TRAINING),
        ("fftnet.utils.dataset", DATA),
    ],
)
def test_training_and_data_load_neither_model_nor_each_other(module: str, allowed: set[str]) -> None:
    loaded = {package(name) for name in reached(module)}
    assert package(module) in loaded
    assert loaded <= SHARED | allowed | {"fftnet.utils"}


def test_the_search_for_imports_finds_indirect_ones() -> None:
    assert "fftnet.model.fftnet_model" in reached("fftnet.tasks")
    assert "fftnet.training.distributed" in reached("fftnet.cli.train")


def test_the_package_imports_neither_benchmarks_nor_experiments_nor_tests() -> None:
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"benchmarks", "experiments", "tests"}, path


def test_utils_holds_three_modules() -> None:
    names = {path.name for path in (PACKAGE / "utils").glob("*.py")}
    assert names == {"__init__.py", "tokenizer.py", "dataset.py", "trainer.py"}
