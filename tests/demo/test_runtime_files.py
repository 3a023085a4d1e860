"""Files of the runtime: downloaded once from npm's registry, checked and cached, or from a folder."""

import base64
import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fftnet.demo import DemoError
from fftnet.demo.runtime_files import RUNTIME, Package, cache_folder, find_runtime, is_cached

FILES = {"one.mjs": "one.js", "two.wasm": "two.wasm"}


class Registry(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder instead of npm's registry, with an empty cache."""
    folder = tmp_path / "registry"
    folder.mkdir()
    handler = functools.partial(Registry, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield folder
        server.shutdown()


def publish(registry: Path, *names: str) -> Package:
    """Publish a package with these files in its folder dist."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in names:
            data = f"content of {name}".encode()
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    path = registry / "pair" / "-" / "pair-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())
    digest = base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
    return Package("pair", "1.2.3", digest, FILES)


def test_a_package_is_downloaded_once(registry: Path) -> None:
    package = publish(registry, *FILES, "more.js")
    assert not is_cached(package)
    found = find_runtime(package=package)
    assert {name: path.read_text() for name, path in found.items()} == {
        "one.js": "content of one.mjs",
        "two.wasm": "content of two.wasm",
    }
    assert is_cached(package)
    assert {path.name for path in cache_folder(package).iterdir()} == set(FILES)
    assert [path.name for path in cache_folder(package).parent.iterdir()] == ["pair-1.2.3"]
    (registry / "pair" / "-" / "pair-1.2.3.tgz").unlink()
    assert find_runtime(package=package) == found


def test_a_file_with_another_checksum_is_not_cached(registry: Path) -> None:
    package = publish(registry, *FILES)._replace(sha512=RUNTIME.sha512)
    with pytest.raises(DemoError, match=r"does not have the expected checksum.*--runtime_files"):
        find_runtime(package=package)
    assert not is_cached(package)


@pytest.mark.parametrize("names", [(), ("one.mjs",)])
def test_a_missing_package_or_file_ends_in_a_sentence(registry: Path, names: tuple[str, ...]) -> None:
    package = publish(registry, *names) if names else Package("none", "1.0.0", "", FILES)
    way_out = rf"npm pack {package.name}@{package.version}` and name its folder dist with --runtime_files"
    with pytest.raises(DemoError, match=rf"can't be downloaded into .*{way_out}"):
        find_runtime(package=package)
    assert not is_cached(package)


def test_no_network_ends_in_a_sentence(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://127.0.0.1:9/", "nonsense"):
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(DemoError, match="run again with a network, or unpack"):
            find_runtime()


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text(name)
    package = Package("pair", "1.2.3", "", FILES)
    assert find_runtime(str(tmp_path), package) == {
        "one.js": tmp_path / "one.mjs",
        "two.wasm": tmp_path / "two.wasm",
    }
    (tmp_path / "two.wasm").unlink()
    with pytest.raises(DemoError, match=r"lacks two\.wasm: unpack pair 1\.2\.3"):
        find_runtime(str(tmp_path), package)
