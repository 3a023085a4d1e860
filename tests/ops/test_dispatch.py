"""The choice of a backend: names, use_backend, the environment variable, fallbacks and their messages."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import python
from operators import ADDRESS_STEP, KEYED_MIX, LONG, OPERATORS, SHORT_CONV, Operator

from fftnet.ops import decode, keyed_mix, prefix_context, short_conv, spectral_mix, use_backend
from fftnet.ops.checks import Signature

CPU = torch.zeros(2, 17, 16)
SIZES = {"C": 24, "D": 16}


@pytest.fixture(autouse=True)
def _auto() -> Iterator[None]:
    """Start each test from the default choice, whatever the environment says."""
    with use_backend("auto"):
        yield


@pytest.mark.parametrize("operator", LONG, ids=str)
def test_every_operator_of_texts_has_a_portable_and_a_reference_form(operator: Operator) -> None:
    assert {"torch", "reference"} <= set(operator.backends.available())


CHOICES = r"unknown backend 'magic'; choose from auto, torch, (numba, )?(triton, )?reference"


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_an_unknown_backend_is_refused_with_the_choices(operator: Operator) -> None:
    with pytest.raises(ValueError, match=CHOICES):
        operator.call(*operator.make().values(), backend="magic")


def test_a_block_on_an_unknown_backend_is_refused_at_its_beginning() -> None:
    with pytest.raises(ValueError, match=CHOICES), use_backend("magic"):
        pytest.fail("the block was entered")


def test_a_backend_that_can_not_run_here_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sentence = "the backend 'triton' can't run here: there is no GPU with CUDA; choose from auto, torch"
    with pytest.raises(ValueError, match=sentence):
        KEYED_MIX.call(*KEYED_MIX.make().values(), backend="triton")


def test_triton_is_available_with_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    for gpu, interpreted, found in [(False, "0", False), (False, "1", True), (True, "0", True)]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        assert ("triton" in keyed_mix.BACKENDS.available()) == found
        assert keyed_mix.BACKENDS.choose("auto", SIZES, CPU) != "triton"


def test_auto_is_the_fastest_that_takes_the_tensors() -> None:
    pytest.importorskip("numba")
    meta = CPU.to("meta")
    for backends in (
        keyed_mix.BACKENDS,
        spectral_mix.BACKENDS,
        short_conv.BACKENDS,
        prefix_context.BACKENDS,
    ):
        assert backends.choose("auto", SIZES, CPU) == "numba"
        assert backends.choose("auto", SIZES, meta) == "torch"
    assert decode.BACKENDS.choose("auto", SIZES, CPU) == "torch"
    with torch.no_grad():
        assert decode.BACKENDS.choose("auto", SIZES, CPU) == "numba"


def test_tensors_that_a_backend_can_not_take_go_to_torch() -> None:
    pytest.importorskip("numba")
    mask = torch.ones(2, 17, dtype=torch.bool)
    assert keyed_mix.BACKENDS.choose("numba", SIZES, CPU.to("meta")) == "torch"
    assert short_conv.BACKENDS.choose("numba", {"C": 6, "D": 3}, CPU) == "torch"
    assert prefix_context.BACKENDS.choose("numba", SIZES, CPU, CPU, CPU, mask) == "torch"
    with torch.no_grad():
        assert decode.BACKENDS.choose("numba", SIZES, CPU, CPU.bfloat16()) == "torch"


def test_the_registered_operator_refuses_tensors_that_a_backend_can_not_take() -> None:
    pytest.importorskip("numba")
    inputs = SHORT_CONV.make(width=3).values()
    with pytest.raises(ValueError, match="the registered short_conv can't run on the backend 'numba'"):
        torch.ops.fftnet.short_conv(*inputs, 3, "numba")
    with pytest.raises(ValueError, match="unknown backend 'magic'"):
        torch.ops.fftnet.short_conv(*inputs, 3, "magic")
    with pytest.raises(ValueError, match="the registered short_conv can't run on the backend 'reference'"):
        torch.ops.fftnet.short_conv(*inputs, 3, "reference")


def test_the_innermost_block_counts_and_ends() -> None:
    signature = Signature("any", {"x": "B T D"})

    def select(backend: str | None) -> str:
        return keyed_mix.BACKENDS.select(signature, backend, CPU)

    with use_backend("torch"):
        assert select(None) == "torch"
        with use_backend("reference"):
            assert select(None) == "reference"
            assert select("torch") == "torch"
        with pytest.raises(KeyError), use_backend("reference"):
            raise KeyError
        assert select(None) == "torch"
    assert select(None) == select("auto")


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_a_block_has_the_power_of_the_argument(operator: Operator) -> None:
    inputs = list(operator.make().values())
    for backend in operator.fast():
        expected = operator.call(*inputs, backend=backend)
        with use_backend(backend):
            torch.testing.assert_close(operator.call(*inputs), expected, rtol=0, atol=0)


def test_a_compiled_function_follows_the_block() -> None:
    torch.compiler.reset()
    inputs = [x.float() for x in KEYED_MIX.make().values()]
    mix = KEYED_MIX.call
    compiled = torch.compile(mix, fullgraph=True, backend="aot_eager")
    for backend in ("auto", "reference", "auto"):
        with use_backend(backend):
            torch.testing.assert_close(compiled(*inputs), mix(*inputs), rtol=0, atol=0)
    with use_backend("reference"):
        exact = mix(*inputs)
    assert (exact[0] != mix(*inputs)[0]).any()


USED = """
import torch
from fftnet.ops import dispatch, keyed_mix
from fftnet.ops.checks import Signature
signature = Signature("f", {"x": "B"})
print(keyed_mix.BACKENDS.select(signature, None, torch.zeros(1)))
with dispatch.use_backend("auto"):
    print(keyed_mix.BACKENDS.select(signature, None, torch.zeros(1)))
