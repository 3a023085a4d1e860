"""Values of version 0.2 that no later version may change: logits, losses, splits, checkpoints, names, flags.

`python tests/test_frozen.py` writes tests/frozen/ anew; it is for a change that is meant to change them.
"""

import contextlib
import hashlib
import io
import json
import random
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fftnet
from fftnet import DataConfig, FFTNet, FFTNetConfig, RunConfig
from fftnet.cli.commands import COMMANDS
from fftnet.cli.main import main
from fftnet.data import grammar
from fftnet.utils.dataset import load_data
from fftnet.utils.tokenizer import load_tokenizer

FROZEN = Path(__file__).parent / "frozen"
SHIPPED = Path(__file__).parents[1] / "models" / "shakespeare"
PROMPT = "ROMEO.\nBut soft, what light through yonder window breaks?\nIt is the east"
CORPORA = ("text.txt", "rows.jsonl", "synthetic", "python-docs", "python-source")
OF_PYTHON = ("python-docs", "python-source")
"""Corpora whose text is that of the Python which runs the tests."""
MIDDLE = "step-00000012"
"""The checkpoint of a run of 24 steps that is kept."""
RUN: dict[str, Any] = {
    **{"data": "text.txt", "d_model": 16, "num_layers": 2, "num_heads": 2, "max_seq_length": 32},
    **{"batch_size": 8, "learning_rate": 3e-3, "device": "cpu", "progress": False, "trackers": ["none"]},
    **{"addressed_spectral": {"num_bins": 8}, "eval_every": 6, "keep_last": 9, "output_dir": "run"},
}


def write_texts(folder: Path) -> None:
    """The same two small corpora on every machine."""
    rng = random.Random(0)
    documents = [" ".join(grammar.sample(rng, 0.5).text for _ in range(8)) + "\n" for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(documents), encoding="utf-8")
    rows = "\n".join(json.dumps({"text": f"{number}: {text}"}) for number, text in enumerate(documents))
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")


def logits_of(name: str) -> torch.Tensor:
    """Logits of the shipped model or of a new one."""
    if name == "bidirectional":
        torch.manual_seed(3)
        mixers = ("spectral", "bidirectional_attention", "fnet")
        config = FFTNetConfig(
            vocab_size=50,
            d_model=24,
            num_layers=3,
            num_heads=3,
            max_seq_length=64,
            causal=False,
            mixers=mixers,
        )
        model = FFTNet(config).double().eval()
        ids = torch.arange(37)[None] * 7 % 50
        with torch.no_grad():
            return model(ids)[0]
    model, tokenizer = fftnet.load(SHIPPED, device="cpu")
    ids = torch.tensor([[tokenizer.eot, *tokenizer.encode(PROMPT)]])
    with torch.no_grad():
        if name == "forward":
            return model(ids)[0]
        logits, state = model.prefill(ids[:, :40])
        rows = [logits[0]]
        for position in range(40, ids.shape[1]):
            logits, state = model.step(ids[:, position], state)
            rows.append(logits)
        return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows])


def loss_curve() -> list[list[float]]:
    """Training and validation loss of 200 steps, every 20."""
    flags = RUN | {"output_dir": "curve", "eval_every": 20, "max_steps": 200, "save_model": False}
    history = fftnet.train(**flags).history
    return [[row["train_loss"], row["loss"]] for row in history]


def corpus_digest(word: str) -> dict[str, str]:
    """Digests of the batches of each split."""
    config = DataConfig(data=[word], batch_size=4, num_samples=64, cache_dir="cache")
    splits = load_data(config, load_tokenizer("bytes"), 160)
    found: dict[str, str] = {}
    for name in ("train", "valid", "test"):
        batches = getattr(splits, name)
        sha = hashlib.sha256(str(batches.num_batches).encode())
        for number in range(min(batches.num_batches, 50)):
            batch = batches.batch(1, number)
            for array in (batch.inputs, batch.targets, batch.loss_mask):
                sha.update(np.ascontiguousarray(array.numpy()).astype(np.int64).tobytes())
        found[name] = sha.hexdigest()
    return found


