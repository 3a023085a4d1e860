"""Additions to a copy of the package, as docs/architecture.md describes them, and the files they touch."""

import json
import shutil
from pathlib import Path

import pytest
from commands import ROOT, python

EXAMPLES = Path(__file__).parent / "extending"
TINY = "--d_model 16 --num_heads 4 --num_layers 2 --batch_size 4 --max_steps 2 --trackers none --no_progress"


class Copy:
    """A copy of the package that records which of its files are changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        shutil.copytree(ROOT / "fftnet", folder / "fftnet", ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, example: str, place: str) -> None:
        shutil.copy(EXAMPLES / example, self.folder / "fftnet" / place)
        self.touched.add(place)

    def enter(self, table: str, *entries: tuple[str, str]) -> None:
        """Insert lines into a file, each before another line."""
        path = self.folder / "fftnet" / table
        text = path.read_text()
        for before, line in entries:
            assert text.count(before) == 1, before
            text = text.replace(before, line + before)
        path.write_text(text)
        self.touched.add(table)

    def run(self, *words: str, backend: str = "auto") -> str:
        paths = {"PYTHONPATH": str(self.folder), "FFTNET_BACKEND": backend}
        return python(*words, folder=self.folder, environment=paths).stdout

    def command(self, words: str) -> str:
        # Compiling the kernels of the copy would take longer than the training.
        return self.run("-m", "fftnet", *words.split(), backend="torch")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_mixer_with_a_setting_is_two_files(copy: Copy) -> None:
    copy.add("decay.py", "model/mixers/decay.py")
    copy.enter(
        "model/mixers/__init__.py",
        ("from fftnet.model.mixers.fnet import", "from fftnet.model.mixers.decay import DecayMixer\n"),
        ('    "fnet": FNetMixer,\n', '    "decay": DecayMixer,\n'),
    )
    copy.command(f"train {TINY} --pattern_complexity 0 --num_samples 8 --mixers decay --decay.half_life 3")
    config = json.loads((copy.folder / "outputs" / "last" / "config.json").read_text())
    assert config["mixer_configs"] == {"decay": {"half_life": 3.0}}
    copy.command("generate --max_new_tokens 3")
    assert len(copy.touched) == 2


def test_a_regression_task_with_a_corpus_of_numbers_is_three_files(copy: Copy) -> None:
    copy.add("regression.py", "tasks/regression.py")
    copy.add("numbers.py", "data/numbers.py")
    copy.enter(
        "tasks/__init__.py",
        ("from fftnet.tasks.text import", "from fftnet.tasks.regression import Regression\n"),
        ('    "classification": Classification,\n', '    "regression": Regression,\n'),
    )
    rows = [{"text": f"{n} {'up' if n % 3 else 'down'}", "score": 2.0 if n % 3 else -1.0} for n in range(60)]
    (copy.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = TINY.replace("--max_steps 2", "--max_steps 60")
    copy.command(
        f"train --task regression --regression.number_field score --data rows.jsonl --no_causal {flags}"
    )
    report = json.loads((copy.folder / "outputs" / "metrics.json").read_text())
    # The best constant prediction, 2, has an error of 1.
    assert report["final"]["mean_error"] < 0.8
    assert len(copy.touched) == 3


def test_a_kind_of_corpus_is_two_files(copy: Copy) -> None:
    copy.add("shout.py", "data/sources/shout.py")
    copy.enter(
        "data/sources/__init__.py",
        ("from fftnet.data.sources.tables", "from fftnet.data.sources.shout import Shout\n"),
        ('    ".jsonl": JsonLines(),\n', '    ".shout": Shout(),\n'),
    )
    (copy.folder / "a.shout").write_text("\n".join(f"once there were {n} owls" for n in range(400)))
    copy.command(f"train {TINY} --max_seq_length 32 --data a.shout")
    text = copy.run(
        "-c",
        "from fftnet.utils.dataset import DataConfig, training_texts\n"
        "print(next(iter(training_texts(DataConfig(data=['a.shout'])))))",
    )
    assert text.isupper()
    assert len(copy.touched) == 2


def test_a_backend_is_two_files(copy: Copy) -> None:
    copy.add("double.py", "ops/spectral_mix/double.py")
    copy.enter("ops/spectral_mix/__init__.py", ("    reference=anything,\n", "    double=anything,\n"))
    copy.run(
        "-c",
        "import torch\n"
        "from fftnet.ops import use_backend\n"
        "from fftnet.ops.spectral_mix import spectral_mix\n"
        "x, w, b = torch.randn(2, 9, 8, requires_grad=True), torch.randn(2, 4, 5), torch.randn(4, 5)\n"
        "with use_backend('double'):\n"
        "    y = spectral_mix(x, w, b)\n"
        "y.sum().backward()\n"
        "assert torch.allclose(y, spectral_mix(x, w, b, backend='reference'), atol=1e-5)\n",
    )
    assert len(copy.touched) == 2
