"""Bidirectional mixing in one operator: against a direct float64 sum, and in compiled and exported models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from operators import SPECTRAL_MIX, compare, results, spectral_inputs
from torch import Tensor

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops.fourier import fourier_transform, inverse_fourier_transform
from fftnet.ops.numerics import interpolate_anchors
from fftnet.ops.spectral_mix import spectral_mix

FAST = SPECTRAL_MIX.fast()
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("paper_v2_*.npz"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_comes_out_as_nan(backend: str, which: int, bad: float) -> None:
    inputs = list(spectral_inputs(length=65).values())
    inputs[which].select(-1, 0).view(-1)[0] = bad
    mixed = spectral_mix(*inputs, backend=backend)
    assert not torch.isfinite(mixed[0, :, 0]).any()
    if which < 2:
        assert torch.isfinite(mixed[1]).all()
    _, grads = results(SPECTRAL_MIX, inputs, backend)
    assert not all(torch.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_finite_where_the_spectrum_or_the_filter_is_zero(backend: str) -> None:
    x, filter_, bias = spectral_inputs(length=12).values()
    for inputs in ([torch.zeros_like(x), filter_, bias], [x, torch.zeros_like(filter_), bias]):
        compare(SPECTRAL_MIX, inputs, backend)


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
    filtered = mixer.activation(fourier_transform(x, 2) * filter_[..., None])
    torch.testing.assert_close(mixer(x), inverse_fourier_transform(filtered, length), rtol=1e-9, atol=1e-9)


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
