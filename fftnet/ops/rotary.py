"""Data-dependent rotation of the bins, moved into write keys and read filters (docs/maths.md, section 4).

A bin that every token turns by an angle is the same as a bin that never turns, if keys are turned back and
filters forward by the sum of all angles so far. So the recurrence stays as it is. Rotary position embeddings
do the same with the position as the angle.
"""

import math

import torch
from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.numerics import compute_dtype

_SIGNATURE = Signature(
    "rotary",
    {
        "key": "B T H 2 F",
        "filter_": "B T H 2 F",
        "rotation": "B T H F",
        "gate": "B T H",
        "phase": "B H F",
    },
)


def rotary(
    key: Tensor, filter_: Tensor, rotation: Tensor, gate: Tensor, phase: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn keys back and filters forward by ``phase + sum_{j<=t} r(j)`` revolutions.

    A token turns bin k by ``r_k = tanh(rotation_k) sigmoid(gate) / 2``, at most half a revolution.

    Args:
        key: complex write keys as real and imaginary plane, (B, T, H, 2, F).
        filter_: complex read filters, likewise.
        rotation: rotation of every token and bin before its tanh, (B, T, H, F).
        gate: share of it that takes place, before its sigmoid, (B, T, H).
        phase: revolutions before the first token, (B, H, F).

    Returns:
        Turned keys and filters, and the phase after the last token, between -0.5 and 0.5, in the dtypes of
        ``key``, ``filter_`` and ``phase``.
    """
    _SIGNATURE.check(key, filter_, rotation, gate, phase)
    dtype = compute_dtype(key)
    turns_BTHF = 0.5 * torch.tanh(rotation.to(dtype)) * torch.sigmoid(gate.to(dtype))[..., None]
    # In float64, because the error of a long sum would be an error of the angle. Whole revolutions go.
    phase_BTHF = phase[:, None] + turns_BTHF.double().cumsum(dim=1)
    phase_BTHF = (phase_BTHF - phase_BTHF.round()).to(dtype)
    angle_BTH1F = (2 * math.pi * phase_BTHF)[:, :, :, None]
    cos, sin = torch.cos(angle_BTH1F), torch.sin(angle_BTH1F)
    turned = turn(key, cos, -sin).to(key.dtype), turn(filter_, cos, sin).to(filter_.dtype)
    return *turned, phase_BTHF[:, -1].to(phase.dtype)


def turn(z: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Multiply complex numbers, as planes (..., 2, F), by ``cos + i sin``."""
    real, imag = z.split(1, dim=-2)
    return torch.cat([cos * real - sin * imag, cos * imag + sin * real], dim=-2)