"""


def test_the_environment_variable_names_the_backend() -> None:
    first, second = python("-c", USED, environment={"FFTNET_BACKEND": "reference"}).stdout.split()
    assert first == "reference"
    assert second in ("numba", "torch")
    done = python("-c", USED, code=1, environment={"FFTNET_BACKEND": "magic"})
    assert "BackendError: unknown backend 'magic'; choose from auto, torch" in done.stderr


BROKEN = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
{setup}
import torch
from fftnet import FFTNet, FFTNetConfig
text = torch.arange(9)[None]
for causal in (False, True):
    model = FFTNet(FFTNetConfig(vocab_size=11, d_model=16, num_heads=2, num_layers=2, causal=causal))
    model(text).sum().backward()
with torch.no_grad():
    logits, state = model.prefill(text[:, :8])
    logits, _ = model.step(text[:, 8], state)
    torch.testing.assert_close(logits, model(text)[:, -1])
assert "fftnet.ops.keyed_mix.cpu" not in sys.modules
"""


def without_numba(setup: str, **environment: str) -> list[str]:
    """Return the messages of a program that uses all operators where Numba can't be used."""
    variables = {"FFTNET_BACKEND": "auto"} | environment
    code = BROKEN.format(setup=setup)
    return told(python("-W", "error", "-c", code, environment=variables).stderr)


def told(output: str) -> list[str]:
    return [line for line in output.splitlines() if "plain PyTorch" in line]


@pytest.mark.parametrize(
    ("setup", "environment", "told_of"),
    [
        ("sys.modules['numba'] = None", {}, r"INFO numba is not installed: on cpu.*; pip install numba"),
        ("", {"NUMBA_DISABLE_JIT": "1"}, r"WARNING numba is switched off by.*; unset NUMBA_DISABLE_JIT"),
    ],
)
def test_a_missing_package_is_told_once_and_replaced(
    setup: str, environment: dict[str, str], told_of: str
) -> None:
    pytest.importorskip("numba")
    (line,) = without_numba(setup, **environment)
    assert re.match(f"{told_of}, or set FFTNET_BACKEND=torch", line)


def test_a_broken_package_is_told_once_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.4.')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    (line,) = without_numba("", PYTHONPATH=path)
    assert line.startswith("WARNING numba is installed, but its import fails (ImportError: Numba needs NumPy")
    assert "install versions that fit each other, or set FFTNET_BACKEND=torch" in line
    assert without_numba("", PYTHONPATH=path, FFTNET_BACKEND="torch") == []


def test_numba_switched_off_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    assert "numba" in keyed_mix.BACKENDS.available()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    sentence = "the backend 'numba' can't run here: numba is switched off by NUMBA_DISABLE_JIT; choose from"
    with pytest.raises(ValueError, match=sentence):
        keyed_mix.BACKENDS.choose("numba", SIZES, CPU)


def test_nothing_is_told_where_nothing_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("numba")
    with caplog.at_level(logging.INFO, logger="fftnet"):
        for operator in (KEYED_MIX, SHORT_CONV):
            operator.call(*operator.make().values())
        decode.BACKENDS.choose("auto", SIZES, *ADDRESS_STEP.make().values())
    assert told(caplog.text) == []
    assert "numba" in keyed_mix.BACKENDS.available()
