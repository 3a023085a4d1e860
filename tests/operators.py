"""Every operator with its inputs (operator_inputs.py), and what holds for all on all of their backends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from operator_inputs import (
    address_inputs,
    address_step_inputs,
    causal_inputs,
    context_inputs,
    context_step_inputs,
    conv_inputs,
    gate_step_inputs,
    keyed_inputs,
    masked_inputs,
    mix_step_inputs,
    norm_inputs,
    normal_numbers,
    rms_inputs,
    short_conv_inputs,
    spectral_inputs,
)
from torch import Tensor

from fftnet.ops import (
    addresses,
    causal_mix,
    decode,
    gated_conv,
    gated_norm,
    keyed_mix,
    prefix_context,
    rms_norm,
    short_conv,
    spectral_mix,
)
from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.dispatch import Backends

EPS = 1e-3
HORIZON = 9
"""Tokens of the forgetful mean: below and above what the inputs' rows have read."""


@dataclass(frozen=True)
class Operator:
    """An operator as a function of a list of tensors.

    Attributes:
        make: builds the inputs, argument to tensor in the order of the operator's arguments, from sizes.
        call: the operator on the tensors, with a backend.
        backends: of the operator.
        registered: the arguments of ``torch.ops.fftnet.<name>`` after the tensors, made from a backend; None
            if it is no registered operator.
    """

    name: str
    make: Callable[..., dict[str, Tensor]]
    call: Callable[..., Sequence[Tensor]]
    backends: Backends
    registered: Callable[[str], tuple[Any, ...]] | None = None

    def fast(self) -> list[str]:
        """Backends that can run here and are compared with the reference; not Triton, which needs a GPU."""
        return [name for name in self.backends.available() if name not in ("reference", "triton")]


