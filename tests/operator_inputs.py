"""Inputs of every operator, argument to tensor in the order of the operator's arguments, from sizes."""

from collections.abc import Callable

import torch
from torch import Tensor


def normal_numbers(seed: int) -> Callable[..., Tensor]:
    """A function from a shape to float64 numbers, the same ones for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def _heads(normal: Callable[..., Tensor], heads: int, bins: int) -> dict[str, Tensor]:
    return {
        "decay": normal(heads, bins).exp() * 0.2,
        "frequency": normal(heads, bins),
        "bias": normal(heads, bins) * 0.3,
        "readout": normal(heads, bins, 2),
    }


def causal_inputs(
    *, batch: int = 2, length: int = 17, heads: int = 2, width: int = 3, bins: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {
        "values": normal(batch, length, heads, width),
        "filter_": normal(batch, length, heads, bins),
        **_heads(normal, heads, bins),
        "state": normal(batch, bins, 2, heads, width),
    }


def keyed_inputs(
    *,
    batch: int = 2,
    length: int = 17,
    heads: int = 2,
    width: int = 3,
    bins: int = 4,
    speed: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs whose clock runs ``speed`` times as fast."""
    normal = normal_numbers(seed)
    return {
        "values": normal(batch, length, heads, width),
        "key": normal(batch, length, heads, 2, bins),
        "filter_": normal(batch, length, heads, 2, bins),
        "clock": normal(batch, length, heads).abs() * speed,
        "decay": normal(heads, bins).exp() * 0.2,
        "frequency": normal(heads, bins),
        "state": normal(batch, heads, 2, bins, width),
    }


def spectral_inputs(
    *, batch: int = 2, length: int = 17, heads: int = 2, width: int = 3, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    bins = length // 2 + 1
    return {
        "x": normal(batch, length, heads * width),
        "filter_": normal(batch, heads, bins),
        "bias": normal(heads, bins),
    }


def conv_inputs(
    *, batch: int = 2, length: int = 17, width: int = 8, taps: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {
        "x": normal(batch, length, 2 * width),
        "conv_weight": normal(2 * width, taps),
        "conv_state": normal(batch, taps - 1, 2 * width),
    }


def address_inputs(
    *, batch: int = 2, length: int = 17, heads: int = 2, bins: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {
        "raw_key": normal(batch, length, heads, 2, bins),
        "raw_filter": normal(batch, length, heads, 2, bins),
        "modulation": normal(batch, length, heads, 2, bins),
        "base_key": normal(heads, 2, bins),
        "base_filter": normal(heads, 2, bins),
        "bias": normal(heads, bins) * 0.3,
        "gain": normal(heads, bins).abs(),
    }


def norm_inputs(
    *, batch: int = 2, length: int = 17, heads: int = 2, width: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {
        "x": normal(batch, length, heads, width),
        "gate": normal(batch, length, heads, width),
        "weight": normal(heads, width),
    }


def rms_inputs(*, batch: int = 2, length: int = 17, width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {"x": normal(batch, length, width), "weight": normal(width)}


def context_inputs(
    *, batch: int = 2, length: int = 17, width: int = 8, read: int = 5, seed: int = 0
) -> dict[str, Tensor]:
    normal = normal_numbers(seed)
    return {
        "x": normal(batch, length, width),
        "mean": normal(batch, width) * (read > 0),
        "count": read * torch.arange(1, batch + 1),
    }


def masked_inputs(**sizes: int) -> dict[str, Tensor]:
    # With nothing read and nothing counted, a mean would have neither a meaning nor a gradient.
    inputs = context_inputs(**sizes | {"read": max(1, sizes.get("read", 5))})
    generator = torch.Generator().manual_seed(1)
    return inputs | {"counted": torch.rand(inputs["x"].shape[:2], generator=generator) < 0.6}


def gate_step_inputs(*, batch: int = 2, width: int = 8, taps: int = 4, read: int = 5) -> dict[str, Tensor]:
    normal = normal_numbers(0)
    return {
        "x": normal(batch, width),
        "projected": normal(batch, 2 * width),
        "conv_weight": normal(2 * width, taps),
        "conv_state": normal(batch, taps - 1, 2 * width),
        "mean": normal(batch, width) * (read > 0),
        "count": read * torch.arange(1, batch + 1),
    }


def mix_step_inputs(*, batch: int = 2, heads: int = 2, width: int = 8, bins: int = 4) -> dict[str, Tensor]:
    normal = normal_numbers(0)
    return {
        "values": normal(batch, heads, width),
        "filter_": normal(batch, heads, bins),
        **_heads(normal, heads, bins),
        "state": normal(batch, bins, 2, heads, width),
    }


def context_step_inputs(*, batch: int = 2, width: int = 8, read: int = 5) -> dict[str, Tensor]:
    normal = normal_numbers(0)
    return {
        "projected": normal(batch, width),
        "mean": normal(batch, width) * (read > 0),
        "count": read * torch.arange(1, batch + 1),
    }


def address_step_inputs(
    *, batch: int = 2, heads: int = 2, width: int = 8, bins: int = 4, taps: int = 4
) -> dict[str, Tensor]:
    normal = normal_numbers(0)
    numbers = 2 * heads * bins
    channels = heads * width + numbers
    return {
        "projected": normal(batch, channels),
        "raw_filter": normal(batch, numbers),
        "modulation": normal(batch, heads, 2, bins),
        "clock": normal(batch, heads).abs(),
        "gate": normal(batch, heads * width),
        "conv_weight": normal(channels, taps),
        "base_key": normal(heads, 2, bins),
        "base_filter": normal(heads, 2, bins),
        "bias": normal(heads, bins) * 0.3,
        "decay": normal(heads, bins).exp() * 0.2,
        "frequency": normal(heads, bins),
        "norm_weight": normal(heads, width),
        "conv_state": normal(batch, taps - 1, channels),
        "spectrum": normal(batch, heads, 2, bins, width),
    }
