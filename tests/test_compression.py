"""Lossless compression: round trips, refusals, bits next to the model's cross-entropy, constant memory."""

import io
import math
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, answer, run, run_as_user
from models import make

import fftnet
from fftnet import FFTNet, load_tokenizer
from fftnet.api import compression
from fftnet.api.compression import CompressionError, compress, decompress, weights_digest
from fftnet.cli import compress as command
from fftnet.data.errors import MissingPackageError

TOKENIZER = load_tokenizer("bytes")
HEADER_BYTES, FRAME_BYTES = 27, 8
"""Bytes that a file and a frame take besides the payload."""
ROWS, STEPS = 8, 2048
RANDOM = np.random.default_rng(0).integers(0, 256, 3001, np.uint8).tobytes()


def save(folder: Path, model: FFTNet, tokenizer: Any = TOKENIZER) -> Path:
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("model"), make(vocab_size=TOKENIZER.vocab_size).float())


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> FFTNet:
    return fftnet.load(checkpoint, device="cpu")[0]


@pytest.fixture(scope="module")
def text(model: FFTNet) -> bytes:
    """Likely bytes for the model, so that they can be compressed: ``ROWS`` texts, one after the other."""
    generator = torch.Generator().manual_seed(1)
    token, state = torch.full((ROWS,), TOKENIZER.eot), model.init_state(ROWS)
    columns = []
    with torch.inference_mode():
        for _ in range(STEPS):
            logits, state = model.step(token, state)
            token = torch.multinomial((4 * logits[:, :256]).softmax(dim=1), 1, generator=generator)[:, 0]
            columns.append(token)
    return bytes(torch.stack(columns, dim=1).flatten().tolist())


def packed(model: FFTNet, data: bytes, streams: int | None = None) -> bytes:
    sink = io.BytesIO()
    compress(model, io.BytesIO(data), sink, streams=streams)
    return sink.getvalue()


def unpacked(model: FFTNet, data: bytes) -> bytes:
    sink = io.BytesIO()
    decompress(model, io.BytesIO(data), sink)
    return sink.getvalue()


@pytest.mark.parametrize("streams", [None, 1, 7, 1024])
@pytest.mark.parametrize(
    "data",
    [b"", b"a", b"ab", bytes(range(256)), b"\0" * 1000, RANDOM[:1024], RANDOM],
    ids=["empty", "one", "two", "all", "zeros", "even", "odd"],
)
def test_any_bytes_come_back_and_grow_by_a_little_only(
    model: FFTNet, data: bytes, streams: int | None
) -> None:
    small = packed(model, data, streams)
    assert unpacked(model, small) == data
    # Two frames: all streams, and the bytes that are left.
    assert len(small) <= len(data) + HEADER_BYTES + 2 * FRAME_BYTES
    assert struct.unpack_from("<Q", small, 13) == (len(data),)


@pytest.mark.parametrize("streams", [1, ROWS, 3])
def test_stored_and_coded_frames_mix(
    model: FFTNet, text: bytes, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 500)
    data = text[:1700] + RANDOM[:1500] + text[1700:3000] if streams == 1 else RANDOM + text[:4000]
    small = packed(model, data, streams)
    assert unpacked(model, small) == data
    assert len(small) < len(data)


