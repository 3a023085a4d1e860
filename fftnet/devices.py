"""Which device is meant by a name."""

import torch

from fftnet.errors import UserError


class DeviceError(UserError, ValueError):
    """A device can't be used here."""


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is cuda where there is one.

    Raises:
        DeviceError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} can't be used here: choose cpu or auto") from error
