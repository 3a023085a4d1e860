"""Every operator with inputs of any size, and the checks of all their backends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fftnet.ops import (
    addresses,
    decode,
    delta_mix,
    gated_norm,
    keyed_mix,
    prefix_context,
    rms_norm,
    short_conv,
    spectral_mix,
)
from fftnet.ops.dispatch import Backends

EPS = 1e-3
HORIZON = 9
"""Horizon of the running mean: below and above the number of tokens that the inputs' rows have read."""

DEFAULTS = {"batch": 2, "length": 17, "heads": 2, "width": 8, "bins": 4, "taps": 4}
MIXING = {"width": 3}
DEFAULTS_OF = dict.fromkeys(["keyed_mix", "delta_mix", "spectral_mix"], MIXING)
DEFAULTS_OF |= {"addresses": {"bins": 8}}
LETTERS = dict(zip(DEFAULTS, "BTHdFW", strict=True))
"""Size to its letter in ``SHAPES``."""
BASES = {"base_key": "H 2 F", "base_filter": "H 2 F", "bias": "H F"}
MEAN = {"mean": "B d", "count": "B"}
KEYED = {"values": "B T H d", "key": "B T H 2 F", "filter_": "B T H 2 F"}
RATES = {"clock": "B T H", "decay": "H F", "frequency": "H F", "state": "B H 2 F d"}
SHAPES: dict[str, dict[str, str]] = {
    "keyed_mix": KEYED | RATES,
    "delta_mix": KEYED | {"erase": "B T H"} | RATES,
    "spectral_mix": {"x": "B T H*d", "filter_": "B H T//2+1", "bias": "H T//2+1"},
    "short_conv": {"x": "B T 2*d", "conv_weight": "2*d W", "conv_state": "B W-1 2*d"},
    "addresses": dict.fromkeys(["raw_key", "raw_filter", "modulation"], "B T H 2 F")
    | BASES
    | {"gain": "H F"},
    "gated_norm": {"x": "B T H d", "gate": "B T H d", "weight": "H d"},
    "rms_norm": {"x": "B T d", "weight": "d"},
    "prefix_context": {"x": "B T d", **MEAN},
    "context_step": {"projected": "B d", **MEAN},
    "address_step": {"projected": "B H*d+2*H*F", "raw_filter": "B 2*H*F", "modulation": "B H 2 F"}
    | {"clock": "B H", "gate": "B H*d", "conv_weight": "H*d+2*H*F W", **BASES, "decay": "H F"}
    | {"frequency": "H F", "norm_weight": "H d", "conv_state": "B W-1 H*d+2*H*F", "spectrum": "B H 2 F d"},
    "delta_step": {"projected": "B 2*H*d+4*H*F", "modulation": "B H 2 F", "clock": "B H", "erase": "B H"}
    | {"rotation": "B H F", "rotation_gate": "B H", "conv_weight": "2*H*d+4*H*F W", **BASES}
    | {"decay": "H F", "frequency": "H F", "norm_weight": "d", "conv_state": "B W-1 2*H*d+4*H*F"}
    | {"spectrum": "B H 2 F d", "phase": "B H F"},
}
"""Operator to its arguments, in order, with their dimensions: expressions of letters without spaces."""


