"""The files of ONNX Runtime for the web: from a folder, from the cache, or fetched once from npm."""

import base64
import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from fftnet.data.cache import user_cache
from fftnet.demo.errors import DemoError

REGISTRY_VARIABLE = "NPM_CONFIG_REGISTRY"
"""Names another npm registry, as it does for npm."""
REGISTRY = "https://registry.npmjs.org"
TIMEOUT = 60
"""Seconds without a byte after which a download is given up."""


class Package(NamedTuple):
    """A version of an npm package and what is taken from it."""

    name: str
    version: str
    sha512: str
    """Digest of the package's tarball in base64, as npm's ``dist.integrity`` has it."""
    files: dict[str, str]
    """File in the package's folder ``dist`` to its name in the page."""


RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    # Not every host of static files knows that .mjs is JavaScript, and a browser insists.
    {
        "ort.wasm.min.mjs": "ort.js",
        "ort-wasm-simd-threaded.mjs": "ort-wasm.js",
        "ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
    },
)


def find_runtime(folder: str | None = None, package: Package = RUNTIME) -> dict[str, Path]:
    """The files of the runtime, fetched where they are neither named nor in the cache.

    Args:
        folder: that holds them (None: the cache).
        package: which files these are.

    Returns:
        Name in the page to the file.

    Raises:
        DemoError: if the folder lacks one, or the package can't be fetched or kept.
    """
    if folder is not None:
        missing = _missing(Path(folder), package)
        if missing:
            raise DemoError(
                f"{folder} lacks {', '.join(missing)}: unpack {package.name} {package.version} and name its "
                "folder dist with --runtime_files"
            )
        return _named(Path(folder), package)
    kept = cache_folder(package)
    if _missing(kept, package):
        _fetch(package, kept)
    return _named(kept, package)


def cache_folder(package: Package = RUNTIME) -> Path:
    """Where the files are kept."""
    return user_cache() / f"{package.name}-{package.version}"


def is_kept(package: Package = RUNTIME) -> bool:
    """Whether the cache has all files, so that nothing will be fetched."""
    return not _missing(cache_folder(package), package)


def _fetch(package: Package, target: Path) -> None:
    registry = os.environ.get(REGISTRY_VARIABLE, REGISTRY).rstrip("/")
    url = f"{registry}/{package.name}/-/{package.name}-{package.version}.tgz"
    way_out = (
        f"run again with a network, or unpack `npm pack {package.name}@{package.version}` and name its "
        "folder dist with --runtime_files"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            tarball = Path(scratch) / "package.tgz"
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, tarball.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if _sha512(tarball) != package.sha512:
                raise DemoError(f"{url} is not the file that its checksum promises: {way_out}")
            unpacked = Path(scratch) / "dist"
            unpacked.mkdir()
            _unpack(tarball, unpacked, package)
            # A process that came first has left the same files.
            shutil.copytree(unpacked, target, dirs_exist_ok=True)
    # ValueError: a registry whose address is none.
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        if isinstance(error, DemoError):
            raise
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DemoError(f"{url} can't be fetched into {target} ({reason}): {way_out}") from error


def _unpack(tarball: Path, target: Path, package: Package) -> None:
    with tarfile.open(tarball) as archive:
        for name in package.files:
            source = archive.extractfile(f"package/dist/{name}")
            if source is None:
                raise KeyError(name)
            with source, (target / name).open("wb") as file:
                shutil.copyfileobj(source, file)


def _sha512(path: Path) -> str:
    digest = hashlib.sha512()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


def _missing(folder: Path, package: Package) -> list[str]:
    return [name for name in package.files if not (folder / name).is_file()]


def _named(folder: Path, package: Package) -> dict[str, Path]:
    return {name: folder / source for source, name in package.files.items()}
