"""Style of the sources: first words of docstrings, lengths of functions, density of comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT

SOURCES = [
    path
    for folder in ("fftnet", "benchmarks", "experiments", "examples", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "frozen" not in path.parts
]
BAD_FIRST_WORD = re.compile(r"(What|Whether|Which|Where|How|Of|When|Who|That|Those|So)\b")
LONGEST_FUNCTION, LONGEST_KERNEL = 60, 90
COMMENTS, COMMENTS_OF_KERNELS = 0.03, 0.05
"""Least share of comment lines."""


def is_kernel(path: Path) -> bool:
    return "ops" in path.parts and (path.stem in ("cpu", "gpu") or path.parent.name in ("cpu", "gpu"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that documents a definition or an attribute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield statement.lineno, statement.value.value.strip()


def share_of_comments(paths: list[Path]) -> float:
    lines = comments = 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            told = token.type == tokenize.COMMENT and not re.match(r"#\s*(pyright|noqa|type:)", token.string)
            comments += told
    return comments / lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path) -> None:
    assert [place for place in docstrings(path) if BAD_FIRST_WORD.match(place[1])] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    most = LONGEST_KERNEL if is_kernel(path) else LONGEST_FUNCTION
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= most, f"{node.name} has {length} lines"


def test_comments_explain_the_package_and_its_kernels() -> None:
    package = [path for path in SOURCES if path.is_relative_to(ROOT / "fftnet")]
    kernels = [path for path in package if is_kernel(path)]
    assert len(kernels) > 10
    assert share_of_comments(package) >= COMMENTS
    assert share_of_comments(kernels) >= COMMENTS_OF_KERNELS
