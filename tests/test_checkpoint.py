"""Files of a checkpoint: whole or not at all, and named when damaged."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fftnet import checkpoint
from fftnet.checkpoint import CheckpointError, intact, replace_directory


def filler(text: str):
    def fill(folder: Path) -> None:
        (folder / "file").write_text(text)

    return fill


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last"
    assert intact(path) is None
    for text in ("one", "two"):
        replace_directory(path, filler(text))
        assert (path / "file").read_text() == text
        assert [entry.name for entry in path.parent.iterdir()] == ["last"]


@pytest.mark.parametrize("moment", ["rename", "fsync"])
def test_a_crash_at_any_moment_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "last"
    replace_directory(path, filler("old"))
    calls = 0
    real = {"rename": Path.rename, "fsync": checkpoint.os.fsync}[moment]
    for fatal in range(6):
        calls = 0

        def crash(*arguments, fatal: int = fatal):
            nonlocal calls
            calls += 1
            if calls == fatal + 1:
                raise SystemExit
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Path if moment == "rename" else checkpoint.os, moment, crash)
            try:
                replace_directory(path, filler(f"new {fatal}"))
            except SystemExit:
                pass
        whole = intact(path)
        assert whole is not None
        assert (whole / "file").read_text() in {"old", *(f"new {n}" for n in range(fatal + 1))}
    replace_directory(path, filler("last"))
    assert (path / "file").read_text() == "last"


def test_a_failing_write_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "last"
    replace_directory(path, filler("old"))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise PermissionError

    with pytest.raises(CheckpointError, match="no permission to write there.*the previous one is kept"):
        replace_directory(path, fail)
    assert (path / "file").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tensors, values = tmp_path / "x.safetensors", tmp_path / "x.json"
    with pytest.raises(CheckpointError, match=r"x\.safetensors is missing"):
        checkpoint.read_tensors(tensors)
    with pytest.raises(CheckpointError, match=r"x\.json is missing"):
        checkpoint.read_json(values)
    checkpoint.write_tensors(tensors, {"a": torch.ones(50)})
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged, take another checkpoint"):
        checkpoint.read_tensors(tensors)
    values.write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"x\.json is damaged, take another checkpoint"):
        checkpoint.read_json(values)


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
    checkpoint.write_tensors(tmp_path / "w", stored.state_dict())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_weights(nn.Linear(4, 2), tmp_path / "w")
