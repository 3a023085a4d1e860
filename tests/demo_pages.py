"""Small checkpoints, and a page that ``fftnet demo`` makes and serves, for tests."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig, load_tokenizer
from fftnet.demo.runtime_files import RUNTIME, is_cached

RUNTIME_NAMES = RUNTIME.files


class Served(NamedTuple):
    """A page and the process that serves it."""

    folder: Path
    """Folder with ``own``, the checkpoint, and ``page``."""
    url: str
    told: str
    """Line that was printed before the address."""


def save(folder: Path, **fields: object) -> None:
    """Write a checkpoint of a small model over bytes with random weights; it does not end its text."""
    folder.mkdir()
    # A session fixture runs before the fixture that seeds each test.
    torch.manual_seed(4)
    tokenizer = load_tokenizer("bytes")
    sizes = {"vocab_size": tokenizer.vocab_size, "d_model": 16, "max_seq_length": 16}
    model = randomise(FFTNet(FFTNetConfig(**(sizes | fields))))  # pyright: ignore[reportArgumentType]
    model.float().save_pretrained(folder)
    tokenizer.save(folder)


def stand_ins(folder: Path) -> None:
    """Write files with the names of the runtime's."""
    folder.mkdir()
    for name in RUNTIME_NAMES:
        (folder / name).write_text(f"stand-in of {name}")


def old_page(folder: Path) -> None:
    """Write an older page, with weights that a new page does not have."""
    (folder / "model").mkdir(parents=True)
    for name in ("state.json", "older.onnx"):
        (folder / "model" / name).write_text("old")


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Run the command with the cached runtime, or with stand-ins for it.

    The model has both mixers with a spectrum, and two layers of one share a tensor. The page replaces an
    older one.
    """
    save(folder / "own", mixers=("addressed_spectral", "delta_spectral"), num_layers=3)
    old_page(folder / "page")
    stand_ins(folder / "dist")
    words = [] if is_cached() else ["--runtime_files", "dist"]
    command = [sys.executable, "-m", "fftnet", "demo", "own", "--port", "0", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        address = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", address)
        assert found is not None, process.communicate(timeout=60)
        yield Served(folder, found[1], told)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()
