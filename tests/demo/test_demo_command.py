"""``fftnet demo`` from the command line: the folder of the page, its server, and mistakes."""

import http.client
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
from demo_pages import RUNTIME_NAMES, Served, old_page, save, stand_ins

import fftnet
from fftnet import FFTNet
from fftnet.cli.main import main
from fftnet.demo import DemoConfig, make_page
from fftnet.demo.page import README_FILE, STATIC
from fftnet.demo.runtime_files import find_runtime
from fftnet.demo.server import PageServer
from fftnet.export import ExportConfig
from fftnet.export.runtime import OnnxWriter

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints, stand-ins for the runtime in ``dist``, and wrong folders."""
    folder = tmp_path_factory.mktemp("mistakes")
    save(folder / "own", num_layers=1)
    save(folder / "encoder", causal=False, num_layers=1)
    stand_ins(folder / "dist")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("kept")
    (folder / "empty").mkdir()
    return folder


def test_the_page_is_complete_and_served(served_demo: Served) -> None:
    page = served_demo.folder / "page"
    assert re.fullmatch(r"page: [\d,]+ bytes, for any host of static files\n", served_demo.told)
    kinds = {"": "text/html", "app.js": "text/javascript", "runtime/ort-wasm.wasm": "application/wasm"}
    for name, kind in kinds.items():
        with urllib.request.urlopen(served_demo.url + name, timeout=20) as answer:
            assert answer.headers.get_content_type() == kind
            assert answer.read() == (page / (name or "index.html")).read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(served_demo.url + "own/config.json", timeout=20)
    files = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    model = {"model/state.json", "model/step.onnx", "model/tokenizer.json"}
    runtime = {f"runtime/{name}" for name in RUNTIME_NAMES.values()}
    assert files == {path.name for path in STATIC.iterdir()} | {README_FILE} | model | runtime
    assert (page / README_FILE).read_text(encoding="utf-8-sig") == metadata("fftnet")["Description"]
    description = json.loads((page / "model" / "state.json").read_text())
    assert description["files"] == {"step": "step.onnx"}
    assert description["spectra"] == [
        {"input": "s2", "part": 0, "parts": 2, "layer": 0},
        {"input": "s2", "part": 1, "parts": 2, "layer": 2},
        {"input": "s4", "part": 0, "parts": 1, "layer": 1},
    ]
    for spectrum in description["spectra"]:
        (entry,) = [entry for entry in description["state"] if entry["input"] == spectrum["input"]]
        heads, bins = description["filters"]["heads"], description["filters"]["bins"][spectrum["layer"]]
        assert entry["shape"][:3] == [heads * spectrum["parts"], 2, bins]


def test_the_server_shows_the_files_of_its_folder_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    (page / "model").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (page / "model" / "step.onnx").write_text("step")
    (page / "inside").symlink_to(page / "model")
    (page / "file").symlink_to(tmp_path / "secret.txt")
    (page / "folder").symlink_to(tmp_path)
    (page / "loop").symlink_to(page / "loop")
    folders = ["", "model/", "inside/"]
    links = ["file", "folder/secret.txt", "folder/", "../secret.txt", "%2e%2e/secret.txt", "loop"]
    odd = ["%00", "model/%00", "a%00b/", "%ff%fe", "%ed%a0%80", "%", "a" * 5000, "nowhere"]
    with PageServer(DemoConfig(output=str(page), port=0)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = server.socket.getsockname()
        for name, status in {"model/step.onnx": 200, "inside/step.onnx": 200}.items() | {
            (name, 404) for name in [*folders, *links, *odd]
        }:
            connection = http.client.HTTPConnection(*address, timeout=20)
            connection.request("GET", "/" + name)
            answer = connection.getresponse()
            assert (answer.status, name) == (status, name)
            assert b"secret" not in answer.read()
            connection.close()
        # A client leaves in the middle of its request.
        with socket.create_connection(address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /model")
        server.shutdown()
        thread.join()
    assert "Traceback" not in capfd.readouterr().err


def test_its_decode_step_reads_prompts(served_demo: Served) -> None:
    """Without blocks, a prompt of any length is read token by token."""
    model, _ = fftnet.load(served_demo.folder / "own", device="cpu")
    tokens = torch.randint(0, 257, (2, 70))
    with torch.no_grad():
        wanted, _ = model.prefill(tokens, logits_to_keep=1)
    found, _ = OnnxWriter(served_demo.folder / "page" / "model", threads=1).prefill(tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_nothing_refers_to_another_host() -> None:
    """The page has all files that it needs; XML namespaces are not addresses."""
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(=]//|@import", text), path
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "default-src 'self'" in page
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert name == README_FILE or (STATIC / name).is_file(), name
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")):
            assert (STATIC / name).is_file() or name.removeprefix("runtime/") in RUNTIME_NAMES.values()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere --no_serve", "nowhere"),
        ("encoder --no_serve", "a bidirectional model can't write: take one that was trained with causal"),
        ("own --output full", r"full is not empty and has no page: choose another --output"),
        ("own --output full/notes.txt", r"full/notes.txt could not be written"),
        ("own --no_serve --runtime_files empty", r"empty lacks ort\.wasm\.min\.mjs, .* with --runtime_files"),
        ("own --port TAKEN", r"can't listen on port \d+ of 127\.0\.0\.1 \(Address.*choose another --port"),
        ("own --port 70000", "port must be at most 65535, got 70000"),
        ("own --host nowhere.invalid", "can't listen on port 8080 of nowhere.invalid"),
        ("--no_serve", r"no checkpoint under outputs/: train a model with"),
    ],
)
def test_a_mistake_ends_in_a_sentence(
    folder: Path,
    words: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    given = words if "--runtime_files" in words else f"{words} --runtime_files dist"
    given = given if "--output" in given else f"{given} --output other"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = given.replace("TAKEN", str(taken.getsockname()[1]))
        assert main(["demo", *given.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(message, line), line
    assert (folder / "full" / "notes.txt").read_text() == "kept"
    assert not (folder / "other").exists()


def test_without_a_run_it_takes_the_shipped_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "shakespeare").symlink_to(folder / "own")
    assert main(["demo", "--no_serve", "--runtime_files", "nowhere"]) == 2
    assert "nowhere lacks" in capsys.readouterr().err
    # A run comes first, even one that can't be loaded.
    (tmp_path / "outputs" / "broken").mkdir(parents=True)
    (tmp_path / "outputs" / "broken" / "config.json").write_text("{}")
    assert main(["demo", "--no_serve", "--runtime_files", "nowhere"]) == 2
    assert "no checkpoint under outputs/" in capsys.readouterr().err


def test_8_bit_weights_replace_others(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(model: FFTNet, tokenizer: object, config: ExportConfig) -> None:
        """The real export takes seconds and is tested elsewhere."""
        assert config.int8
        for name in ("step.onnx", "step_int8.onnx", "tokenizer.json"):
            (Path(config.output) / name).write_text(name)
        (Path(config.output) / "state.json").write_text('{"state": []}')

    monkeypatch.setattr("fftnet.demo.page.export_model", export)
    old_page(tmp_path / "page")
    (tmp_path / "page" / "model" / "notes.txt").write_text("of the user")
    config = DemoConfig(output=str(tmp_path / "page"), int8=True)
    model, tokenizer = fftnet.load(folder / "own", device="cpu")
    page = make_page(model, tokenizer, config, find_runtime(str(folder / "dist")))
    written = {path.name for path in (page / "model").iterdir()}
    assert written == {"state.json", "step_int8.onnx", "tokenizer.json", "notes.txt"}
    assert json.loads((page / "model" / "state.json").read_text())["files"] == {"step": "step_int8.onnx"}
