"""Package, licence, citation, guides, documentation site, and what one reads without the packages."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fftnet.api.generate import SamplingConfig
from fftnet.api.run_config import PARTS
from fftnet.cli.evaluate import OutputConfig
from fftnet.cli.flags import ModelConfig
from fftnet.cli.generate import PromptConfig
from fftnet.cli.inspect import InspectionConfig
from fftnet.cli.predict import PredictConfig
from fftnet.evaluation.report import EvaluationConfig
from fftnet.model.mixers import MIXERS
from fftnet.serving.config import ServeConfig
from fftnet.tasks import TASKS
from fftnet.tasks.classification import ClassificationConfig
from fftnet.utils.dataset import DataConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PAPERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
CORE = {"torch", "numpy", "safetensors"}
FOR_DEVELOPERS = {"dev", "docs"}
HEAVY = {"augmentation", "eval"}
BESIDE_TORCH = {"torchvision"}
"""What is made for one version of PyTorch, whichever there is."""
"""Extras that ``all`` leaves out for their size."""

# One process builds the wheel, and once.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("fftnet", "benchmarks", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    (path,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def requirements(metadata: Message) -> dict[str, set[str]]:
    """Extra to the names of what it asks for by itself; the core's are those of ''."""
    extras = ["", *metadata.get_all("Provides-Extra", [])]
    names = {extra: set[str]() for extra in extras}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        for extra in extras:
            always = requirement.marker is None
            if always if extra == "" else not always and f'extra == "{extra}"' in line:
                names[extra] |= requirement.extras if requirement.name == "fftnet" else {requirement.name}
    return names


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    folders = {name.partition("/")[0] for name in wheel.namelist()}
    assert len(folders) == 2
    assert "fftnet" in folders
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "fftnet").rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == sources


