"""Sources without text: generated samples, and files of text that is tokenized already."""

from collections.abc import Iterator

from fftnet.data.errors import DataError
from fftnet.data.sources.base import Advance, Document, Source, SourceFile


class Synthetic(Source):
    """Samples of ``fftnet.data.grammar``; ``fftnet.data.synthetic`` makes batches of them."""

    label = "synthetic"
    alone = True

    def resolve(self, word: str) -> list[SourceFile]:
        """Refuses: whoever wants samples asks for them before any documents are looked for."""
        raise DataError(f"{word} data are samples, not documents: name a real text")

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Refuses, as ``resolve``."""
        raise DataError(f"{file.name} data are samples, not documents: name a real text")


class Tokens(Source):
    """A file of ``fftnet.data.token_file``, which is opened and not read."""

    label = "a .tokens file that an earlier run left"
    alone = True
    in_folders = False

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Refuses: the text is not in it."""
        raise DataError(f"{file.name} holds no text to learn bpe from: name the tokenizer it was made with")
