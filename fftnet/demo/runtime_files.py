"""Files of ONNX Runtime for the web: from a folder, from the cache, or downloaded once from npm."""

import base64
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from fftnet.data.cache import user_cache
from fftnet.demo.config import DemoError


class Package(NamedTuple):
    """A version of an npm package and the files that the page takes from it."""

    name: str
    version: str
    sha512: str
    """Digest of the tarball in base64, as in npm's ``dist.integrity``."""
    files: dict[str, str]
    """Names in the page by the names in the package's folder ``dist``."""


RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    # Browsers insist on JavaScript's type, and some static file hosts do not know .mjs.
    {
        "ort.wasm.min.mjs": "ort.js",
        "ort-wasm-simd-threaded.mjs": "ort-wasm.js",
        "ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
    },
)


def find_runtime(folder: str | None = None, package: Package = RUNTIME) -> dict[str, Path]:
    """Return the paths of the runtime's files by their names in the page.

    Without a folder, they are in the user's cache, which is filled by one download.
    """
    source = cache_folder(package) if folder is None else Path(folder)
    if folder is None and not is_cached(package):
        _download(package, source)
    missing = [name for name in package.files if not (source / name).is_file()]
    if missing:
        raise DemoError(
            f"{source} lacks {', '.join(missing)}: unpack {package.name} {package.version} and name its "
            "folder dist with --runtime_files"
        )
    return {name: source / file for file, name in package.files.items()}


def cache_folder(package: Package = RUNTIME) -> Path:
    """Return the folder of a package in the user's cache."""
    return user_cache() / f"{package.name}-{package.version}"


def is_cached(package: Package = RUNTIME) -> bool:
    """Return True if the cache has all files of a package."""
    return all((cache_folder(package) / name).is_file() for name in package.files)


def _download(package: Package, target: Path) -> None:
    # The variable is npm's own.
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    url = f"{registry}/{package.name}/-/{package.name}-{package.version}.tgz"
    remedy = (
        f"run again with a network, or unpack `npm pack {package.name}@{package.version}` and name its "
        "folder dist with --runtime_files"
    )
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != package.sha512:
            raise DemoError(f"{url} does not have the expected checksum: {remedy}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tarfile.open(fileobj=io.BytesIO(content)) as archive,
            tempfile.TemporaryDirectory(dir=target.parent) as scratch,
        ):
            for name in package.files:
                archive.extract(f"package/dist/{name}", scratch, filter="data")
            # Another process may have written the same files in the meantime.
            shutil.copytree(Path(scratch) / "package" / "dist", target, dirs_exist_ok=True)
    except DemoError:
        raise
    # ValueError: the registry's address is not a URL. KeyError: the package lacks a file.
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DemoError(f"{url} can't be downloaded into {target} ({reason}): {remedy}") from error
