"""Wheel, metadata, licence, citation, and errors of an installation that lacks packages."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
CORE = {"torch", "numpy", "safetensors"}
FOR_DEVELOPERS = {"dev", "docs"}
HEAVY = {"augmentation", "eval"}
"""Extras that ``all`` leaves out for their size."""
TIED_TO_TORCH = {"torchvision"}
"""Packages whose version follows that of the installed PyTorch."""

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
            assert version is not None or requirement.name in {"fftnet", *TIED_TO_TORCH}, (
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
