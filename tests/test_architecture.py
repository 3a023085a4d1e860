"""The ladder of the package: imports run down it only, and what the trainer is handed it does not import."""

import ast
from pathlib import Path

import pytest

import fftnet.utils

PACKAGE = Path(__file__).parents[1] / "fftnet"
FILES = {
    ".".join(("fftnet", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
GROUND = {
    *("fftnet.devices", "fftnet.errors", "fftnet.fields", "fftnet.locks", "fftnet.protocols"),
    "fftnet.serialization",
}
DATA = {"fftnet.data", "fftnet.utils.dataset", "fftnet.utils.tokenizer"}
TRAINING = {"fftnet.training", "fftnet.utils.trainer"}
MODEL = {"fftnet.model", "fftnet.ops"}
METRICS = {"fftnet.metrics"}
LADDER: dict[str, set[str]] = {
    "fftnet.errors": set(),
    "fftnet.locks": set(),
    "fftnet.fields": set(),
    "fftnet.protocols": set(),
    "fftnet.serialization": {"fftnet.errors"},
    "fftnet.devices": {"fftnet.errors"},
    "fftnet.testing": set(),
    "fftnet.wait_policy": set(),
    "fftnet.ops": {"fftnet.errors", "fftnet.wait_policy"},
    "fftnet.model": GROUND | {"fftnet.ops"},
    "fftnet.utils.tokenizer": GROUND | {"fftnet.data"},
    "fftnet.data": GROUND,
    "fftnet.utils.dataset": GROUND | DATA,
    "fftnet.metrics": GROUND,
    "fftnet.training": GROUND | METRICS,
    "fftnet.utils.trainer": GROUND | METRICS | TRAINING,
    "fftnet.utils": set(),
    "fftnet.tasks": GROUND | METRICS | DATA | MODEL,
    "fftnet.evaluation": GROUND | METRICS | DATA | MODEL | {"fftnet.tasks"},
    "fftnet.hf": GROUND | MODEL | {"fftnet.data", "fftnet.utils.tokenizer"},
    "fftnet.export": GROUND | MODEL | {"fftnet.utils.tokenizer"},
    "fftnet.demo": GROUND | MODEL | {"fftnet.data", "fftnet.export", "fftnet.utils.tokenizer"},
    "fftnet.api": GROUND | METRICS | DATA | MODEL | TRAINING | {"fftnet.tasks", "fftnet.evaluation"},
    "fftnet.lm_eval": GROUND | MODEL | {"fftnet.api", "fftnet.evaluation", "fftnet.hf", "fftnet.tasks"},
    "fftnet.serving": GROUND | MODEL | {"fftnet.api", "fftnet.utils.tokenizer"},
    "fftnet.cli": {"fftnet"},
    "fftnet.__main__": {"fftnet.cli"},
    "fftnet": {"fftnet"},
}
"""Room to the rooms that it may import, beside itself; the longest name that fits a module counts."""


def room(module: str) -> str:
    return max((name for name in LADDER if module == name or module.startswith(f"{name}.")), key=len)


def imports(module: str) -> set[str]:
    """Modules of the package that a file names in an import, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            # A name may be a module of its own, or something that the module defines.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "fftnet"}


def reached(module: str) -> set[str]:
    """Everything that importing a module loads, but for the front page of the package."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name in FILES and name != "fftnet":
            seen.add(name)
            waiting += [*imports(name), name.rpartition(".")[0]]
    return seen


@pytest.mark.parametrize("module", FILES)
def test_imports_run_down_the_ladder(module: str) -> None:
    own = room(module)
    for name in imports(module):
        assert name in FILES, f"{module} imports {name}, which is not there"
        below = own == room(name) or any(name == top or name.startswith(f"{top}.") for top in LADDER[own])
        assert below, f"{module} may not import {name}"


def test_no_rung_stands_above_itself() -> None:
    above = {name: {other for other in LADDER if name in LADDER[other] and other != name} for name in LADDER}
    waiting = set(LADDER) - {"fftnet"}
    while waiting:
        tops = {name for name in waiting if not above[name] & waiting}
        assert tops, f"a circle among {waiting}"
        waiting -= tops


@pytest.mark.parametrize("module", ["fftnet.utils.trainer", "fftnet.training.checkpointer"])
def test_training_loads_neither_model_nor_data(module: str) -> None:
    loaded = {room(name) for name in reached(module)}
    assert "fftnet.training" in loaded
    assert loaded <= GROUND | METRICS | TRAINING | {"fftnet.utils"}


def test_data_load_neither_model_nor_tasks() -> None:
    loaded = {room(name) for name in reached("fftnet.utils.dataset")}
    assert loaded <= GROUND | DATA | {"fftnet.utils"}


def test_the_control_sees_a_forbidden_import() -> None:
    assert "fftnet.model.fftnet_model" in reached("fftnet.tasks")
    assert "fftnet.training.distributed" in reached("fftnet.cli.train")


def test_the_package_knows_neither_benchmarks_nor_experiments() -> None:
    for path in FILES.values():
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            )
        }
        assert not names & {"benchmarks", "experiments", "tests"}


def test_utils_are_three_front_doors() -> None:
    assert {path.name for path in (PACKAGE / "utils").glob("*.py")} == {
        "__init__.py",
        "tokenizer.py",
        "dataset.py",
        "trainer.py",
    }
    assert "front doors" in (fftnet.utils.__doc__ or "")
