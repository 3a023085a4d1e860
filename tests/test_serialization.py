"""Files of a checkpoint: complete or not there, and named if damaged."""

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from fftnet import serialization
from fftnet.serialization import CheckpointError


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    serialization.write_json(path, {"a": 1})

    def full(self: Path, text: str, encoding: str) -> int:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"metrics\.json could not be written: the disk is full"):
        serialization.write_json(path, {"a": 2})
    assert serialization.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(12.0).view(3, 4)
    tensors = {
        "tied": shared,
        "to this": shared,
        "transposed": shared.T,
        "part": shared[1:, ::2],
        "scalar": torch.tensor(3),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    serialization.write_tensors(tmp_path / "x.safetensors", tensors)
    stored = serialization.read_tensors(tmp_path / "x.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            nn.Linear(3, 2),
            r"holds weight of shape \(2, 3\), not \(2, 4\): the checkpoint was made with another",
        ),
        (nn.Linear(4, 2, bias=False), "lacks bias"),
        (nn.Sequential(nn.Linear(4, 2)), r"holds 0\.bias, which this model lacks"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, stored: nn.Module, message: str) -> None:
    serialization.write_tensors(tmp_path / "w", stored.state_dict())
    with pytest.raises(CheckpointError, match=message):
        serialization.load_weights(nn.Linear(4, 2), tmp_path / "w")
