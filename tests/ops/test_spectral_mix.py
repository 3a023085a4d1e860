"""Bidirectional mixing in one operator: against a direct float64 sum, and in compiled and exported models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import SPECTRAL_MIX, compare, results, spectral_inputs
from torch import Tensor

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.components import FourierTransform, InverseFourierTransform
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops.numerics import interpolate_anchors
from fftnet.ops.spectral_mix import spectral_mix

FAST = SPECTRAL_MIX.fast()
LENGTHS = [1, 2, 3, 4, 17, 64, 101, 256]
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("paper_v2_*.npz"))


def mix_inputs(
    batch: int = 2, length: int = 17, heads: int = 2, width: int = 3, seed: int = 0
) -> list[Tensor]:
    inputs = spectral_inputs(batch=batch, length=length, heads=heads, width=width, seed=seed)
    return list(inputs.values())


def gradients(backend: str, inputs: list[Tensor]) -> list[Tensor]:
    """Mixed tokens and the gradients of tokens, filter and bias."""
    outputs, grads = results(SPECTRAL_MIX, inputs, backend)
    return outputs + grads


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_it_matches_the_direct_sum(backend: str, length: int) -> None:
    compare(SPECTRAL_MIX, mix_inputs(length=length), backend)


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 80),
    heads=st.integers(1, 5),
    width=st.sampled_from([1, 2, 5, 16, 23]),
)
def test_it_matches_at_any_shape(backend: str, batch: int, length: int, heads: int, width: int) -> None:
    compare(SPECTRAL_MIX, mix_inputs(batch, length, heads, width), backend, 1e-8)


@pytest.mark.parametrize("length", [1100, 1025])
def test_it_matches_where_a_head_has_several_work_items(length: int) -> None:
    compare(SPECTRAL_MIX, mix_inputs(2, length, 3, 7), "numba", 1e-8)


@pytest.mark.parametrize("backend", FAST)
def test_float32_and_narrower(backend: str) -> None:
    inputs = mix_inputs(length=301, heads=3, width=16)
    inputs[2].data.mul_(0.1)
    single = [x.detach().float() for x in inputs]
    for one, other in zip(gradients(backend, single), gradients("reference", inputs), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 1e-5 * other.norm()
    for dtype in (torch.bfloat16, torch.float16):
        narrow = [x.to(dtype) for x in single]
        mixed = spectral_mix(*narrow, backend=backend)
        assert mixed.dtype == dtype
        wide = spectral_mix(*(x.float() for x in narrow), backend=backend)
        torch.testing.assert_close(mixed, wide.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_comes_out_as_nan(backend: str, which: int, bad: float) -> None:
    inputs = [x.detach() for x in mix_inputs(length=65)]
    inputs[which].select(-1, 0).view(-1)[0] = bad
    mixed = spectral_mix(*inputs, backend=backend)
    assert not torch.isfinite(mixed[0, :, 0]).any()
    if which < 2:
        assert torch.isfinite(mixed[1]).all()
    assert not all(torch.isfinite(x).all() for x in gradients(backend, inputs)[1:])


@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_finite_where_the_spectrum_or_the_filter_is_zero(backend: str) -> None:
    x, filter_, bias = mix_inputs(length=12)
    for inputs in ([torch.zeros_like(x), filter_, bias], [x, torch.zeros_like(filter_), bias]):
        assert all(torch.isfinite(y).all() for y in gradients(backend, inputs))
        compare(SPECTRAL_MIX, inputs, backend)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("length", [5, 6])
def test_it_passes_gradcheck(backend: str, length: int) -> None:
    inputs = [x.requires_grad_() for x in mix_inputs(1, length, 2, 2)]
    assert torch.autograd.gradcheck(lambda *x: spectral_mix(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", [name for name in FAST if name != "export"])
@pytest.mark.parametrize("length", [1, 5, 6])
def test_the_operator_is_registered_correctly(backend: str, length: int) -> None:
    for batch, heads, width in ((2, 2, 3), (1, 1, 1)):
        inputs = [x.requires_grad_() for x in mix_inputs(batch, length, heads, width)]
        torch.library.opcheck(torch.ops.fftnet.spectral_mix.default, (*inputs, 1e-3, backend))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_mixer_is_the_published_layer(path: Path) -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    x_BTD = golden["x"].clone().requires_grad_()
    heads, bins = golden["base_filter"].shape
    width = x_BTD.shape[2]
    mixer = SpectralMixer(width, heads, SpectralConfig(num_anchors=bins)).double()
    mixer.load_state_dict(
        {
            "filter.base_filter": golden["base_filter"],
            "filter.modulation.0.weight": golden["mlp_in_weight"],
            "filter.modulation.0.bias": golden["mlp_in_bias"],
            "filter.modulation.2.weight": golden["mlp_out_weight"],
            "filter.modulation.2.bias": golden["mlp_out_bias"],
            "activation.bias": golden["modrelu_bias"],
        }
    )
    mixed = mixer(x_BTD)
    leaves = (x_BTD, mixer.filter.base_filter, mixer.activation.bias)
    grads = torch.autograd.grad(mixed, leaves, golden["grad_of_mixed"])
    names = ("mixed", "grad_x", "grad_base_filter", "grad_modrelu_bias")
    for name, actual in zip(names, (mixed.detach(), *grads), strict=True):
        torch.testing.assert_close(actual, golden[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 8, 15, 40])
def test_the_components_in_a_row_are_the_mixer(length: int) -> None:
    mixer = randomise(SpectralMixer(6, 2, SpectralConfig(num_anchors=8)))
    x = torch.randn(2, length, 6, dtype=torch.float64)
    filter_ = interpolate_anchors(mixer.filter(x.mean(dim=1)), length // 2 + 1)
    filtered = mixer.activation(FourierTransform(2)(x) * filter_[..., None])
    torch.testing.assert_close(mixer(x), InverseFourierTransform()(filtered, length), rtol=1e-9, atol=1e-9)


def bidirectional() -> FFTNet:
    sizes = FFTNetConfig(vocab_size=11, d_model=8, num_layers=2, num_heads=2, max_seq_length=16, causal=False)
    return randomise(FFTNet(sizes))


def compare_compiled(module: torch.nn.Module, backend: str, inputs: list[Tensor]) -> None:
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for x in inputs:
        results = []
        for run in (compiled, module):
            module.zero_grad()
            y = run(x)
            y.square().mean().backward()
            results.append([y.detach(), *(p.grad for p in module.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_model_compiles_as_one_graph_of_any_length() -> None:
    inputs = [torch.randint(0, 11, (2, length)) for length in (9, 16, 30)]
    compare_compiled(bidirectional(), "aot_eager", inputs)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_mixer_compiles_to_machine_code() -> None:
    mixer = randomise(SpectralMixer(6, 2, SpectralConfig(num_anchors=8)))
    compare_compiled(mixer, "inductor", [torch.randn(2, 9, 6, dtype=torch.float64)])


def test_it_exports_with_any_length() -> None:
    model = bidirectional()
    tokens = torch.randint(0, 11, (2, 9))
    length = torch.export.Dim("length", min=2, max=4096)
    exported = torch.export.export(model, (tokens,), dynamic_shapes=({1: length},))
    nodes = [str(node.target) for node in exported.graph.nodes]
    assert nodes.count("fftnet.spectral_mix.default") == 2
    for size in (2, 9, 17, 64):
        tokens = torch.randint(0, 11, (2, size))
        torch.testing.assert_close(exported.module()(tokens), model(tokens), rtol=1e-9, atol=1e-9)
