"""Devices, precision, compilation and freed memory: they do not change what is learned."""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from runs import VOCAB, Poisoned, language_model, make, next_token, train_until, weights
from torch import Tensor, nn

from fftnet.devices import DeviceError, pick_device
from fftnet.model.components import Clock
from fftnet.model.mixers import build_mixer
from fftnet.protocols import Objective
from fftnet.training import accelerator, memory
from fftnet.training.accelerator import AcceleratorConfig, TrainingError, product_gain, resolve_precision
from fftnet.utils.trainer import Trainer


def trained(folder: Path, width: int, **values: Any) -> tuple[float, Tensor]:
    """Train a language model; return its last validation loss and its weights."""
    trainer = make(folder, model=language_model(d_model=width), **values)
    return trainer.train()[-1]["loss"], weights(trainer)


def test_an_unusable_device_is_named(tmp_path: Path) -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="device 'warp' can't be used here: choose cpu or auto"):
        pick_device("warp")
    with pytest.raises(TrainingError, match="device meta can't train: choose cpu or auto"):
        make(tmp_path, device="meta")


@pytest.mark.parametrize(
    ("native", "gain", "model", "chosen"),
    [
        (True, 2.4, language_model(d_model=128), "bf16"),
        (True, 2.4, language_model(d_model=124), "fp32"),
        (True, 1.0, language_model(d_model=128), "fp32"),
        (False, 2.4, language_model(d_model=128), "fp32"),
        (True, 2.4, nn.Linear(512, 512), "fp32"),
    ],
)
def test_auto_chooses_bf16_for_wide_models_on_a_processor_that_gains_from_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, gain: float, model: nn.Module, chosen: str
) -> None:
    monkeypatch.delenv(accelerator.LAUNCHED, raising=False)
    monkeypatch.setattr(accelerator, "product_gain", lambda: gain)
    monkeypatch.setattr(accelerator, "has_bf16", lambda device: native)
    assert resolve_precision("auto", torch.device("cpu"), model) == chosen
    monkeypatch.setenv(accelerator.LAUNCHED, "no")
    assert resolve_precision("auto", torch.device("cpu"), model) is None
    assert resolve_precision("fp16", torch.device("cpu"), model) == "fp16"


def test_the_gain_of_bf16_products_is_measured() -> None:
    assert 0.05 < product_gain() < 50
    with pytest.raises(ValueError, match="unknown precision 'bf15'; choose from auto, fp32, bf16, fp16"):
        AcceleratorConfig(precision="bf15")


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_a_run_shows_and_records_the_precision_that_auto_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], chosen: str
) -> None:
    monkeypatch.setattr(accelerator, "resolve_precision", lambda *_: chosen)
    trained(tmp_path, 128, max_steps=1, eval_every=1, progress=True)
    assert f" on cpu in {chosen}, " in capfd.readouterr().err
    assert json.loads((tmp_path / "metrics.json").read_text())["precision"] == chosen
    stored = json.loads((tmp_path / "last" / "training.json").read_text())
    assert stored["settings"]["precision"] == chosen


def test_a_resumed_run_says_that_its_precision_changes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, max_steps=4, eval_every=4, precision="bf16").train()
    make(tmp_path, max_steps=4, eval_every=4, resume="auto").train()
    assert "the precision changes from bf16 to fp32" in capfd.readouterr().err
    old = make(tmp_path / "old", max_steps=4, eval_every=4)
    del old.checkpointer.settings["precision"]
    old.train()
    make(tmp_path / "old", max_steps=4, eval_every=4, resume="auto").train()
    assert "the precision changes from one that was not recorded to fp32" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ({"activation_checkpointing": True}, 0.0),
        ({"accumulation_steps": 2}, 1e-4),
        ({"precision": "bf16"}, 0.05),
    ],
)
def test_precision_and_checkpointing_do_not_change_the_result(
    tmp_path: Path, values: dict[str, Any], tolerance: float
) -> None:
    settings = {"max_steps": 30, "eval_every": 30, "learning_rate": 1e-2}
    plain = trained(tmp_path / "plain", 16, **settings)
    other = trained(tmp_path / "other", 16, **settings, **values)
    assert other[0] == pytest.approx(plain[0], abs=tolerance)
    assert other[1].dtype == torch.float32
    assert torch.equal(plain[1], other[1]) == (tolerance == 0)