def normal_numbers(seed: int) -> Callable[..., Tensor]:
    """Return a function from a shape to float64 numbers, the same ones for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Operator:
    """An operator as a function of a list of tensors.

    Attributes:
        call: the operator on the tensors, with a backend.
        constants: constants of ``torch.ops.fftnet.<name>``; None if it is not registered.
        definition: the operator in float64 on the tensors; None: its backend ``reference``.
        mask: add the argument ``counted``.
    """

    name: str
    call: Callable[..., Any]
    backends: Backends
    constants: tuple[Any, ...] | None = None
    definition: Callable[..., Any] | None = None
    mask: bool = False

    def make(self, *, seed: int = 0, speed: float = 1.0, read: int = 5, **sizes: int) -> dict[str, Tensor]:
        """Return arguments of any sizes; the first row has read ``read`` tokens, the second twice as many."""
        sizes = DEFAULTS | DEFAULTS_OF.get(self.name, {}) | sizes
        numbers = {LETTERS[name]: size for name, size in sizes.items()}
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "decay": lambda x: x.exp() * 0.2,
            "bias": lambda x: x * 0.3,
            "gain": lambda x: x.abs(),
            "clock": lambda x: x.abs() * speed,
            # Keys have about 2 F as their squared length: beyond 2 / F, erasing would make the state grow.
            "erase": lambda x: x.sigmoid() / sizes["bins"],
            "mean": lambda x: x * (read > 0),
            "count": lambda x: read * torch.arange(1, len(x) + 1),
            # With nothing read and nothing counted, a mean would have neither a meaning nor a gradient.
            "counted": lambda x: (x < 0.3) | (torch.arange(x.shape[1]) < 1 - read),
        }
        normal = normal_numbers(seed)
        made = {}
        for name, shape in (SHAPES[self.name] | ({"counted": "B T"} if self.mask else {})).items():
            x = normal(*(eval(size, dict(numbers)) for size in shape.split()))
            made[name] = changes.get(name, lambda x: x)(x)
        return made

    def __str__(self) -> str:
        return self.name

    def fast(self) -> list[str]:
        """Return the backends to compare with the definition here; Triton needs a GPU and is left out."""
        return [name for name in self.backends.available() if name not in ("reference", "triton")]

    def outputs(self, *tensors: Tensor, backend: str | None = None) -> tuple[Tensor, ...]:
        """Run the operator, or its definition for the backend ``reference``."""
        if backend == "reference" and self.definition is not None:
            found = self.definition(*tensors)
        else:
            found = self.call(*tensors, backend=backend)
        return found if isinstance(found, tuple) else (found,)


def address_step(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    arguments: Any = (*tensors[:5], decode.AddressedParameters(*tensors[5:12]), *tensors[12:])
    return decode.address_step(*arguments, eps=EPS, backend=backend)


def delta_step(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arguments: Any = (*tensors[:6], decode.AddressedParameters(*tensors[6:13]), *tensors[13:])
    return decode.delta_step(*arguments, eps=EPS, backend=backend)


def convolve(
    x: Tensor, conv_weight: Tensor, conv_state: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    return short_conv.short_conv(x, conv_weight, conv_state, width=x.shape[-1] // 2, backend=backend)


def forgetful(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return prefix_context.prefix_context(*tensors, horizon=HORIZON, backend=backend)


def forgetful_step(*tensors: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return decode.context_step(*tensors, horizon=HORIZON, backend=backend)


def with_eps(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors, backend=None: call(*tensors, eps=EPS, backend=backend)


def defined_context_step(
    projected: Tensor, mean: Tensor, count: Tensor, horizon: int | None = HORIZON
) -> tuple[Tensor, Tensor, Tensor]:
    """``prefix_context`` of one token."""
    inputs = (projected[:, None], mean, count)
    context, last, total = prefix_context.prefix_context(*inputs, horizon=horizon, backend="reference")
    return context[:, 0], last, total


def defined_address_step(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``short_conv``, ``addresses``, ``keyed_mix`` and ``gated_norm`` of one token."""
    projected, raw_filter, modulation, clock, gate = (x[:, None] for x in tensors[:5])
    weight, base_key, base_filter, bias, decay, frequency, norm_weight, past, spectrum = tensors[5:]
    heads = norm_weight.shape
    values, raw_key, kept = short_conv.short_conv(
        projected, weight, past, width=norm_weight.numel(), backend="reference"
    )
    key, filter_ = addresses.addresses(
        raw_key.unflatten(-1, base_key.shape),
        raw_filter.unflatten(-1, base_key.shape),
        modulation,
        base_key,
        base_filter,
        bias,
        torch.sqrt(1 - torch.exp(-2 * decay)),
        eps=EPS,
        backend="reference",
    )
    keyed = (values.unflatten(-1, heads), key, filter_, clock, decay, frequency, spectrum)
    mixed, after = keyed_mix.keyed_mix(*keyed, backend="reference")
    normed = gated_norm.gated_norm(mixed, gate.unflatten(-1, heads), norm_weight, backend="reference")
    return normed[:, 0].flatten(1), kept, after


