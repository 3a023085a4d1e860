"""The Triton backend against direct float64 sums: on the GPU if present, else interpreted on the CPU.

Triton decides at its import if it interprets. Without a GPU, ``test_the_kernels_interpreted`` therefore runs
the tests of the kernels in another process.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import python
from operators import KEYED_MIX, backend_suite, compare, results
from torch import Tensor

from fftnet.ops.keyed_mix import keyed_mix

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
kernels = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="runs within test_the_kernels_interpreted"
)


def inputs_of(**sizes: Any) -> list[Tensor]:
    return list(KEYED_MIX.make(**sizes).values())


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels run in this process")
def test_the_kernels_interpreted() -> None:
    words = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    done = python(*words, environment={"TRITON_INTERPRET": "1"})
    assert "passed" in done.stdout


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
def test_values_state_and_gradients(
    batch: int, length: int, heads: int, width: int, bins: int, speed: float
) -> None:
    inputs = inputs_of(batch=batch, length=length, heads=heads, width=width, bins=bins, speed=speed)
    compare(KEYED_MIX, inputs, "triton", device=DEVICE)


@kernels
@pytest.mark.parametrize(("speed", "tolerance"), [(1.0, 2e-5), (20.0, 5e-4)])
def test_float32_is_close_to_float64(speed: float, tolerance: float) -> None:
    inputs = inputs_of(batch=1, length=90, heads=1, speed=speed)
    expected = results(KEYED_MIX, inputs, "reference")
    actual = results(KEYED_MIX, [x.float() for x in inputs], "triton", DEVICE)
    for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= tolerance * other.norm()


@kernels
def test_more_channels_than_a_program_and_more_chunks_than_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fftnet.ops.keyed_mix.triton_kernels.LANES", 16)
    monkeypatch.setattr("fftnet.ops.gpu.scan.WARP", 16)
    monkeypatch.setattr("fftnet.ops.gpu.scan.ROWS", 2)
    inputs = inputs_of(batch=1, length=200, heads=1, width=17, bins=1, speed=0.1)
    compare(KEYED_MIX, inputs, "triton", device=DEVICE)


@kernels
def test_bfloat16_is_computed_in_float32() -> None:
    narrow = [x.to(DEVICE, torch.bfloat16) for x in inputs_of(batch=1, length=19, bins=2)]
    mixed, state = keyed_mix(*narrow, backend="triton")
    assert (mixed.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wide, _ = keyed_mix(*(x.float() for x in narrow), backend="triton")
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@kernels
def test_it_continues_from_its_state() -> None:
    *inputs, state = (x.to(DEVICE) for x in inputs_of(batch=1, length=100, heads=1, bins=2))
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
def test_a_bad_value_changes_nothing_in_earlier_stretches(bad: float) -> None:
    inputs = [x.to(DEVICE) for x in inputs_of(length=70, heads=1, width=2, bins=1)]
    clean, _ = keyed_mix(*inputs, backend="triton")
    inputs[0][0, 21, 0, 1] = bad
    mixed, state = keyed_mix(*inputs, backend="triton")
    assert not mixed[0, 21:, 0, 1].isfinite().any()
    assert not state[0, 0, :, :, 1].isfinite().any()
    mixed[0, 16:, 0, 1] = clean[0, 16:, 0, 1]
    torch.testing.assert_close(mixed, clean, rtol=0, atol=0)


@kernels
def test_strides_and_registration() -> None:
    backend_suite(KEYED_MIX, "triton", DEVICE, batch=1, heads=1, width=2, bins=1)


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("reverse", [False, True])
def test_kernels_compile_for_a_gpu(reverse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is stricter than the interpreter, and needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fftnet.ops.gpu import scan
    from fftnet.ops.keyed_mix import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"tokens", "heads", "width", "bins"}
    for kernel in (triton_kernels._ends, triton_kernels._read, triton_kernels._match, scan._carry):
        constants: dict[str, Any] = {"REVERSE": reverse, "LANES": 32, "ROWS": 64}
        constants = {name: x for name, x in constants.items() if name in kernel.arg_names}
        types = {name: "i32" if name in sizes else "*fp32" for name in kernel.arg_names}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
