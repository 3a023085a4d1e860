"""Parquet: a row is a document."""

from collections.abc import Iterator

from fftnet.data.errors import DataError, import_extra
from fftnet.data.sources.base import Advance, Document, Source, SourceFile, first_line, path_of, text_of

ROWS = 256
"""Rows that are read at once."""


class Parquet(Source):
    """A table, of which one column is the text."""

    label = "a .parquet file"

    def read(self, file: SourceFile, text_field: str, advance: Advance) -> Iterator[Document]:
        """The rows, of which only the text is read."""
        parquet = import_extra("pyarrow.parquet", f"{file.name} is Parquet, which", "corpora")
        path = path_of(file)
        number = 0
        try:
            with parquet.ParquetFile(path) as table:
                columns = table.schema_arrow.names
                if text_field not in columns:
                    text_of(dict.fromkeys(columns), text_field, file.name)
                for batch in table.iter_batches(batch_size=ROWS, columns=[text_field]):
                    advance(path.stat().st_size * batch.num_rows // max(table.metadata.num_rows, 1))
                    for row in batch.to_pylist():
                        number += 1
                        name = f"{file.name} row {number}"
                        yield Document(name, [text_of(row, text_field, name)])
        except DataError:
            raise
        # What pyarrow raises on a damaged file is a ValueError or an OSError without a number.
        except ValueError as error:
            raise DataError(f"{file.name} is not a whole Parquet file: {first_line(error)}") from error
