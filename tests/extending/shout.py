"""Files in which every line is a document, read in capitals."""

from collections.abc import Iterator

from fftnet.data.sources.base import Advance, Document, Source, SourceFile, path_of


class Shout(Source):
    """One document per line, in capitals."""

    label = "a .shout file"

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """Yield the lines that are not blank."""
        for number, line in enumerate(path_of(file).read_text(encoding="utf-8").splitlines(), start=1):
            advance(len(line) + 1)
            if line.strip():
                yield Document(f"{file.name} line {number}", [line.upper()])
