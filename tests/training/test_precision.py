"""In which numbers a run computes: what ``auto`` chooses, what is recorded of it, and what is narrow then."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import VOCAB, Chain, configs, make, next_token, weights
from torch import Tensor, nn

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.addresses import Clock
from fftnet.model.mixers import build_mixer
from fftnet.training import precision
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.utils.trainer import Trainer

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(precision.LAUNCHED, raising=False)


def able(
    monkeypatch: pytest.MonkeyPatch,
    *,
    avx: bool = False,
    amx: bool = False,
    onednn: bool = True,
    gain: float = 2.4,
) -> None:
    """Let the processor be one that has these."""
    monkeypatch.setattr(precision, "product_gain", lambda: gain)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)


def model_of(width: int) -> FFTNet:
    return FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=width, num_heads=4, num_layers=1))


@pytest.mark.parametrize(
    ("processor", "width", "chosen"),
    [
        ({"avx": True}, 128, "bf16"),
        ({"avx": True}, 124, "fp32"),
        ({"avx": True, "gain": 1.0}, 128, "fp32"),
        ({"amx": True}, 256, "bf16"),
        ({}, 256, "fp32"),
        ({"avx": True, "amx": True, "onednn": False}, 256, "fp32"),
    ],
)
def test_auto_takes_bf16_where_a_cpu_has_it_and_it_pays(
    monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], width: int, chosen: str
) -> None:
    able(monkeypatch, **processor)
    assert precision.resolve("auto", CPU, model_of(width)) == chosen


def test_the_gain_of_products_is_measured_once_and_is_a_ratio() -> None:
    precision.product_gain.cache_clear()
    found = precision.product_gain()
    assert 0.05 < found < 50
    assert precision.product_gain() is found


def test_auto_takes_bf16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        # One that only emulates bf16 says so where it is asked whether emulation counts.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert precision.resolve("auto", CUDA, model_of(128)) == chosen
    assert precision.resolve("auto", torch.device("meta"), model_of(128)) == "fp32"


def test_auto_leaves_a_model_of_unknown_width_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, avx=True)
    assert precision.resolve("auto", CPU, nn.Linear(512, 512)) == "fp32"


def test_what_a_person_has_chosen_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, avx=True)
    wide = model_of(128)
    monkeypatch.setenv(precision.LAUNCHED, "no")
    assert precision.resolve("auto", CPU, wide) is None
    assert precision.resolve("bf16", CPU, wide) == "bf16"
    assert AcceleratorConfig().precision == "auto"
    with pytest.raises(ValueError, match="unknown precision 'bf15'; choose from auto, fp32, bf16, fp16"):
        AcceleratorConfig(precision="bf15")


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_a_run_says_and_records_what_auto_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], chosen: str
) -> None:
    able(monkeypatch, avx=chosen == "bf16")
    values: dict[str, Any] = {"max_steps": 1, "eval_every": 1, "progress": True}
    trainer = Trainer(model_of(128), next_token, Chain(1), Chain(1), **configs(tmp_path, **values))
    trainer.train()
    assert f" on cpu in {chosen}, " in capfd.readouterr().err
    assert json.loads((tmp_path / "metrics.json").read_text())["precision"] == chosen
    stored = json.loads((tmp_path / "last" / "training.json").read_text())
    assert stored["settings"]["precision"] == chosen
    assert trainer.distributed.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[chosen]


def test_a_resumed_run_says_that_its_precision_changes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, max_steps=4, eval_every=4, precision="bf16").train()
    make(tmp_path, max_steps=4, eval_every=4, precision="bf16", resume="auto").train()
    assert "the precision changes" not in capfd.readouterr().err
    make(tmp_path, max_steps=4, eval_every=4, resume="auto").train()
    assert "the precision changes from bf16 to fp32" in capfd.readouterr().err
    old = make(tmp_path / "old", max_steps=4, eval_every=4)
    del old.checkpointer.settings["precision"]
    old.train()
    make(tmp_path / "old", max_steps=4, eval_every=4, resume="auto").train()
    assert "the precision changes from one that was not recorded to fp32" in capfd.readouterr().err


def test_training_in_bf16_ends_close_to_float32(tmp_path: Path) -> None:
    """Updates, moments and what is saved are in float32; a few steps part them by round-off alone."""

    def trained(chosen: str) -> tuple[float, Tensor]:
        torch.manual_seed(0)
        model = model_of(128)
        values = {"max_steps": 10, "eval_every": 10, "learning_rate": 1e-3, "precision": chosen}
        settings = configs(tmp_path / chosen, **values)
        trainer = Trainer(model, next_token, Chain(), Chain(seed=1), **settings)
        return trainer.train()[-1]["loss"], weights(trainer)

    plain, plain_weights = trained("fp32")
    narrow, narrow_weights = trained("bf16")
    assert narrow == pytest.approx(plain, abs=0.01)
    assert narrow_weights.dtype == torch.float32
    assert (narrow_weights - plain_weights).norm() < 0.02 * plain_weights.norm()


def test_under_autocast_tokens_are_cast_once_and_sums_are_wide() -> None:
    mixer = build_mixer("addressed_spectral", 128, 4)
    seen: dict[str, torch.dtype] = {}

    def note(name: str, part: nn.Module) -> None:
        part.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0].dtype}))

    for name, part in mixer.named_children():
        if isinstance(part, nn.Linear | Clock):
            note(name, part)
    x = torch.randn(2, 9, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = mixer(x, None, mixer.init_state(2))
    # The kernels' sums reach the last projection as they are.
    assert seen.pop("project_out") == torch.float32
    assert len(seen) == 5
    assert set(seen.values()) == {torch.bfloat16}
    assert mixed.dtype == torch.bfloat16
    assert state.spectrum.dtype == state.mean.dtype == torch.float32
    mixed.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert {parameter.dtype for parameter in mixer.parameters()} == {torch.float32}
    wide = build_mixer("addressed_spectral", 128, 4).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert wide(x.double()).dtype == torch.float64
