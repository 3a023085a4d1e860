"""The ops against direct float64 sums: values, every gradient, states, odd shapes, bad input."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fftnet.ops import attention, fourier, numerics, padding, reference, streaming
from fftnet.ops import causal_mix as prefix
from fftnet.ops import dispatch as backends
from fftnet.ops import gated_conv as gate
from fftnet.ops import prefix_context as context
from fftnet.ops.causal_mix import torch as prefix_fft

FAST = [name for name in backends.available(prefix.BACKENDS) if name not in ("reference", "triton")]
LENGTHS = [1, 2, 3, 17, 64, 65, 255, 256, 257, 311]


def mix_inputs(
    *, batch: int = 2, length: int = 17, heads: int = 2, width: int = 3, bins: int = 4, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decay = normal(heads, bins).exp() * 0.2
    inputs = [
        normal(batch, length, heads, width),
        normal(batch, length, heads, bins),
        decay,
        normal(heads, bins),
        normal(heads, bins) * 0.3,
        normal(heads, bins, 2),
        normal(batch, bins, 2, heads, width),
    ]
    return [x.requires_grad_() for x in inputs]


def mix(inputs: Sequence[Tensor], backend: str = "auto") -> tuple[Tensor, Tensor]:
    v, filter_, decay, frequency, bias, mixing, state = inputs
    return prefix.causal_mix(v, filter_, decay, frequency, bias, mixing, state, floor=1e-3, backend=backend)


def gradients(backend: str, inputs: list[Tensor], seed: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = mix(leaves, backend)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return list(outputs), list(torch.autograd.grad(outputs, leaves, upstream))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_causal_mix_matches_the_direct_sum(backend: str, length: int) -> None:
    inputs = mix_inputs(length=length)
    for actual, expected in zip(gradients(backend, inputs), gradients("reference", inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    heads=st.integers(1, 5),
    width=st.sampled_from([1, 2, 5, 8, 17, 40, 64, 65]),
    bins=st.integers(1, 6),
)
def test_causal_mix_at_any_shape(
    backend: str, batch: int, length: int, heads: int, width: int, bins: int
) -> None:
    inputs = mix_inputs(batch=batch, length=length, heads=heads, width=width, bins=bins)
    for actual, expected in zip(gradients(backend, inputs), gradients("reference", inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", FAST)
def test_causal_mix_in_float32_and_narrower(backend: str) -> None:
    inputs = mix_inputs(length=301, heads=3, width=16)
    expected, expected_grads = gradients("reference", inputs)
    actual, actual_grads = gradients(backend, [x.float() for x in inputs])
    for one, other in zip(actual + actual_grads, expected + expected_grads, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 1e-4 * other.norm()
    narrow = [x.detach().bfloat16() for x in inputs]
    mixed, state = mix(narrow, backend)
    assert mixed.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    wide, _ = mix([x.float() for x in narrow], backend)
    torch.testing.assert_close(mixed, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_causal_mix_passes_gradcheck(backend: str) -> None:
    inputs = mix_inputs(batch=1, length=5, heads=2, width=2, bins=2)
    assert torch.autograd.gradcheck(
        lambda *x: mix(x, backend),
        inputs,
    )


@pytest.mark.parametrize("backend", FAST)
def test_zero_values_have_finite_gradients(backend: str) -> None:
    inputs = [torch.zeros_like(x) if x.ndim >= 4 else x for x in mix_inputs(length=9)]
    outputs, grads = gradients(backend, inputs)
    assert all(torch.isfinite(x).all() for x in outputs + grads)


@pytest.mark.parametrize("backend", FAST)
def test_causal_mix_continues_from_its_state(backend: str) -> None:
    v, filter_, *rest, state = mix_inputs(length=300)
    whole, last = mix([v, filter_, *rest, state], backend)
    pieces = []
    for span in (slice(0, 1), slice(1, 100), slice(100, 300)):
        piece, state = mix([v[:, span], filter_[:, span], *rest, state], backend)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs_and_strided_gradients(backend: str) -> None:
    inputs = mix_inputs(length=33)
    strided = [x.detach().movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs]
    assert not strided[0].is_contiguous()
    for actual, expected in zip(gradients(backend, strided), gradients(backend, inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_comes_out_as_nan_and_only_later(backend: str, bad: float) -> None:
    v, *rest = [x.detach() for x in mix_inputs(length=400)]
    v[0, 300, 0, 0] = bad
    mixed, _ = mix([v, *rest], backend)
    assert not torch.isfinite(mixed[0, 300:, 0, 0]).any()
    assert torch.isfinite(mixed[1]).all()
    assert torch.isfinite(mixed[0, :256]).all()


def test_causal_mix_refuses_what_it_cannot_do() -> None:
    v, *rest = mix_inputs()
    with pytest.raises(ValueError, match="at least one token"):
        mix([v[:, :0], *rest])
    with pytest.raises(ValueError, match="unknown backend 'magic'; choose from auto, reference, fft"):
        mix([v, *rest], "magic")


@pytest.mark.parametrize("backend", FAST)
def test_the_operator_is_registered_correctly(backend: str) -> None:
    inputs = mix_inputs(length=5)
    torch.library.opcheck(torch.ops.fftnet.causal_mix.default, (*inputs, 1e-3, backend))


def test_modrelu_passes_gradcheck_and_keeps_the_phase() -> None:
    z = torch.randn(4, 5, dtype=torch.complex128, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(numerics.modrelu, (z, bias))
    turn = torch.polar(torch.ones(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    torch.testing.assert_close(numerics.modrelu(turn * z, bias), turn * numerics.modrelu(z, bias))


def test_modrelu_gradient_is_finite_at_zero() -> None:
    z = torch.zeros(3, dtype=torch.complex128, requires_grad=True)
    numerics.modrelu(z, torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)).abs().square().sum().backward()
    assert z.grad is not None
    assert torch.isfinite(torch.view_as_real(z.grad)).all()


@pytest.mark.parametrize("length", [1, 2, 13, 300])
def test_prefix_transform_matches_the_direct_sum(length: int) -> None:
    v, _, decay, frequency, _, _, state = mix_inputs(length=length)
    actual, last = prefix_fft.prefix_transform(v, decay, frequency, state)
    expected = reference.prefix_spectrum(v, decay, frequency, state)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.complex(last[:, :, 0], last[:, :, 1]).transpose(1, 2), expected[:, -1])


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 70), split=st.integers(0, 69), masked=st.booleans())
def test_prefix_mean_matches_a_plain_loop(length: int, split: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
    counted = torch.rand(2, length, generator=generator) < 0.6 if masked else None
    mean, count = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    pieces = []
    for span in (slice(0, split), slice(split, length)):
        if x[:, span].shape[1]:
            part = None if counted is None else counted[:, span]
            means, mean, count = streaming.prefix_mean(x[:, span], mean, count, part)
            pieces.append(means)
    actual = torch.cat(pieces, dim=1)
    for row in range(2):
        for t in range(length):
            prefix_rows = x[row, : t + 1] if counted is None else x[row, : t + 1][counted[row, : t + 1]]
            expected = prefix_rows.mean(dim=0) if len(prefix_rows) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(actual[row, t], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(count, torch.tensor([length] * 2) if counted is None else counted.sum(dim=1))


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 70), width=st.sampled_from([8, 24, 72]), read=st.sampled_from([0, 1, 300]))
def test_the_fused_context_matches_the_plain_one(length: int, width: int, read: int) -> None:
    x = torch.randn(2, length, width, dtype=torch.float64, requires_grad=True)
    mean = torch.randn(2, width, dtype=torch.float64, requires_grad=True)
    count = torch.tensor([read, 2 * read])
    everything = torch.ones(2, length, dtype=torch.bool)
    *actual, counted = context.prefix_context(x, mean, count)
    *expected, wanted = context.prefix_context(x, mean, count, everything)
    torch.testing.assert_close([*actual, counted], [*expected, wanted])
    upstream = [torch.randn_like(y) for y in actual]
    torch.testing.assert_close(
        torch.autograd.grad(actual, [x, mean], upstream), torch.autograd.grad(expected, [x, mean], upstream)
    )
    torch.library.opcheck(torch.ops.fftnet.prefix_context.default, (x, mean, count))


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_causal_conv_matches_conv1d(width: int, length: int) -> None:
    x = torch.randn(2, length, 5, dtype=torch.float64)
    taps = torch.randn(5, width, dtype=torch.float64)
    last = torch.randn(2, width - 1, 5, dtype=torch.float64)
    padded = torch.cat([last, x], dim=1)
    expected = torch.nn.functional.conv1d(padded.transpose(1, 2), taps[:, None], groups=5).transpose(1, 2)
    actual, kept = streaming.causal_conv(x, taps, last)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(kept, padded[:, length:], rtol=0, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 3, 5, 64, 65, 131]),
    half=st.sampled_from([3, 8, 24, 32, 48]),
    width=st.integers(1, 5),
)
def test_gated_conv_matches_the_plain_one(batch: int, length: int, half: int, width: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, length, 2 * half), (2 * half, width), (batch, width - 1, 2 * half)]
    x, taps, last = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    leaves = [tensor.requires_grad_() for tensor in (x, taps, last)]
    padded = torch.cat([last, x], dim=1)
    expected = sum(padded[:, i : i + length] * taps[:, i] for i in range(width))
    assert isinstance(expected, Tensor)
    expected = [expected[..., :half] * expected[..., half:], padded[:, length:]]
    actual = list(gate.gated_conv(x, taps, last))
    torch.testing.assert_close(actual, expected)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in expected]
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream, materialize_grads=True),
        torch.autograd.grad(expected, leaves, upstream, materialize_grads=True),
    )


@pytest.mark.parametrize("length", [1, 5])
def test_gated_conv_is_registered_correctly(length: int) -> None:
    inputs = tuple(torch.randn(s, requires_grad=True) for s in ((2, length, 32), (32, 4), (2, 3, 32)))
    torch.library.opcheck(torch.ops.fftnet.gated_conv.default, inputs)


def test_by_length_treats_every_row_alone() -> None:
    x = torch.randn(4, 9, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(4, 9) < 0.6
    mask[3] = False

    def mix(rows: Tensor) -> Tensor:
        return rows.flip(1) * rows.shape[1]

    actual = padding.by_length(x, mask, mix)
    expected = torch.zeros_like(x)
    for row in range(4):
        if mask[row].any():
            expected[row, mask[row]] = mix(x[row, mask[row]][None])[0]
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(actual, x, upstream)[0], torch.autograd.grad(expected, x, upstream)[0]
    )


@pytest.mark.parametrize(("length", "seen"), [(1, 1), (2, 2), (17, 17), (1, 9), (5, 12), (300, 311)])
@pytest.mark.parametrize("ragged", [False, True])
def test_attention_matches_a_direct_softmax(length: int, seen: int, ragged: bool) -> None:
    q, keys, values = (
        torch.randn(2, n, 3, 4, dtype=torch.float64, requires_grad=True) for n in (length, seen, seen)
    )
    last = torch.tensor([seen - 1, seen // 2 if ragged else seen - 1])
    position = (last[:, None] - torch.arange(length).flip(0)).clamp(min=0)
    actual = attention.causal_attention(q, keys, values, position if ragged else None)
    score = torch.einsum("bthd,bshd->bths", q, keys) / 2.0
    weight = score.exp() * (torch.arange(seen) <= position[:, :, None, None])
    expected = torch.einsum("bths,bshd->bthd", weight / weight.sum(dim=-1, keepdim=True), values)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(actual, (q, keys, values), upstream),
        torch.autograd.grad(expected, (q, keys, values), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_rotary_positions_turn_complex_pairs_and_see_distances_only() -> None:
    x, y = torch.randn(2, 2, 7, 3, 6, dtype=torch.float64)
    position = torch.randint(0, 5000, (2, 7))
    rate = 10000.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    turned = torch.complex(x[..., :3], x[..., 3:]) * torch.exp(1j * position[..., None, None] * rate)
    actual = attention.rotate(x, position)
    torch.testing.assert_close(actual, torch.cat([turned.real, turned.imag], dim=-1), rtol=1e-9, atol=1e-9)
    product = (actual * attention.rotate(y, position + 3)).sum(dim=-1)
    later = (attention.rotate(x, position + 99) * attention.rotate(y, position + 102)).sum(dim=-1)
    torch.testing.assert_close(product, later, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 13, 16])
def test_fourier_mixing_matches_the_direct_sum(length: int) -> None:
    x = torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True)
    t, c = torch.arange(length, dtype=torch.float64), torch.arange(6, dtype=torch.float64)
    angle = t[:, None, None, None] * t[:, None] / length + c[:, None, None] * c / 6
    kernel = torch.cos(2 * torch.pi * angle) / (6 * length) ** 0.5
    actual, expected = fourier.fourier_mix(x), torch.einsum("tcsd,bsd->btc", kernel, x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, x, upstream)[0], torch.autograd.grad(expected, x, upstream)[0]
    )
