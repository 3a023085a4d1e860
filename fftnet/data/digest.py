"""Digests of the content of data: the same for a copy, another for changed text, rows or images.

They depend neither on paths, times and the tokenizer nor on what fits into memory.
"""

import hashlib
from collections.abc import Iterable, Iterator

from fftnet.data.chunks import Chunk

DIGEST = "data_digest"
"""Field of ``run.json`` and of reports that holds the digest of the data."""
UNVERIFIED = "test, not that of training"
"""Name of a test split, in a report, that may hold text or rows which trained the model."""
END_OF_DOCUMENT = b"\xff"
"""A byte that UTF-8 does not have."""


class TextDigest:
    """SHA-256 of the documents of a text, taken while they are read."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def follow(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks unchanged and take their text in; where documents are cut does not matter."""
        for chunk in chunks:
            self._sha256.update(chunk.text.encode())
            if chunk.ends_document:
                self._sha256.update(END_OF_DOCUMENT)
            yield chunk

    def hexdigest(self) -> str:
        """Return the digest of what was read so far."""
        return self._sha256.hexdigest()


def digest_items(items: Iterable[bytes]) -> str:
    """Return the SHA-256 of a sequence of items, their lengths included."""
    sha256 = hashlib.sha256()
    for item in items:
        sha256.update(len(item).to_bytes(8, "little"))
        sha256.update(item)
    return sha256.hexdigest()
