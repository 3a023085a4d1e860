"""``fftnet export`` and ``fftnet generate --runtime onnx`` from the command line."""

import re
import sys
from pathlib import Path

import pytest
from commands import run_as_user
from demo_pages import save

from fftnet import FFTNet
from fftnet.cli.main import main
from fftnet.export import ExportConfig, ExportError, export_model
from fftnet.export.runtime import OnnxWriter

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
PROMPT = "A prompt that is longer than a block of eight tokens"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint ``own`` and its export ``out``."""
    folder = tmp_path_factory.mktemp("commands")
    save(folder / "own", d_model=8, num_layers=1, mixers=("delta_spectral",))
    done = run_as_user("fftnet export own --format onnx --output out --block_length 8 --int8", folder)
    listed = re.findall(r"^out/(\S+): [\d,]+ bytes$", done.stdout, re.MULTILINE)
    assert listed == ["step.onnx", "prefill.onnx", "step_int8.onnx", "state.json"]
    # Warnings of the exporters are suppressed. The first use of a kernel on a machine prints a line.
    told = [line for line in done.stderr.splitlines() if not line.startswith("compiling CPU kernels")]
    assert len(told) == 1, done.stderr
    assert {path.name for path in (folder / "out").iterdir()} == {
        *listed,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    return folder


def test_both_runtimes_write_the_same_text(exported: Path) -> None:
    command = f"fftnet generate --prompt '{PROMPT}' --max_new_tokens 40 --seed 5 --top_k 40"
    by_torch = run_as_user(f"{command} --checkpoint own", exported)
    by_onnx = run_as_user(f"{command} --checkpoint out --runtime onnx", exported)
    assert by_onnx.stdout == by_torch.stdout
    assert by_onnx.stdout.startswith(PROMPT)
    assert "in ONNX Runtime" in by_onnx.stderr


def test_8_bit_weights_write(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(exported)
    words = "generate --checkpoint out --runtime onnx --int8 --max_new_tokens 5"
    assert main(words.split()) == 0
    assert "5 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export own --format gguf", "unknown format 'gguf'; choose from onnx"),
        ("export nowhere", "nowhere"),
        ("export other", r"other/config.json is that of \['Classifier'\], not of FFTNet"),
        ("export own --output own/config.json", "own/config.json could not be written"),
        ("export own --output mine", "mine/state.json was not written by fftnet export: choose another"),
        ("export own --block_length 0", "block_length must be at least 1, got 0"),
        ("generate --runtime jax", "unknown runtime 'jax'; choose from torch, onnx"),
        ("generate --runtime onnx", "exported/state.json is missing: create the folder with fftnet export"),
        ("generate --runtime onnx --checkpoint own", "own/state.json is missing"),
        ("generate --runtime onnx --checkpoint bare", "bare/tokenizer.json is missing"),
        ("generate --runtime onnx --checkpoint out --compile", "compile works with PyTorch models only"),
        ("generate --runtime onnx --checkpoint out --device cuda", "leave out --device cuda"),
        ("generate --int8 --checkpoint own", "int8 is for an exported model: add --runtime onnx"),
    ],
)
def test_a_mistake_ends_in_a_sentence(
    exported: Path,
    words: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(exported)
    for name in ("other", "mine"):
        (exported / name).mkdir(exist_ok=True)
    (exported / "mine" / "state.json").write_text("mine")
    text = (exported / "own" / "config.json").read_text()
    (exported / "other" / "config.json").write_text(text.replace('"FFTNetForCausalLM"', '"Classifier"'))
    (exported / "bare").mkdir(exist_ok=True)
    for path in (exported / "out").iterdir():
        if "tokenizer" not in path.name:
            (exported / "bare" / path.name).write_bytes(path.read_bytes())
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(message, line), line
    assert (exported / "mine" / "state.json").read_text() == "mine"


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    exported: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        if package == "onnxruntime":
            OnnxWriter(exported / "out")
        export_model(FFTNet.from_pretrained(exported / "own"), None, ExportConfig(output=str(exported / "x")))

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"{package} is not installed: pip install '\.\[onnx\]'"):
        use()
