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
    "rotary", {"key": "B T H 2 F", "filter_": "B T H 2 F", "rotation": "B T H F", "phase": "B H F"}
)


def rotary(key: Tensor, filter_: Tensor, rotation: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn keys back and filters forward by ``phase + sum_{j<=t} tanh(rotation(j)) / 2`` revolutions.

    Args:
        key: complex write keys as real and imaginary plane, (B, T, H, 2, F).
        filter_: complex read filters, likewise.
        rotation: rotation of every token and bin before its tanh, (B, T, H, F).
        phase: revolutions before the first token, (B, H, F).

    Returns:
        Turned keys and filters, and the phase after the last token, between -0.5 and 0.5, in the dtypes of
        ``key``, ``filter_`` and ``phase``.
    """
    _SIGNATURE.check(key, filter_, rotation, phase)
    dtype = compute_dtype(key)
    half_turns_BTHF = torch.tanh(rotation.to(dtype))
    # In float64, because the error of a long sum would be an error of the angle. Whole revolutions go.
    phase_BTHF = phase[:, None] + 0.5 * half_turns_BTHF.double().cumsum(dim=1)
    phase_BTHF = (phase_BTHF - phase_BTHF.round()).to(dtype)
    angle_BTH1F = (2 * math.pi * phase_BTHF)[:, :, :, None]
    cos, sin = torch.cos(angle_BTH1F), torch.sin(angle_BTH1F)
    turned = turn(key, cos, -sin).to(key.dtype), turn(filter_, cos, sin).to(filter_.dtype)
    return *turned, phase_BTHF[:, -1].to(phase.dtype)


def turn(z: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Multiply complex numbers, as planes (..., 2, F), by ``cos + i sin``."""
    real, imag = z.split(1, dim=-2)
    return torch.cat([cos * real - sin * imag, cos * imag + sin * real], dim=-2)
