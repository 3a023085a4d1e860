"""Transformers' own common tests of models, from the source distribution of the version that is installed.

They are downloaded once, by pip, into a cache folder outside the repository.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers
from filelock import FileLock

COMMON = "test_modeling_common.py"
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}
"""Modules that the file imports but the distribution lacks."""
PACKAGE = "peer_tests"


class Unavailable(Exception):
    """The distribution can't be fetched; the message names the cause."""


def fetch() -> Path:
    """Return a folder for ``sys.path`` with the tests as the package ``peer_tests``.

    Raises:
        Unavailable: naming the cause.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fftnet-tests"
    folder = cache / f"transformers-{transformers.__version__}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock", timeout=120):
            if not (folder / PACKAGE / COMMON).is_file():
                with tempfile.TemporaryDirectory(dir=cache) as partial:
                    _unpack(_download(Path(partial)), Path(partial) / "ready")
                    (Path(partial) / "ready").rename(folder)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise Unavailable(f"{folder} can't be made: {error!r}") from error
    return folder


def _download(folder: Path) -> Path:
    wanted = f"transformers=={transformers.__version__}"
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not fetch the source distribution of {wanted} in time") from None
    found = list(folder.glob("*.tar.gz"))
    if not found:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"pip can't fetch the source distribution of {wanted}: {last[0]}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    package = folder / PACKAGE
    for name, content in STUBS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content, encoding="utf-8")
    with tarfile.open(archive) as files:
        member = files.extractfile(f"transformers-{transformers.__version__}/tests/{COMMON}")
        assert member is not None
        (package / COMMON).write_bytes(member.read())
