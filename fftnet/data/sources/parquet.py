"""Parquet tables."""

from collections.abc import Iterator, Sequence
from typing import Any

from fftnet.data.errors import DataError, first_line, import_extra
from fftnet.data.sources.base import Advance, SourceFile, path_of
from fftnet.data.sources.tables import Row, Table, check_unique

LARGEST_GROUP = 2**31
"""Maximum unpacked size of the columns of a row group, in bytes."""
UNPACKED = 2**29
"""Maximum unpacked size of rows that are read at once, in bytes, unless a single row is larger."""


class Parquet(Table):
    """A table of which only the columns in use are read."""

    label = "a .parquet file"

    def rows(self, file: SourceFile, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
        """Yield the rows; if a column is missing, they name all others, with None for values not read."""
        parquet = import_extra("pyarrow.parquet", f"{file.name} is Parquet, which", "corpora")
        path = path_of(file)
        number = 0
        try:
            with parquet.ParquetFile(path) as table:
                known = table.schema_arrow.names
                check_unique(known, f"{file.name} ")
                wanted = [name for name in columns or known if name in known]
                others = {} if len(wanted) == len(columns) else dict.fromkeys(known)
                # A value may be as large as its column: a dictionary holds it once, however often it occurs.
                rows = UNPACKED // max(_unpacked(file, table.metadata, wanted), 1)
                for batch in table.iter_batches(batch_size=min(max(rows, 1), 256), columns=wanted):
                    advance(path.stat().st_size * batch.num_rows // max(table.metadata.num_rows, 1))
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(f"{file.name} row {number}", others | values)
        except DataError:
            raise
        # For a damaged file, pyarrow raises a ValueError or an OSError without a number.
        except ValueError as error:
            raise DataError(f"{file.name} is not a whole Parquet file: {first_line(error)}") from error


def _unpacked(file: SourceFile, metadata: Any, columns: Sequence[str]) -> int:
    """Return the unpacked size of the columns of the largest row group, in bytes."""
    most = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        parts = map(group.column, range(group.num_columns))
        # A part of a nested column has a path that begins with the column.
        wanted = [p for p in parts if any(f"{p.path_in_schema}.".startswith(f"{c}.") for c in columns)]
        most = max(most, sum(part.total_uncompressed_size for part in wanted))
    if most > LARGEST_GROUP:
        raise DataError(
            f"{file.name} has a row group that unpacks to {most:,} bytes, and {LARGEST_GROUP:,} are allowed: "
            "write it again with a smaller row_group_size"
        )
    return most