def mix(values: Tensor, filter_: Tensor, *rest: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    *parameters, state = rest
    return causal_mix.causal_mix(
        values, filter_, HeadParameters(*parameters), state, eps=EPS, backend=backend
    )


def mix_step(
    values: Tensor, filter_: Tensor, *rest: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    *parameters, state = rest
    return decode.mix_step(values, filter_, HeadParameters(*parameters), state, eps=EPS, backend=backend)


def address_step(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    projected, raw_filter, modulation, clock, gate, *rest = tensors
    *parameters, conv_state, spectrum = rest
    return decode.address_step(
        projected,
        raw_filter,
        modulation,
        clock,
        gate,
        decode.AddressedParameters(*parameters),
        conv_state,
        spectrum,
        eps=EPS,
        backend=backend,
    )


def forgetful_step(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return decode.context_step(*tensors, horizon=HORIZON, backend=backend)


def convolve(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    return short_conv.short_conv(x, conv_weight, conv_state, width=x.shape[-1] // 2, backend=backend)


def address(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    return addresses.addresses(*tensors, eps=EPS, backend=backend)


def norm(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor]:
    return (gated_norm.gated_norm(*tensors, backend=backend),)


def rms(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor]:
    return (rms_norm.rms_norm(*tensors, backend=backend),)


def forgetful(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return prefix_context.prefix_context(*tensors, horizon=HORIZON, backend=backend)


def spectral(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor]:
    return (spectral_mix.spectral_mix(*tensors, eps=EPS, backend=backend),)


CAUSAL_MIX = Operator("causal_mix", causal_inputs, mix, causal_mix.BACKENDS, lambda name: (EPS, name))
KEYED_MIX = Operator("keyed_mix", keyed_inputs, keyed_mix.keyed_mix, keyed_mix.BACKENDS, lambda name: (name,))
SPECTRAL_MIX = Operator(
    "spectral_mix", spectral_inputs, spectral, spectral_mix.BACKENDS, lambda name: (EPS, name)
)
GATED_CONV = Operator(
    "gated_conv", conv_inputs, gated_conv.gated_conv, gated_conv.BACKENDS, lambda name: (name,)
)
SHORT_CONV = Operator("short_conv", short_conv_inputs, convolve, short_conv.BACKENDS, lambda name: (8, name))
ADDRESSES = Operator("addresses", address_inputs, address, addresses.BACKENDS, lambda name: (EPS, name))
GATED_NORM = Operator("gated_norm", norm_inputs, norm, gated_norm.BACKENDS, lambda name: (name,))
RMS_NORM = Operator("rms_norm", rms_inputs, rms, rms_norm.BACKENDS, lambda name: (name,))
PREFIX_CONTEXT = Operator(
    "prefix_context",
    context_inputs,
    prefix_context.prefix_context,
    prefix_context.BACKENDS,
    lambda name: (0, name),
)
FORGETFUL_CONTEXT = Operator(
    "prefix_context", context_inputs, forgetful, prefix_context.BACKENDS, lambda name: (HORIZON, name)
)
MASKED_CONTEXT = Operator(
    "prefix_context", masked_inputs, prefix_context.prefix_context, prefix_context.BACKENDS
)
GATE_STEP = Operator("gate_step", gate_step_inputs, decode.gate_step, decode.BACKENDS)
MIX_STEP = Operator("mix_step", mix_step_inputs, mix_step, decode.BACKENDS)
CONTEXT_STEP = Operator("context_step", context_step_inputs, forgetful_step, decode.BACKENDS)
ADDRESS_STEP = Operator("address_step", address_step_inputs, address_step, decode.BACKENDS)
OF_THE_SAME_CODE = (MASKED_CONTEXT, FORGETFUL_CONTEXT)
"""What takes the tensors of another operator here, and is checked by the same lines."""
OPERATORS = [
    CAUSAL_MIX,
    KEYED_MIX,
    SPECTRAL_MIX,
    GATED_CONV,
    SHORT_CONV,
    ADDRESSES,
    GATED_NORM,
    RMS_NORM,
    PREFIX_CONTEXT,
    FORGETFUL_CONTEXT,
    MASKED_CONTEXT,
    GATE_STEP,
    MIX_STEP,
    CONTEXT_STEP,
    ADDRESS_STEP,
]


def results(
    operator: Operator, inputs: Sequence[Tensor], backend: str, device: str = "cpu"
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of the floating inputs for one random gradient of the outputs; on the CPU."""
    leaves = [x.detach().to(device).requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = operator.call(*leaves, backend=backend)
    normal = normal_numbers(1)
    floating = [y for y in outputs if y.is_floating_point()]
    upstream = [normal(*y.shape).to(y) for y in floating]
    wanted = [x for x in leaves if x.requires_grad]
    grads = torch.autograd.grad(floating, wanted, upstream, materialize_grads=True)
    return [y.detach().cpu() for y in outputs], [grad.cpu() for grad in grads]


def compare(
    operator: Operator, inputs: Sequence[Tensor], backend: str, tolerance: float = 1e-9, device: str = "cpu"
) -> None:
    """Hold values and gradients of a backend against the reference's."""
    expected = results(operator, inputs, "reference")
    actual = results(operator, inputs, backend, device)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def backend_suite(operator: Operator, backend: str, device: str = "cpu", **sizes: int) -> None:
    """Duties of every backend of every operator: right values and gradients, strided or not."""
    inputs = list(operator.make(**sizes).values())
    compare(operator, inputs, backend, device=device)
    strided = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs]
    compare(operator, strided, backend, device=device)
    if operator.registered is not None and backend in registered_backends(operator):
        leaves = [x.to(device).requires_grad_(x.is_floating_point()) for x in inputs]
        registered = getattr(torch.ops.fftnet, operator.name).default
        torch.library.opcheck(registered, (*leaves, *operator.registered(backend)))


def registered_backends(operator: Operator) -> list[str]:
    """The backends behind the registered operator: for the smaller operators only kernels are."""
    plain = {"reference", "export"}
    if operator not in (CAUSAL_MIX, KEYED_MIX, SPECTRAL_MIX):
        plain.add("torch")
    return [name for name in operator.backends.available() if name not in plain]