def test_a_user_compresses_and_decompresses(checkpoint: Path, text: bytes, tmp_path: Path) -> None:
    data = text[:3000] + b"\r\n\0\xff"
    (tmp_path / "a.bin").write_bytes(data)
    done = run_as_user(f"fftnet compress a.bin --model {checkpoint} --streams 2", tmp_path)
    small = (tmp_path / "a.bin.fftnet").read_bytes()
    bits = 8 * len(small) / len(data)
    end = rf", {bits:.3f} bits per byte, [\d,]+ bytes/s\n"
    assert re.fullmatch(rf"a\.bin\.fftnet: 3,004 bytes in, {len(small):,} bytes out{end}", done.stdout)
    (tmp_path / "a.bin").unlink()
    done = run_as_user(f"fftnet decompress a.bin.fftnet --model {checkpoint}", tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == data
    assert re.fullmatch(rf"a\.bin: {len(small):,} bytes in, 3,004 bytes out{end}", done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.bin.fftnet"]


def test_every_process_writes_the_same_file(
    checkpoint: Path, model: FFTNet, text: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(text)
    run_as_user(f"fftnet compress a --model {checkpoint} --output b", tmp_path)
    run(f"fftnet compress a --model {checkpoint} --output c", tmp_path)
    here = packed(model, text)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == here
    assert here[21:23] == struct.pack("<H", len(text) // 4096)
    run(f"fftnet decompress b --output d --model {checkpoint}", tmp_path)
    assert (tmp_path / "d").read_bytes() == text


def test_settings_of_the_caller_change_nothing(
    model: FFTNet, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Commands that ran in this process may have switched it off.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    data = text[:600]
    small = packed(model, data)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model.train()
        assert packed(model, data) == small
        assert unpacked(model, small) == data
        assert torch.get_num_threads() == 2
        assert torch.backends.mkldnn.enabled
        assert model.training
    finally:
        model.eval()
        torch.set_num_threads(threads)


def test_bits_are_the_cross_entropy_of_one_forward_pass(model: FFTNet, text: bytes) -> None:
    ids = torch.tensor(list(text)).reshape(ROWS, STEPS)
    start = torch.full((ROWS, 1), TOKENIZER.eot)
    with torch.no_grad():
        logits, _ = model.prefill(torch.cat([start, ids[:, :-1]], dim=1), chunk_size=300)
    chances = logits[..., :256].double().log_softmax(dim=-1).gather(2, ids[..., None])
    bits = -chances.sum().item() / math.log(2)
    assert bits < 0.8 * 8 * len(text)
    assert 8 * len(packed(model, text, ROWS)) == pytest.approx(bits, rel=0.01)


class Recorder(io.BytesIO):
    """File that records the sizes of all reads and writes."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__(content)
        self.sizes: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.sizes.add(len(content))
        return content

    def write(self, content: Any, /) -> int:
        self.sizes.add(len(content))
        return super().write(content)


def test_memory_does_not_grow_with_the_file(
    model: FFTNet, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 256)
    states: set[int] = set()
    step = FFTNet.step

    def recorded(self: FFTNet, token: torch.Tensor, state: Any) -> Any:
        states.add(sum(tensor.nbytes for layer in state for tensor in layer))
        return step(self, token, state)

    monkeypatch.setattr(FFTNet, "step", recorded)
    largest = []
    for length in (1024, 8192):
        files = [Recorder(text[:length]), Recorder(), Recorder()]
        compress(model, files[0], files[1], streams=4)
        files[1].seek(0)
        decompress(model, files[1], files[2])
        assert files[2].getvalue() == text[:length]
        largest.append([max(file.sizes) for file in files])
    assert largest[0][0] == largest[1][0] == 64
    assert max(largest[0] + largest[1]) <= 256 + FRAME_BYTES
    assert len(states) == 1


def test_damage_ends_in_a_sentence(model: FFTNet, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 400)
    small = packed(model, text[:1202], 2)
    frames = HEADER_BYTES
    for cut in (6, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3, len(small) // 2, len(small) - 1):
        with pytest.raises(CompressionError, match="this file is truncated: take another copy"):
            unpacked(model, small[:cut])
    with pytest.raises(CompressionError, match="it goes on after its end"):
        unpacked(model, small + b"\0")
    for place in (13, 21, 25):
        with pytest.raises(CompressionError, match="damaged header"):
            unpacked(model, flipped(small, place))
    # Size, checksum and payload of a frame, and the end of the last one.
    for place in (frames + 1, frames + 5, frames + 9, len(small) // 2, len(small) - 1):
        with pytest.raises(CompressionError, match=r"the checksum does not match|truncated"):
            unpacked(model, flipped(small, place))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def test_files_of_others_are_refused(model: FFTNet, text: bytes) -> None:
    small = packed(model, text[:100])
    for data in (b"", b"\x89PNG", text[:100]):
        with pytest.raises(CompressionError, match="this file was not made by fftnet compress"):
            unpacked(model, data)
    with pytest.raises(
        CompressionError, match="this file has version 2 of the format, not 1: use the version"
    ):
        unpacked(model, small[:4] + b"\2" + small[5:])
    torch.manual_seed(1)
    other = make(vocab_size=257).float()
    other.tokenizer = TOKENIZER
    names = (weights_digest(model)[:8].hex(), weights_digest(other)[:8].hex())
    with pytest.raises(CompressionError, match="compressed with the weights {}, .* {}: take".format(*names)):
        unpacked(other, small)
    for streams in (0, 1025):
        header = small[:21] + struct.pack("<H", streams)
        with pytest.raises(CompressionError, match="damaged header"):
            unpacked(model, header + struct.pack("<I", zlib.crc32(header)) + small[HEADER_BYTES:])


def test_other_arithmetic_is_found_by_the_checksum(
    model: FFTNet, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = packed(model, text, ROWS)
    step = FFTNet.step

    def rounded(self: FFTNet, token: torch.Tensor, state: Any) -> Any:
        logits, state = step(self, token, state)
        return logits * 1.001, state

    monkeypatch.setattr(FFTNet, "step", rounded)
    with pytest.raises(CompressionError, match=r"another processor, backend .* or version of PyTorch"):
        unpacked(model, small)


def test_models_that_cannot_compress_are_refused(model: FFTNet, tmp_path: Path) -> None:
    def refused(other: FFTNet, message: str, tokenizer: Any = TOKENIZER) -> None:
        other.tokenizer = tokenizer
        with pytest.raises(CompressionError, match=message):
            packed(other, b"abc")

    over_bytes = "needs a causal language model over bytes: train one with --tokenizer bytes"
    bpe = load_tokenizer("bpe", corpus=["to be or not to be"], vocab_size=260)
    refused(make(vocab_size=bpe.vocab_size).float(), over_bytes, bpe)
    refused(make(vocab_size=257).float(), over_bytes, None)
    refused(make(vocab_size=257, causal=False, mixers=("spectral",)).float(), over_bytes)
    refused(make(vocab_size=257, mixers=("attention",)).float(), "take a model without attention")
    refused(make(vocab_size=257), "in float32")
    damaged = make(vocab_size=257).float()
    with torch.no_grad():
        damaged.embedding.weight[5, 0] = torch.nan
    refused(damaged, "the weights are damaged, take another checkpoint")
    with pytest.raises(ValueError, match="streams must lie between 1 and 1024, got 0"):
        packed(model, b"abc", 0)


def test_a_missing_library_ends_in_a_sentence(model: FFTNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    message = r"compression needs constriction: pip install '\.\[compress\]' in a clone of the repository"
    with pytest.raises(MissingPackageError, match=message):
        packed(model, b"abc")


def test_a_file_that_shrinks_meanwhile_is_refused(model: FFTNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 8)
    source = io.BytesIO(b"abcd" * 10)
    with pytest.raises(CompressionError, match="the file became shorter while it was read"):
        compress(model, source, io.BytesIO(), progress=lambda new, total: source.truncate(20))


def test_files_are_neither_lost_nor_left(checkpoint: Path, text: bytes, tmp_path: Path) -> None:
    contents = {"a": text[:50], "kept": b"old", "wrong.fftnet": b"\xf7FFT\1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("a")
    for words, message in (
        ("compress", "name a file to compress: fftnet compress FILE"),
        ("decompress", "name a file to decompress: fftnet decompress FILE"),
        ("compress none", "none is not a file: name one that exists"),
        ("compress folder", "folder is not a file: name one that exists"),
        (
            "compress a --output kept",
            "kept exists: add --overwrite to replace it, or choose another --output",
        ),
        ("compress a --output a --overwrite", "output must not be the input, got 'a'"),
        ("compress a --output link --overwrite", "output must not be the input, got 'link'"),
        ("compress a --output folder --overwrite", "folder is not a regular file: choose another --output"),
        ("compress a --output none/b", "output must lie in a folder that exists, got 'none/b'"),
        ("compress a --streams 0", "streams must be at least 1 or left out, got 0"),
        ("compress a --model none", "none/config.json is missing: is none a checkpoint?"),
        ("decompress a", "a does not end in .fftnet: name the output with --output"),
        ("decompress a --output b", "this file was not made by fftnet compress"),
        ("decompress wrong.fftnet", "this file is truncated: take another copy"),
        ("decompress a --output kept --overwrite", "this file was not made by fftnet compress"),
    ):
        model = [] if "--model" in words else ["--model", str(checkpoint)]
        code, out, err = answer([*words.split(), *model], tmp_path)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"error: {message}")
        assert {p.name for p in tmp_path.iterdir()} == {*contents, "folder", "link"}
        assert {name: (tmp_path / name).read_bytes() for name in contents} == contents
    run(f"fftnet compress a --output kept --overwrite --model {checkpoint}", tmp_path)
    run(f"fftnet decompress kept --output b --model {checkpoint}", tmp_path)
    assert (tmp_path / "b").read_bytes() == contents["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_command_leaves_no_file(
    error: BaseException, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: FFTNet, source: Any, sink: Any, **given: Any) -> None:
        sink.write(b"half")
        raise error

    monkeypatch.setattr(command, "compress", broken)
    (tmp_path / "a").write_bytes(b"abc")
    code, _, err = answer(["compress", "a", "--model", str(checkpoint)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    if isinstance(error, OSError):
        assert code == 2
        assert "error: a.fftnet could not be made of a: No space left on device" in err
    else:
        assert code == 130


def test_the_default_model_is_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"JULIET.\nO Romeo, Romeo! wherefore art thou Romeo?\n" * 2)
    (tmp_path / "models").symlink_to(ROOT / "models")
    run("fftnet compress a", tmp_path)
    run("fftnet decompress a.fftnet --output b", tmp_path)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "a.fftnet").stat().st_size < 90
