"""Lossless compression: a causal language model over bytes predicts, and a range coder codes.

The file is cut into streams of equal length, which the model reads in step, as the rows of one batch. Both
directions run the same decode steps on the same bytes, so their probabilities are equal bit by bit. The coder
rounds them to multiples of 2^-24, and none to 0, by the same rule in both directions.

Layout, little-endian: a ``Header``, then frames of up to ``FRAME_BYTES`` bytes of the file. A frame is the
size of its payload, the CRC-32 of the header and all bytes so far, and the payload. A payload as large as the
bytes is the bytes themselves, where coding would save nothing; the model does not read them.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from fftnet.data.encodings import BytesEncoding
from fftnet.data.errors import import_extra
from fftnet.errors import UserError
from fftnet.metrics.averages import evaluation_mode
from fftnet.model.fftnet_model import FFTNet

MAGIC = b"\xf7FFT"
VERSION = 1
"""Version of the layout."""
FRAME_BYTES = 2**16
"""Bytes of the file in a frame, but at least one per stream."""
MAX_STREAMS = 1024
BYTES_PER_STREAM = 4096
"""Length of a stream by default, at least: each starts without context, which costs some bytes."""
DEFAULT_STREAMS = 128
"""Largest number of streams by default; a larger batch is hardly faster."""
_HEADER = struct.Struct("<4sB8sQHI")
_FRAME = struct.Struct("<II")

Progress = Callable[[int, int], object]
"""Function of the number of bytes since the last call and the length of the original file."""

TRUNCATED = "this file is truncated: take another copy"
MISMATCH = (
    "the checksum does not match: this file is damaged, or was compressed on another processor, backend "
    "(FFTNET_BACKEND) or version of PyTorch, which gives other probabilities: restore it there"
)


class CompressionError(UserError, ValueError):
    """A file can't be compressed or restored; the message says why and what to do."""