def defined_delta_step(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``short_conv``, ``addresses``, rotation, ``delta_mix``, gate and ``rms_norm`` of one token."""
    projected, modulation, clock, erase, rotation, rotation_gate = (x[:, None] for x in tensors[:6])
    weight, base_key, base_filter, bias, decay, frequency, norm_weight, past, spectrum, phase = tensors[6:]
    heads, width = len(decay), norm_weight.shape[0]
    wide = 2 * heads * width
    opened, raw, kept = short_conv.short_conv(projected, weight, past, width=wide, backend="reference")
    values, gate = opened.unflatten(-1, (2, heads, width)).unbind(dim=2)
    raw_key, raw_filter = raw.unflatten(-1, (2, *base_key.shape)).unbind(dim=2)
    parameters = (base_key, base_filter, bias, torch.ones_like(bias))
    key, filter_ = addresses.addresses(
        raw_key, raw_filter, modulation, *parameters, eps=EPS, backend="reference"
    )
    key = key / (key.square().sum(dim=(3, 4), keepdim=True) + 1e-6).sqrt()
    turned = phase[:, None] + rotation.double().tanh() * rotation_gate.double().sigmoid()[..., None] / 2
    factor = torch.exp(2j * math.pi * turned)
    key = torch.view_as_real(torch.complex(*key.double().unbind(3)) / factor).movedim(-1, 3)
    filter_ = torch.view_as_real(torch.complex(*filter_.double().unbind(3)) * factor).movedim(-1, 3)
    streams = (values * erase[..., None], key, filter_, erase, clock)
    mixed, after = delta_mix.delta_mix(*streams, decay, frequency, spectrum, backend="reference")
    normed = rms_norm.rms_norm((mixed * gate)[:, 0], norm_weight, backend="reference")
    return normed.flatten(1), kept, after, (turned - turned.round())[:, 0]


KEYED_MIX = Operator("keyed_mix", keyed_mix.keyed_mix, keyed_mix.BACKENDS, ())
DELTA_MIX = Operator("delta_mix", delta_mix.delta_mix, delta_mix.BACKENDS, ())
SPECTRAL_MIX = Operator("spectral_mix", with_eps(spectral_mix.spectral_mix), spectral_mix.BACKENDS, (EPS,))
SHORT_CONV = Operator("short_conv", convolve, short_conv.BACKENDS, (8,))
ADDRESSES = Operator("addresses", with_eps(addresses.addresses), addresses.BACKENDS, (EPS,))
GATED_NORM = Operator("gated_norm", gated_norm.gated_norm, gated_norm.BACKENDS, ())
RMS_NORM = Operator("rms_norm", rms_norm.rms_norm, rms_norm.BACKENDS, ())
PREFIX_CONTEXT = Operator("prefix_context", prefix_context.prefix_context, prefix_context.BACKENDS, (0,))
FORGETFUL_CONTEXT = replace(PREFIX_CONTEXT, call=forgetful, constants=(HORIZON,))
MASKED_CONTEXT = replace(PREFIX_CONTEXT, constants=None, mask=True)
CONTEXT_STEP = Operator("context_step", forgetful_step, decode.BACKENDS, definition=defined_context_step)
ADDRESS_STEP = Operator("address_step", address_step, decode.BACKENDS, definition=defined_address_step)
DELTA_STEP = Operator("delta_step", delta_step, decode.BACKENDS, definition=defined_delta_step)
SAME_CHECKS = (MASKED_CONTEXT, FORGETFUL_CONTEXT)
"""Variants of an operator above, whose tensors are checked by the same lines."""
LONG = [
    *(KEYED_MIX, DELTA_MIX, SPECTRAL_MIX, SHORT_CONV, ADDRESSES, GATED_NORM),
    *(RMS_NORM, PREFIX_CONTEXT, FORGETFUL_CONTEXT, MASKED_CONTEXT),
]
"""Operators of whole texts."""
OPERATORS = [*LONG, CONTEXT_STEP, ADDRESS_STEP, DELTA_STEP]


def results(
    operator: Operator, inputs: Sequence[Tensor], backend: str, device: str = "cpu"
) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs, and gradients of the floating inputs for a random upstream gradient, on the CPU."""
    leaves = [x.detach().to(device).requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = operator.outputs(*leaves, backend=backend)
    normal = normal_numbers(1)
    floating = [y for y in outputs if y.is_floating_point()]
    upstream = [normal(*y.shape).to(y) for y in floating]
    wanted = [x for x in leaves if x.requires_grad]
    grads = torch.autograd.grad(floating, wanted, upstream, materialize_grads=True)
    return [y.detach().cpu() for y in outputs], [grad.cpu() for grad in grads]


def compare(
    operator: Operator, inputs: Sequence[Tensor], backend: str, tolerance: float = 1e-9, device: str = "cpu"
) -> None:
    """Compare values and gradients of a backend with those of the definition."""
    expected = results(operator, inputs, "reference")
    actual = results(operator, inputs, backend, device)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    if operator not in LONG:
        with torch.no_grad():  # Kernels for one token have no gradients.
            outputs = operator.outputs(*inputs, backend=backend)
        torch.testing.assert_close(list(outputs), expected[0], rtol=tolerance, atol=tolerance)


def backend_suite(operator: Operator, backend: str, device: str = "cpu", **sizes: int) -> None:
    """Check a backend: right values and gradients, strided or not, and a correct registration."""
    inputs = list(operator.make(**sizes).values())
    compare(operator, inputs, backend, device=device)
    strided = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs]
    compare(operator, strided, backend, device=device)
    if backend in registered_backends(operator):
        leaves = [x.to(device).requires_grad_(x.is_floating_point()) for x in inputs]
        registered = getattr(torch.ops.fftnet, operator.name).default
        torch.library.opcheck(registered, (*leaves, *(operator.constants or ()), backend))


def registered_backends(operator: Operator) -> list[str]:
    """Return the backends of the registered operator: all that are not portable functions."""
    names = operator.backends.available() if operator.constants is not None else []
    return [name for name in names if hasattr(operator.backends.load(name), "forward")]
