"""Where a run computes: what can't be used is named."""

from pathlib import Path

import pytest
from runs import make

from fftnet.devices import DeviceError, pick_device
from fftnet.training.accelerator import TrainingError


def test_an_unknown_device_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="device 'warp' can't be used here: choose cpu or auto"):
        pick_device("warp")


def test_a_device_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training can't run on meta here: choose cpu or auto"):
        make(tmp_path, device="meta")