class Header(NamedTuple):
    """Beginning of a compressed file."""

    model: bytes
    """First 8 bytes of the ``weights_digest``."""
    length: int
    """Length of the original file, bytes."""
    streams: int

    def pack(self) -> bytes:
        """Return the header as bytes, with their CRC-32 at the end."""
        fields = _HEADER.pack(MAGIC, VERSION, *self, 0)[:-4]
        return fields + struct.pack("<I", zlib.crc32(fields))

    @classmethod
    def read(cls, source: BinaryIO) -> "Header":
        """Read a header; CompressionError if it is none, damaged or of another version."""
        content = source.read(_HEADER.size)
        if content[:4] != MAGIC:
            raise CompressionError("this file was not made by fftnet compress")
        # Checked first: the header of another version may have another size.
        if len(content) > 4 and content[4] != VERSION:
            raise CompressionError(
                f"this file has version {content[4]} of the format, not {VERSION}: use the version of fftnet "
                "that compressed it"
            )
        if len(content) < _HEADER.size:
            raise CompressionError(TRUNCATED)
        header = cls(*_HEADER.unpack(content)[2:5])
        if header.pack() != content or not 1 <= header.streams <= MAX_STREAMS:
            raise CompressionError("this file has a damaged header: take another copy")
        return header

    def frames(self) -> Iterator["Frame"]:
        """Yield the frames. Streams are consecutive parts of the file, and the rest is a frame in the end."""
        length, rest = divmod(self.length, self.streams)
        steps = max(FRAME_BYTES // self.streams, 1)
        for first in range(0, length, steps):
            starts = range(first, first + length * self.streams, length)
            yield Frame(starts, min(steps, length - first))
        if rest:
            yield Frame([self.length - rest], rest)


class Frame(NamedTuple):
    """Pieces of the file, one of every stream."""

    starts: Sequence[int]
    """Offset of each piece in the file."""
    steps: int
    """Length of each piece."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.starts) * self.steps

    def read(self, source: BinaryIO) -> bytes:
        """Read the pieces from the original file."""
        pieces = []
        for start in self.starts:
            source.seek(start)
            pieces.append(source.read(self.steps))
        if min(map(len, pieces)) < self.steps:
            raise CompressionError("the file became shorter while it was read: try again")
        return b"".join(pieces)

    def write(self, sink: BinaryIO, content: bytes) -> None:
        """Write the pieces into the restored file."""
        for row, start in enumerate(self.starts):
            sink.seek(start)
            sink.write(content[row * self.steps : (row + 1) * self.steps])


def weights_digest(model: FFTNet) -> bytes:
    """Return the SHA-256 of the names, shapes and values of all weights, whatever file they come from."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.digest()


def compress(
    model: FFTNet,
    source: BinaryIO,
    sink: BinaryIO,
    *,
    streams: int | None = None,
    progress: Progress = lambda new, total: None,
) -> None:
    """Compress a file, in memory that does not grow with its length.

    Args:
        model: causal model over bytes from ``fftnet.load``, on the CPU in float32, without attention.
        source: seekable file, read from its beginning.
        sink: file to write.
        streams: parts of the file that are read at once, 1 to ``MAX_STREAMS`` (None: one for every
            ``BYTES_PER_STREAM`` bytes, at most ``DEFAULT_STREAMS``). More are faster and compress less.
        progress: called after every step.

    Raises:
        CompressionError: if the model can't compress, or the file becomes shorter meanwhile.
        UserError: if constriction is not installed.
        ValueError: if ``streams`` is out of range.
    """
    length = source.seek(0, os.SEEK_END)
    if streams is None:
        streams = min(length // BYTES_PER_STREAM, DEFAULT_STREAMS)
    elif not 1 <= streams <= MAX_STREAMS:
        raise ValueError(f"streams must lie between 1 and {MAX_STREAMS}, got {streams}")
    with _fixed_arithmetic(model):
        # A stream has at least one byte, except that of an empty file.
        header = Header(weights_digest(model)[:8], length, max(min(streams, length), 1))
        coder = _Coder(model, header, progress)
        sink.write(header.pack())
        check = zlib.crc32(header.pack())
        for frame in header.frames():
            content = frame.read(source)
            check = zlib.crc32(content, check)
            payload = coder.encode(frame, content)
            sink.write(_FRAME.pack(len(payload), check) + payload)


def decompress(
    model: FFTNet, source: BinaryIO, sink: BinaryIO, *, progress: Progress = lambda new, total: None
) -> None:
    """Restore a file that ``compress`` made, with the same model on the same kind of processor.

    Args:
        model: as for ``compress``.
        source: compressed file, at its beginning.
        sink: empty seekable file to write; it is complete only if nothing is raised.
        progress: called after every step.

    Raises:
        CompressionError: if the file is damaged or of another version or model, or this process computes
            other probabilities than ``compress`` did.
        UserError: if constriction is not installed.
    """
    with _fixed_arithmetic(model):
        header = Header.read(source)
        digest = weights_digest(model)[:8]
        if header.model != digest:
            raise CompressionError(
                f"this file was compressed with the weights {header.model.hex()}, this model has the weights "
                f"{digest.hex()}: take the other model"
            )
        coder = _Coder(model, header, progress)
        check = zlib.crc32(header.pack())
        for frame in header.frames():
            payload, expected = _read_payload(source, frame.size)
            content = coder.decode(frame, payload)
            check = zlib.crc32(content, check)
            if check != expected:
                raise CompressionError(MISMATCH)
            frame.write(sink, content)
        if source.read(1):
            raise CompressionError("this file is damaged, it goes on after its end: take another copy")


@contextmanager
def _fixed_arithmetic(model: FFTNet) -> Iterator[None]:
    """Check the model, and let equal steps give equal bits in every process of this machine."""
    encoding = getattr(model.tokenizer, "encoding", None)
    if not (model.causal and isinstance(encoding, BytesEncoding)):
        raise CompressionError(
            "compression needs a causal language model over bytes: train one with --tokenizer bytes"
        )
    if any(getattr(layer, "growing", None) for layer in model.init_state(1, "meta")):
        raise CompressionError("the state of attention grows with the file: take a model without attention")
    if (model.device.type, model.embedding.weight.dtype) != ("cpu", torch.float32):
        raise CompressionError("compression computes on the CPU in float32: use model.cpu().float()")
    threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
    # Another number of threads may add in another order. oneDNN is slow for a single token.
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with evaluation_mode(model), torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn  # pyright: ignore[reportAttributeAccessIssue]


class _Coder:
    """Range coder, and the states of the model after the bytes so far; the same for both directions."""

    def __init__(self, model: FFTNet, header: Header, progress: Progress) -> None:
        stream = import_extra("constriction", "compression", "compress").stream
        self._queue = stream.queue
        self._family = stream.model.Categorical(perfect=False)
        self._model = model
        self._header = header
        self._progress = progress
        # In training, this token is in front of every document.
        token_N = torch.full((header.streams,), model.tokenizer.eot)
        self._position = token_N, model.init_state(header.streams)

    def encode(self, frame: Frame, content: bytes) -> bytes:
        """Return the payload of a frame: its bytes coded, or as they are if that is not longer."""
        if len(frame.starts) < self._header.streams:
            return content
        before = self._position
        encoder = self._queue.RangeEncoder()
        block_NT = np.frombuffer(content, np.uint8).reshape(-1, frame.steps)
        self._step_through(
            np.ascontiguousarray(block_NT.T, np.int32), lambda x, p: encoder.encode(x, self._family, p)
        )
        payload = encoder.get_compressed().astype("<u4").tobytes()
        if len(payload) < len(content):
            return payload
        # States are values: the one in front of the frame is still there.
        self._position = before
        return content

    def decode(self, frame: Frame, payload: bytes) -> bytes:
        """Return the bytes of a frame from its payload."""
        if len(payload) == frame.size or len(frame.starts) < self._header.streams:
            self._progress(frame.size, self._header.length)
            return payload
        decoder = self._queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        block_TN = np.zeros((frame.steps, len(frame.starts)), np.int32)

        def fill(symbols: np.ndarray, probabilities: np.ndarray) -> None:
            symbols[:] = decoder.decode(self._family, probabilities)

        self._step_through(block_TN, fill)
        return block_TN.T.astype(np.uint8).tobytes()

    def _step_through(self, block_TN: np.ndarray, code: Callable[[np.ndarray, np.ndarray], object]) -> None:
        """Let ``code`` code or fill in the bytes (N,) of every step by their probabilities (N, 256)."""
        token_N, state = self._position
        for symbols_N in block_TN:
            logits_NV, state = self._model.step(token_N, state)
            # The last token of the vocabulary is the end of a text, which is no byte.
            probabilities = logits_NV[:, :256].softmax(dim=1).numpy()
            try:
                code(symbols_N, probabilities)
            except AssertionError as error:  # Impossible code words.
                raise CompressionError(MISMATCH) from error
            except ValueError as error:
                raise CompressionError(
                    "the probabilities are not finite: the weights are damaged, take another checkpoint"
                ) from error
            token_N = torch.from_numpy(symbols_N.astype(np.int64))
            self._progress(len(symbols_N), self._header.length)
        self._position = token_N, state


def _read_payload(source: BinaryIO, size: int) -> tuple[bytes, int]:
    """Return the payload of a frame of ``size`` bytes, and the checksum after them."""
    beginning = source.read(_FRAME.size)
    if len(beginning) < _FRAME.size:
        raise CompressionError(TRUNCATED)
    coded, check = _FRAME.unpack(beginning)
    # Code words have 32 bits, and no payload is longer than the bytes.
    if coded > size or (coded < size and coded % 4):
        raise CompressionError(MISMATCH)
    payload = source.read(coded)
    if len(payload) < coded:
        raise CompressionError(TRUNCATED)
    return payload, check
