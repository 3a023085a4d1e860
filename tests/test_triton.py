"""The Triton backend against direct float64 sums: on the GPU if there is one, else interpreted on the CPU.

Triton decides when it is imported whether it interprets, so without a GPU the tests of the kernels run in a
process of their own, which ``test_the_kernels_interpreted`` starts.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from test_ops import mix_inputs
from torch import Tensor

from fftnet.ops import causal_mix as prefix
from fftnet.ops import dispatch as backends

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
kernels = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="runs within test_the_kernels_interpreted"
)


def mix(backend: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    v, filter_, decay, frequency, bias, mixing, state = inputs
    return prefix.causal_mix(v, filter_, decay, frequency, bias, mixing, state, floor=1e-3, backend=backend)


def results(backend: str, inputs: Sequence[Tensor], device: str = "cpu") -> list[Tensor]:
    """Values, state and the seven gradients, on the CPU."""
    leaves = [x.detach().to(device).requires_grad_() for x in inputs]
    outputs = mix(backend, leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return [x.detach().cpu() for x in (*outputs, *torch.autograd.grad(outputs, leaves, upstream))]


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels run in this process")
def test_the_kernels_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_triton_is_available_with_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu, interpreted, found in [(False, "0", False), (False, "1", True), (True, "0", True)]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        assert ("triton" in backends.available(prefix.BACKENDS)) == found
        assert backends.resolve("auto", prefix.BACKENDS, torch.device("cuda")) == (
            "triton" if found else "fft"
        )
        assert backends.resolve("auto", prefix.BACKENDS, torch.device("cpu")) != "triton"


@kernels
@pytest.mark.parametrize(
    ("batch", "length", "heads", "width", "bins"),
    [
        (2, 1, 1, 3, 2),
        (1, 2, 1, 1, 3),
        (1, 5, 3, 2, 4),
        (1, 63, 2, 3, 1),
        (2, 64, 2, 1, 1),
        (1, 65, 1, 16, 1),
        (1, 131, 1, 3, 2),
    ],
)
def test_values_state_and_gradients(batch: int, length: int, heads: int, width: int, bins: int) -> None:
    inputs = mix_inputs(batch=batch, length=length, heads=heads, width=width, bins=bins)
    expected = results("reference", inputs)
    torch.testing.assert_close(results("triton", inputs, DEVICE), expected, rtol=1e-9, atol=1e-9)


@kernels
def test_float32_is_within_two_in_a_hundred_thousand() -> None:
    inputs = mix_inputs(batch=1, length=65, heads=1, width=3, bins=2)
    expected = results("reference", inputs)
    for one, other in zip(results("triton", [x.float() for x in inputs], DEVICE), expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 2e-5 * other.norm()


@kernels
def test_a_head_wider_than_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from fftnet.ops.causal_mix import triton as prefix_triton

    monkeypatch.setattr(prefix_triton, "LANES", 2)
    monkeypatch.setattr(prefix_triton, "WARP", 2)
    inputs = mix_inputs(batch=1, length=20, heads=2, width=5, bins=1)
    expected = results("reference", inputs)
    torch.testing.assert_close(results("triton", inputs, DEVICE), expected, rtol=1e-9, atol=1e-9)


@kernels
def test_more_chunks_than_are_scanned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fftnet.ops.causal_mix import triton as prefix_triton

    monkeypatch.setattr(prefix_triton, "ROWS", 16)
    inputs = mix_inputs(batch=1, length=273, heads=1, width=1, bins=1)
    expected = results("reference", inputs)
    torch.testing.assert_close(results("triton", inputs, DEVICE), expected, rtol=1e-9, atol=1e-9)


@kernels
def test_bfloat16_is_computed_in_float32() -> None:
    narrow = [x.detach().to(DEVICE, torch.bfloat16) for x in mix_inputs(batch=1, length=19, bins=2)]
    mixed, state = mix("triton", narrow)
    assert (mixed.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wide, _ = mix("triton", [x.float() for x in narrow])
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@kernels
def test_it_continues_from_its_state() -> None:
    v, filter_, *rest, state = [x.detach().to(DEVICE) for x in mix_inputs(batch=1, length=70, bins=2)]
    whole, last = mix("triton", [v, filter_, *rest, state])
    pieces = []
    for span in (slice(0, 1), slice(1, 30), slice(30, 70)):
        piece, state = mix("triton", [v[:, span], filter_[:, span], *rest, state])
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@kernels
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_comes_out_as_nan_and_never_earlier(bad: float) -> None:
    inputs = [x.detach().to(DEVICE) for x in mix_inputs(length=40, heads=2, width=2, bins=1)]
    clean, _ = mix("triton", inputs)
    inputs[0][0, 21, 0, 1] = bad
    mixed, state = mix("triton", inputs)
    assert mixed[0, 21:, 0, 1].isnan().all()
    assert not state[0, 0, :, 0, 1].isfinite().any()
    mixed[0, 21:, 0, 1] = clean[0, 21:, 0, 1]
    torch.testing.assert_close(mixed, clean, rtol=0, atol=0)


@kernels
def test_zero_values_have_the_gradients_of_the_reference() -> None:
    inputs = [torch.zeros_like(x) if x.ndim >= 4 else x for x in mix_inputs(length=9, bins=2)]
    inputs[1] = mix_inputs(length=9, bins=2)[1]
    torch.testing.assert_close(results("triton", inputs, DEVICE), results("reference", inputs))


@kernels
def test_the_operator_is_registered_correctly() -> None:
    inputs = mix_inputs(batch=1, length=17, heads=1, width=2, bins=1)
    inputs = [x.detach().to(DEVICE).requires_grad_() for x in inputs]
    torch.library.opcheck(torch.ops.fftnet.causal_mix.default, (*inputs, 1e-3, "triton"))
