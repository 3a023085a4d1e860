"""One token at a time, beyond test_backends.py: zeros, bad numbers, narrow tokens, messages."""

import pytest
import torch
from operators import ADDRESS_STEP, CONTEXT_STEP, MIX_STEP, Operator

from fftnet.ops import decode

BACKENDS = decode.BACKENDS.available()


@pytest.mark.parametrize("operator", [ADDRESS_STEP, MIX_STEP], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_at_zero_is_zero_with_finite_gradients(
    operator: Operator, backend: str, dtype: torch.dtype
) -> None:
    inputs = {name: torch.zeros_like(x, dtype=dtype) for name, x in operator.make().items()}
    inputs["decay"] += 0.5  # Without any, the normalisation g has no gradient.
    with torch.no_grad():
        for result in operator.outputs(*inputs.values(), backend=backend):
            assert (result == 0).all()
    if backend == "torch":
        leaves = [x.requires_grad_() for x in inputs.values()]
        outputs = operator.outputs(*leaves, backend=backend)
        grads = torch.autograd.grad(outputs[0].sum() + outputs[-1].sum(), leaves, materialize_grads=True)
        assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_bad_value_spoils_its_own_channel(backend: str) -> None:
    inputs = MIX_STEP.make(batch=1, heads=1, width=3)
    inputs["values"][0, 0, 1] = torch.nan
    mixed, _ = MIX_STEP.outputs(*inputs.values(), backend=backend)
    assert torch.isnan(mixed[0, 0]).tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["projected", "raw_filter", "modulation", "clock", "gate", "spectrum"])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_bad_number_spoils_its_own_row(backend: str, name: str, bad: float) -> None:
    inputs = ADDRESS_STEP.make()
    expected = ADDRESS_STEP.outputs(*inputs.values(), backend=backend)
    inputs[name][1].view(-1)[0] = bad
    outputs = ADDRESS_STEP.outputs(*inputs.values(), backend=backend)
    torch.testing.assert_close([x[0] for x in outputs], [x[0] for x in expected])
    # tanh and the gate's sigmoid bound an infinite number, and an infinite clock forgets everything.
    if bad != bad or name in ("projected", "raw_filter", "spectrum"):
        assert not torch.isfinite(outputs[0][1]).all()


def test_a_horizon_below_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="context_step: horizon must be at least 1, got 0"):
        decode.context_step(*CONTEXT_STEP.make().values(), horizon=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("projected", "address_step: projected must have C = 32, got 31"),
        ("raw_filter", "address_step: raw_filter must have A = 16, got 15"),
        ("gate", "address_step: gate must have D = 16, got 15"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_that_do_not_add_up_are_named(backend: str, name: str, message: str) -> None:
    inputs = ADDRESS_STEP.make()
    inputs[name] = inputs[name][:, 1:]
    if name == "projected":
        inputs["conv_weight"] = inputs["conv_weight"][1:]
        inputs["conv_state"] = inputs["conv_state"][..., 1:]
    with pytest.raises(ValueError, match=message):
        ADDRESS_STEP.outputs(*inputs.values(), backend=backend)


@pytest.mark.parametrize("operator", [ADDRESS_STEP, MIX_STEP, CONTEXT_STEP], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_narrow_model_steps_over_a_wide_state(operator: Operator, dtype: torch.dtype) -> None:
    states = ("conv_state", "spectrum", "state", "mean", "count")
    inputs = {name: x if name in states else x.to(dtype) for name, x in operator.make().items()}
    wide = [x.double() if x.is_floating_point() else x for x in inputs.values()]
    narrow = [x.float() if x.dtype == torch.float64 else x for x in inputs.values()]
    expected = operator.outputs(*wide, backend="reference")
    first, *others = operator.outputs(*narrow)
    assert first.dtype == dtype
    assert {x.dtype for x in others} <= {torch.float32, torch.int64}
    assert (first - expected[0]).norm() < 0.01 * expected[0].norm()
