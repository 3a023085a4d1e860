"""Documentation: links, paths, tests and flags that pages name, the reference of commands, the navigation."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from commands import ROOT

from fftnet.data.config import DataConfig
from fftnet.tasks.classification import ClassificationConfig
from scripts import commands as reference

PAGES = sorted((ROOT / "docs").rglob("*.md"))
GUIDES = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]


def test_the_site_shows_every_page_and_no_other() -> None:
    shown = re.findall(r'= "([\w/]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert sorted(shown) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES)


def test_the_site_loads_no_fonts_from_elsewhere() -> None:
    settings = (ROOT / "zensical.toml").read_text()
    assert re.search(r"^font = false", settings, re.MULTILINE)


def test_the_api_pages_name_every_package() -> None:
    named = re.findall(r"^::: ([\w.]+)$", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    for name in named:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name
    packages = {f"fftnet.{path.parent.name}" for path in (ROOT / "fftnet").glob("*/__init__.py")}
    shown = {".".join(name.split(".")[:2]) for name in named}
    assert packages <= shown


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


# The log tells of files as they were when an entry was written, the changelog also of those that are gone.
CURRENT = [page for page in GUIDES if page.name not in ("log.md", "CHANGELOG.md")]
MADE = {"site/", "outputs/", "logs/"}
"""Folders that commands make."""


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    paths = set(re.findall(r"`((?:[\w-]+/)+[\w.]*)(?:::\w+)?`", page.read_text()))
    assert page.name not in ("architecture.md", "reliability.md", "CONTRIBUTING.md") or len(paths) > 10
    there = {path for path in paths if (ROOT / path).exists() or (ROOT / "fftnet" / path).exists()}
    assert paths - there <= MADE


TEST_FLAGS = {f.name for cls in (DataConfig, ClassificationConfig) for f in fields(cls)}
"""Flags, some of which are called like tests."""


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_is_in_the_file_that_is_named_before_it(page: Path) -> None:
    anywhere = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert "test_" in page.read_text() or page.name not in ("architecture.md", "reliability.md")
    for line in page.read_text().splitlines():
        source = anywhere
        for path, name in re.findall(r"(tests/[\w/]+\.py)|\b(test_\w+)\b(?!\.py)", line):
            if path:
                source = (ROOT / path).read_text()
            elif name not in TEST_FLAGS:
                assert f"def {name}(" in source, line


def test_the_architecture_page_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = [path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "fftnet").rglob("*/__init__.py")]
    assert len(folders) > 20
    assert [folder for folder in folders if f"`{folder}/`" not in text] == []


def test_the_reference_of_commands_is_the_help_of_this_version() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python -m scripts.commands"


OTHER = r"(torchrun |accelerate |srun |#SBATCH |uv )[^`\n]*"
"""Commands of other programs, which have flags of their own."""
ELSEWHERE = {
    "only",
    "clients",
    "seconds",
    "max",
    "index",
    "my_mixer.window",
    "model",
    "model_args",
    "include_path",
    "tasks",
}
"""Flags of the benchmarks, of launchers and pip, of an example, and of the evaluation harness."""


def test_flags_in_the_documentation_exist() -> None:
    known = set(re.findall(r"--(?:no_)?([\w.]+)", reference.page())) | ELSEWHERE
    text = "".join(page.read_text() for page in CURRENT)
    named = set(re.findall(r"--((?!no_)[a-z][\w.]*\w)", re.sub(OTHER, "", text)))
    assert len(named) > 10
    assert named - known == set()
