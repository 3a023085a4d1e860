"""Devices by name."""

import torch

from fftnet.errors import UserError


class DeviceError(UserError, ValueError):
    """A device can't be used here."""


def pick_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is cuda if available, else cpu.

    Raises:
        DeviceError: if the name is unknown or the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # Only an allocation tells whether the device works.
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} can't be used here: choose cpu or auto") from error
