"""Devices and what can't be used is named."""

import pytest

from fftnet.devices import DeviceError, pick_device


def test_an_unknown_device_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="device 'warp' can't be used here: choose cpu or auto"):
        pick_device("warp")
