"""Baselines against direct recurrences in float64; causality; states; peers; the layer without a part."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_same, randomise
from torch import Tensor

from experiments.baselines import BASELINES
from experiments.baselines.ablated import PARTS, Ablated, AblatedConfig
from experiments.baselines.conv_attention import ConvAttention
from experiments.baselines.gated_linear import CHUNK, GatedLinear, GatedLinearConfig, mix
from experiments.baselines.peers import CHUNK as PEER_CHUNK
from experiments.baselines.peers import PEERS
from experiments.baselines.recurrent import ConvGRU, MinGRU, scan
from experiments.baselines.short_conv import ShortConv
from experiments.building import build_language_model, count_parameters
from experiments.results import ExperimentError
from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer
from fftnet.ops.numerics import NORM_EPS
from fftnet.testing import assert_causal

LENGTHS = (1, 2, 9, 37, 2 * CHUNK + 3)
WIDTH = 8
OTHERS = [name for name in BASELINES if name != "ablated" and name not in PEERS]
RECURRENT = [name for name in OTHERS if name != "conv_attention"]


def made(name: str) -> Any:
    kind = BASELINES[name]
    return randomise(kind(WIDTH, 2, kind.Config()))


def tokens(length: int) -> Tensor:
    return torch.randn(2, length, WIDTH, dtype=torch.float64, requires_grad=True)


def convolved(conv: ShortConv, x: Tensor) -> Tensor:
    rows = []
    for t in range(x.shape[1]):
        taps = [conv.weight[:, -1 - age] * x[:, t - age] for age in range(4) if age <= t]
        rows.append(torch.stack(taps).sum(dim=0))
    return torch.stack(rows, dim=1)


def direct_attention(mixer: ConvAttention, x: Tensor) -> Tensor:
    q, k, v = convolved(mixer.conv, mixer.project_in(x)).unflatten(-1, (3, 2, -1)).unbind(dim=2)
    half = q.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)

    def turned(u: Tensor, t: int) -> Tensor:
        pairs = torch.complex(u[:, t, :, :half], u[:, t, :, half:])
        pairs = pairs * torch.polar(torch.ones(half, dtype=x.dtype), t * rate)
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    rows = []
    for t in range(x.shape[1]):
        score = torch.stack([(turned(q, t) * turned(k, j)).sum(-1) for j in range(t + 1)], dim=-1)
        weight = (score / q.shape[-1] ** 0.5).softmax(dim=-1)
        rows.append(torch.einsum("bhj,bjhd->bhd", weight, v[:, : t + 1]).flatten(1))
    return mixer.project_out(torch.stack(rows, dim=1))


def direct_gru(mixer: ConvGRU, x: Tensor) -> Tensor:
    cell: Any = mixer.gru
    inputs = convolved(mixer.conv, x)
    h = x.new_zeros(len(x), mixer.hidden_dim)
    rows = []
    for t in range(x.shape[1]):
        from_input = F.linear(inputs[:, t], cell.weight_ih_l0, cell.bias_ih_l0).chunk(3, dim=-1)
        from_state = F.linear(h, cell.weight_hh_l0, cell.bias_hh_l0).chunk(3, dim=-1)
        reset, update = (torch.sigmoid(from_input[i] + from_state[i]) for i in range(2))
        h = (1 - update) * torch.tanh(from_input[2] + reset * from_state[2]) + update * h
        rows.append(h)
    return mixer.project_out(torch.stack(rows, dim=1))


def direct_min_gru(mixer: MinGRU, x: Tensor) -> Tensor:
    gate, candidate = mixer.project_in(convolved(mixer.conv, x)).chunk(2, dim=-1)
    h = x.new_zeros(len(x), mixer.hidden_dim)
    rows = []
    for t in range(x.shape[1]):
        z = torch.sigmoid(gate[:, t])
        new = torch.where(candidate[:, t] >= 0, candidate[:, t] + 0.5, torch.sigmoid(candidate[:, t]))
        h = (1 - z) * h + z * new
        rows.append(h)
    return mixer.project_out(torch.stack(rows, dim=1))


def direct_gated_linear(mixer: GatedLinear, x: Tensor) -> Tensor:
    projected = convolved(mixer.conv, mixer.project_in(x))
    q, k, v = (part.unflatten(-1, (2, -1)) for part in projected.split(mixer.widths, dim=-1))
    q, k = (u / (u.square().mean(-1, keepdim=True) + NORM_EPS).sqrt() / mixer.key_dim**0.5 for u in (q, k))
    decay = torch.exp(-mixer.log_rate.exp() * F.softplus(mixer.project_clock(x)))
    memory = x.new_zeros(len(x), 2, mixer.key_dim, mixer.head_dim)
    rows = []
    for t in range(x.shape[1]):
        written = torch.einsum("bhk,bhd->bhkd", k[:, t], F.silu(v[:, t]))
        memory = decay[:, t, :, None, None] * memory + written
        y = torch.einsum("bhk,bhkd->bhd", q[:, t], memory)
        y = y / (y.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
        rows.append(y.flatten(1) * mixer.read_norm * torch.sigmoid(mixer.project_gate(x[:, t])))
    return mixer.project_out(torch.stack(rows, dim=1))


DIRECT: dict[str, Any] = {
    "conv_attention": direct_attention,
    "gru": direct_gru,
    "min_gru": direct_min_gru,
    "gated_linear": direct_gated_linear,
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", OTHERS)
def test_values_and_gradients_are_those_of_the_recurrence(name: str, length: int) -> None:
    mixer = made(name)
    # The direct attention is a double loop.
    x = tokens(min(length, 37) if name == "conv_attention" else length)
    assert_same(mixer(x), DIRECT[name](mixer, x), [x, *mixer.parameters()])


@pytest.mark.parametrize("name", OTHERS)
def test_no_output_sees_a_later_token(name: str) -> None:
    mixer = made(name)
    assert mixer.causal
    assert_causal(mixer, tokens(CHUNK + 5).detach(), positions=(1, 7, CHUNK - 1, CHUNK, CHUNK + 4))


@pytest.mark.parametrize("name", RECURRENT)
def test_any_split_of_a_text_gives_the_same(name: str) -> None:
    mixer = made(name)
    x = tokens(CHUNK + 9).detach()
    state = mixer.init_state(2)
    parts = []
    for part in x.split([1, 2, CHUNK, 6], dim=1):
        y, state = mixer(part, None, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), mixer(x))


@pytest.mark.parametrize("name", RECURRENT)
def test_sums_over_tokens_are_float32_where_products_are_bf16(name: str) -> None:
    mixer = made(name).float()
    x = tokens(3 * CHUNK).detach().float()
    exact, _ = mixer(x, None, mixer.init_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = mixer(x, None, mixer.init_state(2))
    assert state[0].dtype == torch.float32
    assert (mixed.float() - exact).norm() < 0.02 * exact.norm()


def test_the_state_of_gated_linear_is_as_large_as_asked_for() -> None:
    mixer = GatedLinear(WIDTH, 2, GatedLinearConfig(key_dim=12))
    assert mixer.init_state(1).memory.numel() == 12 * WIDTH


def test_extreme_decays_stay_finite_and_exact() -> None:
    decay = torch.rand(1, 300, 4, dtype=torch.float64) ** 40
    added = torch.randn_like(decay)
    h = torch.zeros(1, 4, dtype=torch.float64)
    rows = []
    for t in range(300):
        h = decay[:, t] * h + added[:, t]
        rows.append(h)
    torch.testing.assert_close(scan(decay, added, torch.zeros_like(h)), torch.stack(rows, dim=1))
    q = torch.randn(1, 300, 2, 4)
    y, memory = mix(q, q, q, torch.full((1, 300, 2), -500.0), torch.zeros(1, 2, 4, 4))
    assert y.isfinite().all()
    assert memory.isfinite().all()
    torch.testing.assert_close(y, q.square().sum(-1, keepdim=True) * q)


@pytest.mark.parametrize("name", OTHERS)
def test_padding_behind_a_row_changes_nothing_and_other_padding_is_refused(name: str) -> None:
    mixer = made(name)
    x = tokens(6).detach()
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    torch.testing.assert_close(mixer(x, mask)[1, :4], mixer(x[1:, :4])[0])
    with pytest.raises(ValueError, match="padding at the end of a row only"):
        mixer(x, mask.flip(1))
    with pytest.raises(ValueError, match="at least one token"):
        mixer(x[:, :0])
    with pytest.raises(ValueError, match="shape"):
        mixer(x[..., 1:])


def test_a_state_is_refused_by_attention_and_with_padding() -> None:
    attention, gru = made("conv_attention"), made("gru")
    with pytest.raises(ValueError, match="no state"):
        attention(tokens(3), None, attention.init_state(2))
    with pytest.raises(ValueError, match="without a state"):
        gru(tokens(3), torch.ones(2, 3, dtype=torch.bool), gru.init_state(2))


PEER_WIDTH = 64


@pytest.fixture
def peer() -> Callable[[str], Any]:
    pytest.importorskip("transformers")
    # Weights away from their start in float32, in which Transformers computes recurrences.
    return lambda name: randomise(PEERS[name](PEER_WIDTH), 0.1).float()


def peer_tokens(length: int) -> Tensor:
    return torch.randn(2, length, PEER_WIDTH)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_never_sees_a_later_token(peer: Callable[[str], Any], name: str) -> None:
    mixer = peer(name)
    assert mixer.causal
    x = peer_tokens(PEER_CHUNK + 9)
    y = mixer(x)
    # A part of a text gives what the whole text gives there, within chunks and at their ends.
    for length in (1, 5, 16, PEER_CHUNK - 1, PEER_CHUNK, PEER_CHUNK + 1):
        torch.testing.assert_close(mixer(x[:, :length]), y[:, :length], rtol=1e-4, atol=1e-5)
    assert_causal(mixer, x, positions=(1, 7, PEER_CHUNK - 1, PEER_CHUNK, PEER_CHUNK + 8))
    # Earlier tokens do count, beyond the convolution and the chunk.
    changed = x.clone()
    changed[:, PEER_CHUNK - 4] += 1.0
    seen = PEER_CHUNK + 4
    assert (mixer(changed) - y)[:, seen].norm() > 1e-4 * y[:, seen].norm()
    assert torch.equal(mixer.train()(x), mixer.eval()(x))


@pytest.mark.parametrize("name", PEERS)
def test_every_parameter_of_a_peer_learns(peer: Callable[[str], Any], name: str) -> None:
    mixer = peer(name)
    mixer(peer_tokens(PEER_CHUNK + 9)).square().sum().backward()
    for parameter_name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", ["mamba2", "gated_delta_net", "kimi_delta"])
def test_a_peer_is_its_recurrence_with_a_state_of_the_reported_size(
    peer: Callable[[str], Any], name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    mixer = peer(name)
    x = peer_tokens(PEER_CHUNK + 9)
    config = transformers.PreTrainedConfig(num_hidden_layers=1, layer_types=["linear_attention"])
    cache = transformers.DynamicCache(config=config)
    # One token after the other takes the recurrent form, the whole text the form in chunks.
    with torch.no_grad():
        parts = [mixer.layer(token, cache) for token in x.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), mixer(x), rtol=1e-4, atol=1e-5)
    state = cache.get_recurrent_state(0, state_idx=0)
    assert state[0].numel() == mixer.init_state(1).memory.numel() == 32 * PEER_WIDTH


def test_the_states_of_the_other_peers_have_the_reported_size(peer: Callable[[str], Any]) -> None:
    xlstm, rg_lru = peer("xlstm"), peer("rg_lru")
    _, (memory, *_) = xlstm.layer(peer_tokens(PEER_CHUNK))
    assert memory[0].numel() == xlstm.init_state(1).memory.numel() == 32 * PEER_WIDTH
    rg_lru(peer_tokens(3))
    state = rg_lru.layer.rg_lru.recurrent_states
    assert state[0].numel() == rg_lru.init_state(1).memory.numel() == PEER_WIDTH


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_refuses_states_and_widths_and_has_the_wanted_size(
    peer: Callable[[str], Any], name: str
) -> None:
    mixer = peer(name)
    with pytest.raises(ValueError, match="peers carry no state here"):
        mixer(peer_tokens(3), None, mixer.init_state(2))
    with pytest.raises(ValueError, match="padding at the end of a row only"):
        mixer(peer_tokens(3), torch.tensor([[False, True, True]] * 2))
    with pytest.raises(ValueError, match="a width that is a multiple of 64, got 96"):
        PEERS[name](96)
    sizes: dict[str, Any] = {"vocab_size": 257, "d_model": 128, "num_layers": 4, "seed": 0}
    model = build_language_model(name, **sizes, parameters=1_000_000)
    assert abs(count_parameters(model) / 1_000_000 - 1) <= 0.02


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_without_transformers_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family: str = getattr(PEERS[name], "family")  # noqa: B009 - the table knows mixers only
    monkeypatch.setitem(sys.modules, f"transformers.models.{family}.modeling_{family}", None)
    sentence = rf"model '{name}' can't be built: \w+ needs transformers: pip install '\.\[hf\]'"
    with pytest.raises(ExperimentError, match=sentence):
        build_language_model(name, vocab_size=8, d_model=64, num_layers=1, parameters=None, seed=0)


def layer(without: str | None = None) -> AddressedSpectralMixer:
    torch.manual_seed(0)
    if without is None:
        return AddressedSpectralMixer(16, 2).double()
    return Ablated(16, 2, AblatedConfig(without=without)).double()


@pytest.mark.parametrize("part", ["", *PARTS])
def test_a_part_is_removed(part: str) -> None:
    """Each layer differs from the whole one, is causal, and all remaining parameters learn."""
    whole, mixer = layer(), layer(part)
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    y = mixer(x)
    # modReLU and the clock start at values without effect.
    assert torch.equal(y, whole(x)) == (part in ("", "modReLU", "clock"))
    y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    kept = ("", "modReLU on the filter", "write keys", "norm of keys and filters", "matched start")
    fewer = count_parameters(mixer) < count_parameters(whole)
    assert fewer == (part not in (*kept, "mean in the context", "read-out norm"))
    later = x.clone()
    later[:, 12:] += 1.0
    torch.testing.assert_close(mixer(later)[:, :12], y[:, :12], rtol=1e-12, atol=1e-12)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="without must be one of base filter, base key"):
        AblatedConfig(without="soul")
