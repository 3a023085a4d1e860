"""Inputs of every operator, argument to tensor in the order of the operator's arguments, from sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DEFAULTS = {"batch": 2, "length": 17, "heads": 2, "width": 8, "bins": 4, "taps": 4}
LETTERS = dict(zip(DEFAULTS, "BTHdFW", strict=True))
"""Size to its letter in the tables below, which are expressions of these letters."""


def normal_numbers(seed: int) -> Callable[..., Tensor]:
    """A function from a shape to float64 numbers, the same ones for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def maker(shapes: dict[str, str], **defaults: int) -> Callable[..., dict[str, Tensor]]:
    """Return a function that makes tensors of these shapes.

    Args:
        shapes: argument to its dimensions, expressions of letters without spaces in them.
        defaults: sizes other than those of ``DEFAULTS``.
    """

    def make(*, seed: int = 0, speed: float = 1.0, read: int = 5, **sizes: int) -> dict[str, Tensor]:
        """Make tensors.

        Args:
            seed: of the random numbers.
            speed: factor of the clock.
            read: number of tokens that the first row has read; the second has read twice as many.
            sizes: as in ``DEFAULTS``.
        """
        numbers = {LETTERS[name]: size for name, size in (DEFAULTS | defaults | sizes).items()}
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "decay": lambda x: x.exp() * 0.2,
            "bias": lambda x: x * 0.3,
            "gain": lambda x: x.abs(),
            "clock": lambda x: x.abs() * speed,
            "mean": lambda x: x * (read > 0),
            "count": lambda x: read * torch.arange(1, len(x) + 1),
            # With nothing read and nothing counted, a mean would have neither a meaning nor a gradient.
            "counted": lambda x: (x < 0.3) | (torch.arange(x.shape[1]) < 1 - read),
        }
        normal = normal_numbers(seed)
        made = {}
        for name, shape in shapes.items():
            x = normal(*(eval(size, dict(numbers)) for size in shape.split()))
            made[name] = changes.get(name, lambda x: x)(x)
        return made

    return make


HEADS = {"decay": "H F", "frequency": "H F", "bias": "H F", "readout": "H F 2"}
STREAMS = {"values": "B T H d", "key": "B T H 2 F", "filter_": "B T H 2 F", "clock": "B T H"}
BASES = {"base_key": "H 2 F", "base_filter": "H 2 F", "bias": "H F"}
CONTEXT = {"x": "B T d", "mean": "B d", "count": "B"}
ADDRESS_STEP: dict[str, Any] = {
    "projected": "B H*d+2*H*F",
    "raw_filter": "B 2*H*F",
    "modulation": "B H 2 F",
    "clock": "B H",
    "gate": "B H*d",
    "conv_weight": "H*d+2*H*F W",
    **BASES,
    "decay": "H F",
    "frequency": "H F",
    "norm_weight": "H d",
    "conv_state": "B W-1 H*d+2*H*F",
    "spectrum": "B H 2 F d",
}

causal_inputs = maker({"values": "B T H d", "filter_": "B T H F", **HEADS, "state": "B F 2 H d"}, width=3)
keyed_inputs = maker({**STREAMS, "decay": "H F", "frequency": "H F", "state": "B H 2 F d"}, width=3)
spectral_inputs = maker({"x": "B T H*d", "filter_": "B H T//2+1", "bias": "H T//2+1"}, width=3)
conv_inputs = maker({"x": "B T 2*d", "conv_weight": "2*d W", "conv_state": "B W-1 2*d"})
address_inputs = maker(
    {**dict.fromkeys(["raw_key", "raw_filter", "modulation"], "B T H 2 F"), **BASES, "gain": "H F"}, bins=8
)
norm_inputs = maker({"x": "B T H d", "gate": "B T H d", "weight": "H d"})
rms_inputs = maker({"x": "B T d", "weight": "d"})
context_inputs = maker(CONTEXT)
masked_inputs = maker(CONTEXT | {"counted": "B T"})
gate_step_inputs = maker(
    {
        "x": "B d",
        "projected": "B 2*d",
        "conv_weight": "2*d W",
        "conv_state": "B W-1 2*d",
        "mean": "B d",
        "count": "B",
    }
)
mix_step_inputs = maker({"values": "B H d", "filter_": "B H F", **HEADS, "state": "B F 2 H d"})
context_step_inputs = maker({"projected": "B d", "mean": "B d", "count": "B"})
address_step_inputs = maker(ADDRESS_STEP)
