"""Style of the sources: first words of docstrings, lengths of functions, density of comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

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
    kernels = ("cpu", "gpu", "triton_kernels")
    return "ops" in path.parts and (path.stem in kernels or path.parent.name in kernels)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that documents a definition or an attribute."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text.strip()


def share_of_comments(paths: list[Path]) -> float:
    lines = comments = 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            told = token.type == tokenize.COMMENT and not re.match(r"#\s*(pyright|noqa|type:)", token.string)
            comments += told
    return comments / lines


def test_docstrings_begin_with_a_verb_or_a_noun_and_functions_are_short() -> None:
    wrong: list[str] = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        most = LONGEST_KERNEL if is_kernel(path) else LONGEST_FUNCTION
        wrong += [f"{path}:{line}: {text}" for line, text in docstrings(tree) if BAD_FIRST_WORD.match(text)]
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                wrong += [f"{path}:{node.lineno}: {node.name} has {length} lines"] * (length > most)
    assert wrong == []


def test_comments_explain_the_package_and_its_kernels() -> None:
    package = [path for path in SOURCES if path.is_relative_to(ROOT / "fftnet")]
    kernels = [path for path in package if is_kernel(path)]
    assert len(kernels) > 10
    assert share_of_comments(package) >= COMMENTS
    assert share_of_comments(kernels) >= COMMENTS_OF_KERNELS