def test_under_autocast_tokens_are_cast_once_and_sums_are_wide() -> None:
    mixer = build_mixer("addressed_spectral", 128, 4)
    seen: dict[str, torch.dtype] = {}

    def note(name: str, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0].dtype

    for name, part in mixer.named_children():
        if isinstance(part, nn.Linear | Clock):
            part.register_forward_pre_hook(partial(note, name))
    x = torch.randn(2, 9, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = mixer(x, None, mixer.init_state(2))
    # The last projection gets the sums of the kernels in float32.
    assert seen.pop("project_out") == torch.float32
    assert len(seen) == 5
    assert set(seen.values()) == {torch.bfloat16}
    assert mixed.dtype == torch.bfloat16
    assert state.spectrum.dtype == state.mean.dtype == torch.float32
    mixed.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert {parameter.dtype for parameter in mixer.parameters()} == {torch.float32}


def test_a_loss_scale_changes_nothing_and_falls_on_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate scales losses on GPUs only; its optimizer does the same with a scaler of the CPU."""

    def scaled(name: str, objective: Objective, **values: Any) -> Trainer:
        trainer = make(tmp_path / name, objective=objective, max_steps=4, eval_every=4, **values)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = AcceleratedOptimizer(trainer.distributed.optimizer.optimizer, scaler=scaler)
        trainer.distributed.accelerator.scaler = scaler
        unscale = partial(scaler.unscale_, optimizer.optimizer)
        monkeypatch.setattr(trainer.distributed.accelerator, "unscale_gradients", unscale)
        trainer.distributed.optimizer = optimizer
        return trainer

    plain = make(tmp_path / "plain", max_steps=4, eval_every=4)
    plain.train()
    same = scaled("same", next_token)
    same.train()
    torch.testing.assert_close(weights(same), weights(plain), rtol=1e-6, atol=1e-7)
    bad = Poisoned({2: math.inf})
    assert scaled("overflown", bad).train()[-1]["skipped"] == 1
    stored = json.loads((tmp_path / "overflown" / "last" / "training.json").read_text())
    assert stored["scaler"]["scale"] == 512.0
    again = scaled("overflown", bad, resume="auto")
    again.train()
    assert again.distributed.scaler.get_scale() == 512.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_model_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    plain = make(tmp_path / "plain", max_steps=6, eval_every=6, learning_rate=1e-2)
    compiled = make(tmp_path / "compiled", max_steps=6, eval_every=6, learning_rate=1e-2, compile=True)
    assert compiled.train()[-1]["loss"] == pytest.approx(plain.train()[-1]["loss"], rel=1e-4)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
    again = make(tmp_path / "compiled", max_steps=6, eval_every=6, learning_rate=1e-2, resume="auto")
    again.train()
    assert torch.equal(weights(again), weights(compiled))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_run_with_two_threads_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def prepared(name: str, **values: Any) -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(VOCAB, 256), nn.Dropout(0.1), nn.Linear(256, VOCAB))
        settings = {"max_steps": 20, "eval_every": 20, "save_every": 8, "compile": True} | values
        return make(tmp_path / name, model=model, **settings)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = prepared("whole")
        part = prepared("part")
        whole.train()
        train_until(part, 11)
        again = prepared("part", resume="auto")
        again.train()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(weights(again), weights(whole))


STEPS = """
import json, resource
import torch
from fftnet.training.memory import keep_freed_memory
def median_faults():
    faults = []
    for step in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            x = torch.ones(16, 1024, 1024) + 1
        del x
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(faults)[6]
print(json.dumps([median_faults(), keep_freed_memory(), median_faults()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_most_steps_need_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    before, is_glibc, after = json.loads(done.stdout)
    if not is_glibc:
        pytest.skip("this C library is not glibc")
    # An array of 64 MiB, which glibc by default maps anew each time, has 16,384 pages. The median step
    # counts, because the heap may still grow in the first ones.
    assert before > 16_000
    assert after < 100


def test_another_c_library_is_left_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
