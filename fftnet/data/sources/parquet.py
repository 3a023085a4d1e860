"""Parquet: a row is a row."""

from collections.abc import Iterator, Sequence

from fftnet.data.errors import DataError, import_extra
from fftnet.data.sources.base import Advance, Row, SourceFile, Table, first_line, path_of

ROWS = 256
"""Rows that are read at once."""


class Parquet(Table):
    """A table, of which no more columns are read than are asked for."""

    label = "a .parquet file"

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """The rows; where a column is missing, they have all others, without the values of the unread."""
        parquet = import_extra("pyarrow.parquet", f"{file.name} is Parquet, which", "corpora")
        path = path_of(file)
        number = 0
        try:
            with parquet.ParquetFile(path) as table:
                known = table.schema_arrow.names
                wanted = [name for name in columns if name in known]
                others = {} if len(wanted) == len(columns) else dict.fromkeys(known)
                for batch in table.iter_batches(batch_size=ROWS, columns=wanted):
                    advance(path.stat().st_size * batch.num_rows // max(table.metadata.num_rows, 1))
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(f"{file.name} row {number}", others | values)
        except DataError:
            raise
        # What pyarrow raises on a damaged file is a ValueError or an OSError without a number.
        except ValueError as error:
            raise DataError(f"{file.name} is not a whole Parquet file: {first_line(error)}") from error
