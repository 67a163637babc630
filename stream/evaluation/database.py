"""DuckDB with bounded memory: joins and sorts files that are larger than it.

DuckDB is an optional dependency; the error for a missing one says what to install.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from stream.errors import ExtraMissing, OutputFailure

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

ROWS_AT_ONCE: Final = 50_000
MEMORY_LIMIT: Final = "128MiB"
"""DuckDB moves the rest to disk."""


def check_installed() -> None:
    """Raise ExtraMissing where DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError as error:
        raise ExtraMissing("duckdb is not installed; labels and queries of runs need it") from error


@contextmanager
def open_database(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Open an empty database in a folder, and remove it at the end.

    Raises ExtraMissing, and OutputFailure where the disk is full.
    """
    check_installed()
    import duckdb

    with TemporaryDirectory(prefix="database-", suffix=".part", dir=folder) as inside:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": inside,
            "threads": 1,
            "preserve_insertion_order": False,  # it costs memory: order is always asked for
        }
        with duckdb.connect(f"{inside}/tables", config=settings) as database:
            disable_progress_bar(database)
            try:
                yield database
            except (
                duckdb.IOException,
                duckdb.OutOfMemoryException,
                duckdb.FatalException,
                duckdb.TransactionException,  # a commit that finds no room
            ) as error:
                reason = str(error).splitlines()[0]
                raise OutputFailure(f"{folder}: the tables cannot be written: {reason}") from error


def disable_progress_bar(database: "DuckDBPyConnection") -> None:
    """Disable DuckDB's own progress bars."""
    database.execute("SET enable_progress_bar = false")


def parquet_source(path: Path, *, numbered: bool = False) -> str:
    """SQL that reads the file. numbered: with the column `file_row_number`."""
    quoted = escape_glob(path).replace("'", "''")
    return f"read_parquet('{quoted}'{', file_row_number = true' if numbered else ''})"


def escape_glob(path: Path) -> str:
    """The path with *, ? and [ escaped, which DuckDB takes for patterns."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


class SqlSession:
    """Makes and reads the tables and views of a database by SQL."""

    def __init__(self, database: "DuckDBPyConnection") -> None:
        self._database = database

    def execute(self, statement: str) -> None:
        """Run a statement that makes a table or a view."""
        self._database.execute(statement)

    def fetch_rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query with few rows."""
        return self._query(query).fetchall()

    def fetch_columns(self, query: str) -> dict[str, Any]:
        """A query's columns as numpy arrays."""
        table = self._query(query).to_arrow_table()
        return {name: table[name].to_numpy() for name in table.column_names}

    def fetch_batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query in batches."""
        yield from self._query(query).to_arrow_reader(ROWS_AT_ONCE)

    def _query(self, query: str) -> "DuckDBPyRelation":
        return self._database.sql(query)
