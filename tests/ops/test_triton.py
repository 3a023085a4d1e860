"""The Triton backend against direct float64 sums: on the GPU if there is one, else interpreted on the CPU.

Triton decides when it is imported whether it interprets, so without a GPU the tests of the kernels run in a
process of their own, which ``test_the_kernels_interpreted`` starts.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from operators import CAUSAL_MIX, KEYED_MIX, backend_suite, causal_inputs, compare, keyed_inputs, mix, results
from torch import Tensor

from fftnet.ops.keyed_mix import keyed_mix

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
kernels = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="runs within test_the_kernels_interpreted"
)


def mix_inputs(**sizes: int) -> list[Tensor]:
    return list(causal_inputs(**sizes).values())


def keyed(*, speed: float = 1.0, **sizes: int) -> list[Tensor]:
    """Inputs of keyed mixing whose clock runs so many times faster."""
    inputs = keyed_inputs(**sizes)
    return list((inputs | {"clock": inputs["clock"] * speed}).values())


def on_device(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.to(DEVICE) for x in inputs]


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels run in this process")
def test_the_kernels_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


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
    compare(CAUSAL_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_float32_is_within_two_in_a_hundred_thousand() -> None:
    inputs = mix_inputs(batch=1, length=65, heads=1, width=3, bins=2)
    expected = results(CAUSAL_MIX, inputs, "reference")
    actual = results(CAUSAL_MIX, [x.float() for x in inputs], "triton", DEVICE)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 2e-5 * other.norm()


@kernels
def test_a_head_wider_than_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from fftnet.ops.causal_mix import gpu, triton_tiles

    monkeypatch.setattr(gpu, "LANES", 2)
    monkeypatch.setattr(triton_tiles, "WARP", 2)
    inputs = mix_inputs(batch=1, length=20, heads=2, width=5, bins=1)
    compare(CAUSAL_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_more_chunks_than_are_scanned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from fftnet.ops.causal_mix import triton_tiles

    monkeypatch.setattr(triton_tiles, "ROWS", 16)
    inputs = mix_inputs(batch=1, length=273, heads=1, width=1, bins=1)
    compare(CAUSAL_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_bfloat16_is_computed_in_float32() -> None:
    narrow = [x.to(DEVICE, torch.bfloat16) for x in mix_inputs(batch=1, length=19, bins=2)]
    mixed, state = mix(*narrow, backend="triton")
    assert (mixed.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wide, _ = mix(*(x.float() for x in narrow), backend="triton")
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@kernels
def test_it_continues_from_its_state() -> None:
    v, filter_, *rest, state = on_device(mix_inputs(batch=1, length=70, bins=2))
    whole, last = mix(v, filter_, *rest, state, backend="triton")
    pieces = []
    for span in (slice(0, 1), slice(1, 30), slice(30, 70)):
        piece, state = mix(v[:, span], filter_[:, span], *rest, state, backend="triton")
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@kernels
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_comes_out_as_nan_and_never_earlier(bad: float) -> None:
    inputs = on_device(mix_inputs(length=40, heads=2, width=2, bins=1))
    clean, _ = mix(*inputs, backend="triton")
    inputs[0][0, 21, 0, 1] = bad
    mixed, state = mix(*inputs, backend="triton")
    assert mixed[0, 21:, 0, 1].isnan().all()
    assert not state[0, 0, :, 0, 1].isfinite().any()
    mixed[0, 21:, 0, 1] = clean[0, 21:, 0, 1]
    torch.testing.assert_close(mixed, clean, rtol=0, atol=0)


@kernels
def test_zero_values_have_the_gradients_of_the_reference() -> None:
    inputs = [torch.zeros_like(x) if x.ndim >= 4 else x for x in mix_inputs(length=9, bins=2)]
    inputs[1] = mix_inputs(length=9, bins=2)[1]
    compare(CAUSAL_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_values_gradients_and_registration() -> None:
    backend_suite(CAUSAL_MIX, "triton", DEVICE, batch=1, heads=1, width=2, bins=1)


@kernels
@pytest.mark.parametrize(
    ("batch", "length", "heads", "width", "bins", "speed"),
    [
        (2, 1, 2, 3, 2, 1.0),
        (1, 2, 1, 1, 1, 1.0),
        (1, 37, 1, 5, 3, 0.0),
        (1, 66, 1, 65, 3, 1.0),
        (2, 67, 1, 3, 1, 300.0),
        (1, 131, 1, 2, 17, 20.0),
    ],
)
def test_keyed_values_state_and_gradients(
    batch: int, length: int, heads: int, width: int, bins: int, speed: float
) -> None:
    inputs = keyed(batch=batch, length=length, heads=heads, width=width, bins=bins, speed=speed)
    compare(KEYED_MIX, inputs, "triton", device=DEVICE)


@kernels
@pytest.mark.parametrize(("speed", "tolerance"), [(1.0, 2e-5), (20.0, 5e-4)])
def test_keyed_mixing_in_float32(speed: float, tolerance: float) -> None:
    inputs = keyed(batch=1, length=90, heads=1, speed=speed)
    expected = results(KEYED_MIX, inputs, "reference")
    actual = results(KEYED_MIX, [x.float() for x in inputs], "triton", DEVICE)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= tolerance * other.norm()


@kernels
def test_keyed_mixing_of_more_than_is_handled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More channels than a program has, more chunks than a step of the scan."""
    from fftnet.ops.keyed_mix import triton_kernels, triton_tiles

    monkeypatch.setattr(triton_kernels, "LANES", 16)
    monkeypatch.setattr(triton_tiles, "WARP", 16)
    monkeypatch.setattr(triton_tiles, "ROWS", 2)
    inputs = keyed(batch=1, length=200, heads=1, width=17, bins=1, speed=0.1)
    compare(KEYED_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_keyed_mixing_of_bfloat16_is_computed_in_float32() -> None:
    narrow = [x.to(DEVICE, torch.bfloat16) for x in keyed(batch=1, length=19, bins=2)]
    mixed, state = keyed_mix(*narrow, backend="triton")
    assert (mixed.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wide, _ = keyed_mix(*(x.float() for x in narrow), backend="triton")
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@kernels
def test_keyed_mixing_continues_from_its_state() -> None:
    *inputs, state = on_device(keyed(batch=1, length=100, heads=1, bins=2))
    whole, last = keyed_mix(*[*inputs, state], backend="triton")
    pieces = []
    for span in (slice(0, 1), slice(1, 30), slice(30, 100)):
        streams = [x[:, span] for x in inputs[:4]]
        piece, state = keyed_mix(*[*streams, *inputs[4:], state], backend="triton")
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@kernels
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_bad_value_never_leaves_its_stretch_for_an_earlier_one(bad: float) -> None:
    inputs = on_device(keyed(length=70, heads=1, width=2, bins=1))
    clean, _ = keyed_mix(*inputs, backend="triton")
    inputs[0][0, 21, 0, 1] = bad
    mixed, state = keyed_mix(*inputs, backend="triton")
    assert not mixed[0, 21:, 0, 1].isfinite().any()
    assert not state[0, 0, :, :, 1].isfinite().any()
    mixed[0, 16:, 0, 1] = clean[0, 16:, 0, 1]
    torch.testing.assert_close(mixed, clean, rtol=0, atol=0)


@kernels
def test_keyed_mixing_and_its_registration() -> None:
    backend_suite(KEYED_MIX, "triton", DEVICE, batch=1, heads=1, width=2, bins=1)


@pytest.mark.skipif(INTERPRETED, reason="what is interpreted is not compiled")
@pytest.mark.parametrize("reverse", [False, True])
def test_keyed_kernels_compile_for_a_gpu(
    reverse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter forgives what the compiler does not; it needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fftnet.ops.keyed_mix import triton_kernels, triton_tiles

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"tokens", "heads", "width", "bins"}
    for kernel in (triton_kernels._ends, triton_kernels._read, triton_kernels._match, triton_tiles._carry):
        constants: dict[str, Any] = {"REVERSE": reverse, "LANES": 32, "ROWS": 64}
        constants = {name: x for name, x in constants.items() if name in kernel.arg_names}
        types = {name: "i32" if name in sizes else "*fp32" for name in kernel.arg_names}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
