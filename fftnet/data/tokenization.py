"""Text to arrays of tokens, by all processors, in order, without ever holding the whole text."""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from fftnet.data.chunks import CHUNK, Chunk
from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance
from fftnet.data.split_view import TokenArrays, join_arrays
from fftnet.protocols import TextEncoder


def id_dtype(tokenizer: TextEncoder) -> np.dtype:
    """uint16 where it holds all ids of a tokenizer, else uint32."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)


def tokenize(chunks: Iterable[Chunk], tokenizer: TextEncoder) -> TokenArrays:
    """A text as arrays in memory.

    Raises:
        DataError: naming a document that can't be encoded.
    """
    return join_arrays(tokenize_parts(chunks, tokenizer))


def tokenize_parts(chunks: Iterable[Chunk], tokenizer: TextEncoder) -> Iterator[TokenArrays]:
    """A text part by part; ends count from the beginning of the text, which is an end of text.

    Args:
        chunks: from ``fftnet.data.splits.segments``.
        tokenizer: encodes them.

    Raises:
        DataError: naming a document that can't be encoded.
    """
    none = np.array([], np.uint64)
    yield TokenArrays(np.array([tokenizer.eot], id_dtype(tokenizer)), none, none)
    count = 1
    ended = 1
    for tokens, document_ends, segment_ends in _encoded(chunks, tokenizer):
        offset = np.uint64(count)
        yield TokenArrays(tokens, document_ends + offset, segment_ends + offset)
        ended = count + int(segment_ends[-1]) if len(segment_ends) else ended
        count += len(tokens)
    if ended < count:
        yield TokenArrays(np.array([], id_dtype(tokenizer)), none, np.array([count], np.uint64))


def progress_bar(total: int | None) -> AbstractContextManager[Advance]:
    """A bar on stderr that is told how many bytes were read; silent where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext(lambda count: None)

    @contextmanager
    def shown() -> Iterator[Advance]:
        # A terminal is kept up to date; a log file gets a line a minute.
        pause = 0.1 if sys.stderr.isatty() else 60.0
        with tqdm(total=total, unit="B", unit_scale=True, mininterval=pause, dynamic_ncols=True) as bar:
            yield bar.update

    return shown()


def _encoded(chunks: Iterable[Chunk], tokenizer: TextEncoder) -> Iterator[TokenArrays]:
    workers = os.cpu_count() or 1
    waiting: deque[Future[TokenArrays]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for group in _grouped(chunks):
            waiting.append(pool.submit(_encode, group, tokenizer))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _grouped(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Lists of chunks, each long enough to be worth a thread's while."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += len(chunk.text)
        if size >= CHUNK:
            yield group
            group = []
            size = 0
    if group:
        yield group


def _encode(chunks: list[Chunk], tokenizer: TextEncoder) -> TokenArrays:
    """Ends count from the beginning of the first chunk."""
    dtype = id_dtype(tokenizer)
    end_of_text = np.array([tokenizer.eot], dtype)
    pieces: list[np.ndarray] = []
    document_ends: list[int] = []
    segment_ends: list[int] = []
    count = 0
    for chunk in chunks:
        try:
            pieces.append(tokenizer.encode_array(chunk.text).astype(dtype))
        except ValueError as error:
            raise DataError(f"{chunk.name}: {error}") from error
        count += len(pieces[-1])
        if chunk.ends_document:
            pieces.append(end_of_text)
            count += 1
            document_ends.append(count)
        if chunk.ends_segment:
            segment_ends.append(count)
    ends = (np.array(each, np.uint64) for each in (document_ends, segment_ends))
    return TokenArrays(np.concatenate(pieces), *ends)
