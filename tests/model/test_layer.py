"""The residual block around any mixer, and mixers on their own."""

import pytest
import torch
from conftest import randomise
from models import CAUSAL, VOCAB, tokens
from torch import Tensor, nn

from fftnet import FFTNet, FFTNetConfig, FFTNetLayer
from fftnet.model.mixers import MIXERS, build_mixer
from fftnet.model.mixers.delta_spectral import DeltaSpectralConfig, DeltaSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer


@pytest.mark.parametrize("name", MIXERS)
def test_a_layer_is_norm_mixer_residual_norm_feed_forward_residual(name: str) -> None:
    layer = randomise(FFTNetLayer(8, name, num_heads=2))
    x = torch.randn(2, 9, 8, dtype=torch.float64)

    def norm(x: Tensor, module: nn.Module) -> Tensor:
        size = (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return x / size * module.weight  # pyright: ignore[reportOperatorIssue]

    mixed = x + layer.mixer(norm(x, layer.mixer_norm))
    feed_forward = layer.feed_forward
    assert feed_forward is not None
    inner = nn.functional.gelu(feed_forward.expand(norm(mixed, feed_forward.norm)))
    expected = mixed + feed_forward.contract(inner)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)
    assert inner.shape[-1] == 32
    assert layer.causal == (name in CAUSAL)


class First(nn.Module):
    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return x[:, :1].expand_as(x)


def test_a_layer_takes_a_mixer_or_its_name() -> None:
    config = DeltaSpectralConfig(num_bins=3)
    torch.manual_seed(1)
    named = FFTNetLayer(8, "delta_spectral", num_heads=2, mixer_config={"num_bins": 3}, ffn_dim=0)
    torch.manual_seed(1)
    made = FFTNetLayer(8, DeltaSpectralMixer(8, 2, config), ffn_dim=0)
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(named(x), made(x), rtol=0, atol=0)
    assert named.feed_forward is None
    with pytest.raises(ValueError, match="mixer_config can be given only with a mixer name"):
        FFTNetLayer(8, FNetMixer(8), mixer_config={})
    with pytest.raises(ValueError, match="unknown mixer 'x'"):
        FFTNetLayer(8, "x")
    # Any module will do.
    layer = FFTNetLayer(8, First(), ffn_dim=0)
    torch.testing.assert_close(layer(x), x + layer.mixer_norm(x)[:, :1])
    assert not layer.causal


@pytest.mark.parametrize("training", [True, False])
def test_a_branch_is_dropped_in_training_only(training: bool) -> None:
    layer = FFTNetLayer(8, "fnet", ffn_dim=0, dropout=0.9).train(training)
    x = torch.randn(4, 50, 8)
    unchanged = (layer(x) == x).float().mean().item()
    assert unchanged == pytest.approx(0.9 if training else 0.0, abs=0.05)
    model = FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=16, dropout=0.5, num_layers=1)).train(training)
    assert torch.equal(model(tokens(1, 4)), model(tokens(1, 4))) != training


def test_mixers_refuse_wrong_sizes_and_shapes() -> None:
    for make_mixer in (mixer for name, mixer in MIXERS.items() if name != "fnet"):
        with pytest.raises(ValueError, match="num_heads=3 must divide d_model=100"):
            make_mixer(100, 3)
        with pytest.raises(ValueError, match="d_model must be at least 1, got 0"):
            make_mixer(0)
    for name in MIXERS:
        mixer = build_mixer(name, 8, 2)
        with pytest.raises(ValueError, match=r"x must be of shape \(batch, tokens, 8\), got \(2, 5, 6\)"):
            mixer(torch.zeros(2, 5, 6))
        with pytest.raises(ValueError, match=r"attention_mask must be of shape \(2, 5\)"):
            mixer(torch.zeros(2, 5, 8), torch.ones(5, dtype=torch.bool))
        if name not in CAUSAL:
            with pytest.raises(ValueError, match=f"{type(mixer).__name__} has no state: it sees the whole"):
                mixer.init_state(1)
        else:
            with pytest.raises(ValueError, match=r"x must be of shape \(batch, tokens, 8\), got \(2, 6\)"):
                mixer(torch.zeros(2, 6), None, mixer.init_state(2))


@pytest.mark.parametrize("name", CAUSAL)
def test_one_token_may_come_without_its_dimension(name: str) -> None:
    """A layer takes (B, D) with any mixer; a mixer takes it if ``reads_one_token``."""
    layer = randomise(FFTNetLayer(8, name, num_heads=2))
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    _, state = layer(x[:, :3], None, layer.init_state(2))
    expected, after = layer(x[:, 3:], None, state)
    actual, same = layer(x[:, 3], None, state)
    torch.testing.assert_close(actual, expected[:, 0])
    torch.testing.assert_close(same, after)
    if layer.mixer.reads_one_token:
        mixed, _ = layer.mixer(x[:, 3:], None, state)
        torch.testing.assert_close(layer.mixer(x[:, 3], None, state)[0], mixed[:, 0])
    else:
        with pytest.raises(ValueError, match=r"x must be of shape \(batch, tokens, 8\)"):
            layer.mixer(x[:, 3], None, state)