def shapes(model: FFTNet) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def flags_of(command: str) -> list[str]:
    """Names of the flags that the help of a command shows."""
    out = io.StringIO()
    option = "--help_all" if COMMANDS[command].common else "--help"
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, option])
    return sorted(set(re.findall(r"^  (?:-\w, )?--([\w.]+)", out.getvalue(), flags=re.MULTILINE)))


def run_logits(folder: str) -> np.ndarray:
    model, tokenizer = fftnet.load(f"{folder}/{MIDDLE}", device="cpu")
    with torch.no_grad():
        return model(torch.tensor([tokenizer.encode("the cat")]))[0].double().numpy()


def names() -> dict[str, Any]:
    """Everything that is compared as text."""
    return {
        "public": sorted(fftnet.__all__),
        "flags": {command: flags_of(command) for command in COMMANDS if command != "lm_eval"},
        "defaults": json.loads(json.dumps(asdict(RunConfig()), default=str)),
        "parameters": shapes(FFTNet.from_pretrained(SHIPPED)),
        "corpora": {word: corpus_digest(word) for word in CORPORA},
    }


LOGITS = ("forward", "stepped", "bidirectional")
GOLDEN = np.load(FROZEN / "logits.npz") if (FROZEN / "logits.npz").is_file() else {}
KEPT: dict[str, Any] = (
    json.loads((FROZEN / "names.json").read_text(encoding="utf-8"))
    if (FROZEN / "names.json").is_file()
    else {}
)


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_of_version_0_2(name: str) -> None:
    logits = logits_of(name).double().numpy()
    np.testing.assert_allclose(
        logits, GOLDEN[name], rtol=1e-4, atol=2e-4 if name != "bidirectional" else 1e-6
    )


def test_losses_of_200_steps_are_those_of_version_0_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    np.testing.assert_allclose(loss_curve(), KEPT["losses"], rtol=3e-3)


@pytest.mark.parametrize("word", CORPORA)
def test_splits_and_tokens_are_those_of_version_0_2(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if word in OF_PYTHON and KEPT["python"] != sys.version:
        pytest.skip(f"the corpus of another Python: {KEPT['python']}")
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    assert corpus_digest(word) == KEPT["corpora"][word]


def test_parameters_of_a_checkpoint_have_the_same_names_and_shapes() -> None:
    assert shapes(FFTNet.from_pretrained(SHIPPED)) == KEPT["parameters"]


def test_public_names_are_the_same() -> None:
    assert sorted(fftnet.__all__) == KEPT["public"]


@pytest.mark.parametrize("command", sorted(KEPT.get("flags", {})))
def test_flags_are_the_same(command: str) -> None:
    assert flags_of(command) == KEPT["flags"][command]


def test_defaults_of_a_run_are_the_same() -> None:
    assert json.loads(json.dumps(asdict(RunConfig()), default=str)) == KEPT["defaults"]


def test_a_run_folder_of_version_0_2_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    shutil.copytree(FROZEN / "run", tmp_path / "run")
    np.testing.assert_allclose(run_logits("run"), GOLDEN["run"], rtol=1e-4, atol=1e-5)
    history = fftnet.train(**RUN, max_steps=24, resume="auto").history
    found = [[row["train_loss"], row["loss"]] for row in history]
    np.testing.assert_allclose(found, KEPT["resumed"], rtol=1e-3)


def freeze() -> None:
    """Write what this version gives."""
    with contextlib.chdir(FROZEN):
        write_texts(FROZEN)
        kept = names() | {"losses": loss_curve(), "python": sys.version}
        shutil.rmtree("run", ignore_errors=True)
        history = fftnet.train(**RUN, max_steps=24).history
        kept["resumed"] = [[row["train_loss"], row["loss"]] for row in history]
        for path in Path("run").iterdir():
            if path.name != MIDDLE:
                path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        run = run_logits("run")
        for path in ("curve", "cache"):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("text.txt", "rows.jsonl"):
            Path(name).unlink()
    arrays: Any = {name: logits_of(name).double().numpy() for name in LOGITS}
    np.savez_compressed(FROZEN / "logits.npz", **arrays | {"run": run})
    (FROZEN / "names.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    freeze()