def test_the_wheel_is_typed_and_bears_its_licence(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert "fftnet/py.typed" in wheel.namelist()
    (name,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in wheel.read(name)
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_metadata_are_complete(metadata: Message) -> None:
    fields = (
        "Version",
        "Summary",
        "Author-email",
        "Keywords",
        "Classifier",
        "Project-URL",
        "Requires-Python",
    )
    assert [field for field in fields if not metadata[field]] == []
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_core_needs_three_packages_and_all_is_all(metadata: Message) -> None:
    names = requirements(metadata)
    assert names[""] == CORE
    assert names["all"] == set(names) - FOR_DEVELOPERS - HEAVY - {"", "all"}
    assert "all" in names["dev"]


def test_what_make_installs_meets_the_lower_bounds(metadata: Message) -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        version = pinned.get(requirement.name.lower())
        assert version is None or requirement.specifier.contains(version), line
        if requirement.marker is None or "dev" not in str(requirement.marker):
            assert version is not None or requirement.name in {"fftnet", *BESIDE_TORCH}, (
                f"{line} is not in constraints.txt"
            )


def test_make_docs_installs_what_the_extra_docs_names(metadata: Message) -> None:
    (line,) = re.findall(
        r"^\t\$\(DOCS\).* constraints\.txt (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert set(line.split()) == requirements(metadata)["docs"]


def installed_with(names: set[str]) -> Iterator[importlib.metadata.Distribution]:
    """The installed distributions of these names and of all that they need, each once."""
    waiting = sorted(names)
    seen = set(waiting)
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        yield distribution
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.name not in seen and (not requirement.marker or requirement.marker.evaluate()):
                seen.add(requirement.name)
                waiting.append(requirement.name)


def test_every_package_is_there_for_the_lowest_python(metadata: Message) -> None:
    (lowest,) = re.findall(r"^>=([\d.]+)$", metadata["Requires-Python"])
    names = requirements(metadata)
    packages = CORE | set[str]().union(*(names[extra] for extra in names["all"]))
    for distribution in installed_with(packages - set(names)):
        wanted = distribution.metadata["Requires-Python"] or ""
        assert SpecifierSet(wanted).contains(f"{lowest}.0"), f"{distribution.name} wants Python {wanted}"


def environment_with(folder: Path, names: set[str]) -> dict[str, str]:
    """Variables under which ``python -S`` sees this project, the named packages and what they need only."""
    folder.mkdir()
    for distribution in installed_with(names):
        tops = {
            file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")
        }
        for top in tops - {path.name for path in folder.iterdir()}:
            (folder / top).symlink_to(str(distribution.locate_file(top)))
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return others | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def test_the_first_example_of_the_readme_needs_no_more_than_the_core(tmp_path: Path) -> None:
    environment = environment_with(tmp_path / "site", CORE)
    extra = subprocess.run([sys.executable, "-S", "-c", "import numba"], env=environment, capture_output=True)
    assert b"ModuleNotFoundError" in extra.stderr, "the environment is not as empty as it should be"
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    command = [sys.executable, "-S", "-c", snippet[1]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_of_a_core_installation_says_what_else_it_needs(tmp_path: Path) -> None:
    environment = environment_with(tmp_path / "site", CORE)
    command = [sys.executable, "-S", "-m", "fftnet", "train"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "is not installed: pip install '.[all]' in a clone of the repository" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["main.py", "example.py"])
def test_without_its_packages_a_script_ends_in_a_sentence_that_names_the_command(script: str) -> None:
    # -S: without site-packages; -E: without PYTHONPATH.
    command = [sys.executable, "-S", "-E", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "make demo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_citation_names_the_paper_and_this_version(metadata: Message) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == metadata["Version"]
    assert citation["license"] == metadata["License-Expression"]
    assert "2502.18394" in citation["preferred-citation"]["url"]
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Fein-Ashley"


def test_the_changelog_knows_this_version(metadata: Message) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.index("## [Unreleased]") < changelog.index(metadata["Version"])


def test_the_site_shows_every_page_and_no_other() -> None:
    shown = re.findall(r'= "([\w/]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert sorted(shown) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES)


def test_the_site_loads_no_fonts_from_elsewhere() -> None:
    settings = (ROOT / "zensical.toml").read_text()
    assert re.search(r"^font = false", settings, re.MULTILINE)


def test_the_api_pages_name_every_room() -> None:
    named = re.findall(r"^::: ([\w.]+)$", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    for name in named:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name
    rooms = {f"fftnet.{path.parent.name}" for path in (ROOT / "fftnet").glob("*/__init__.py")}
    assert rooms <= set(named)


@pytest.mark.parametrize("page", [*PAGES, *PAPERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_papers_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


# The log tells of files as they were when an entry was written, the changelog also of those that are gone.
CURRENT = [page for page in [*PAGES, *PAPERS] if page.name not in ("log.md", "CHANGELOG.md")]
MADE = {"site/", "outputs/", "logs/"}
"""Folders that commands make."""


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_paper_names_is_there(page: Path) -> None:
    paths = set(re.findall(r"`((?:[\w-]+/)+[\w.]*)(?:::\w+)?`", page.read_text()))
    assert page.name not in ("architecture.md", "reliability.md", "CONTRIBUTING.md") or len(paths) > 10
    there = {path for path in paths if (ROOT / path).exists() or (ROOT / "fftnet" / path).exists()}
    assert paths - there <= MADE


TEST_FLAGS = {f.name for cls in (DataConfig, ClassificationConfig) for f in fields(cls)}
"""Flags, some of which are called like tests."""


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_paper_names_is_in_the_file_that_is_named_before_it(page: Path) -> None:
    anywhere = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert "test_" in page.read_text() or page.name not in ("architecture.md", "reliability.md")
    for line in page.read_text().splitlines():
        source = anywhere
        for path, name in re.findall(r"(tests/[\w/]+\.py)|\b(test_\w+)\b(?!\.py)", line):
            if path:
                source = (ROOT / path).read_text()
            elif name not in TEST_FLAGS:
                assert f"def {name}(" in source, line


def named_in_the_tree() -> set[Path]:
    """Files and folders of the tree in docs/architecture.md: two spaces more are one folder deeper."""
    tree = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## The tree\n\n")[2].partition("\n\n")[0]
    )
    folders: list[str] = []
    named: set[Path] = set()
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip()) - 4
        # Far to the right stands the rest of the line above, on what is in every folder beside it.
        if indent < 20:
            del folders[indent // 2 :]
            if line.split()[0].endswith("/"):
                folders.append(line.split()[0])
                named.add(ROOT.joinpath(*folders))
        named |= {ROOT.joinpath(*folders, name) for name in re.findall(r"\w+\.py\b", line)}
    return named


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    named = named_in_the_tree()
    assert [path for path in named if not path.exists()] == []
    package = ROOT / "fftnet"
    folders = {path.parent for path in package.rglob("__init__.py")}
    assert folders <= named
    # One line tells what is in the folders of operators, of CPU kernels and of sources, whatever their files.
    told = {path for path in folders if path.parent.name == "ops"} | {package / "data" / "sources"}
    told |= {package / "model" / "mixers"}
    files = {path for path in package.rglob("*.py") if path.parent not in told}
    assert {path.name for path in files - named} == {"__init__.py", "__main__.py"}


def test_the_flags_that_the_readme_names_are_flags() -> None:
    classes = [*PARTS.values(), ModelConfig, PromptConfig, EvaluationConfig, InspectionConfig]
    classes += [SamplingConfig, ServeConfig, PredictConfig, OutputConfig]
    known = {field.name for cls in classes for field in fields(cls)} | {"help", "config", "print_config"}
    groups = [*MIXERS.items(), *TASKS.items()]
    known |= {f"{name}.{field.name}" for name, kind in groups for field in fields(kind.Config)}
    pages = ("README.md", "docs/performance.md", "docs/serving.md", "docs/classification.md")
    text = "".join((ROOT / name).read_text() for name in pages).replace("`--classification.`", "")
    text = re.sub(r"python -m (benchmarks|experiments)[^`\n]*", "", text)
    named = set(re.findall(r"--((?!no_)[a-z][\w.]*\w)", text))
    assert len(named) > 10
    assert named - known == {"full"}  # Of the benchmarks.
