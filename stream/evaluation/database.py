"""DuckDB, in which files larger than memory are joined and sorted: opened within bounds.

An extra that not every installation has: where it is missing, the error says what to install.
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
"""What is more goes to disk."""


def check_installed() -> None:
    """Raise ExtraMissing where DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError as error:
        raise ExtraMissing(
            "duckdb is not installed; labels are judged by and runs are asked in it"
        ) from error


@contextmanager
def open_database(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """An empty database that lies in the folder while it is open, and is gone behind.

    Raises ExtraMissing; OutputFailure where there is no room.
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
            ) as error:
                reason = str(error).splitlines()[0]
                raise OutputFailure(f"{folder}: the tables cannot be written: {reason}") from error


def disable_progress_bar(database: "DuckDBPyConnection") -> None:
    """Let it draw no progress bars of its own."""
    database.execute("SET enable_progress_bar = false")


def parquet_source(path: Path, *, numbered: bool = False) -> str:
    """The file as SQL reads it. numbered: with its rows' numbers, `file_row_number`."""
    quoted = escape_glob(path).replace("'", "''")
    return f"read_parquet('{quoted}'{', file_row_number = true' if numbered else ''})"


def escape_glob(path: Path) -> str:
    """A path that means this file alone: DuckDB takes *, ? and [ for patterns."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


class SqlSession:
    """The tables and views of a database, made and read by statements in SQL."""

    def __init__(self, database: "DuckDBPyConnection") -> None:
        self._database = database

    def execute(self, statement: str) -> None:
        """Make a table or a view."""
        self._database.execute(statement)

    def fetch_rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query with few of them."""
        return self._query(query).fetchall()

    def fetch_columns(self, query: str) -> dict[str, Any]:
        """A query's columns as numpy arrays."""
        table = self._query(query).to_arrow_table()
        return {name: table[name].to_numpy() for name in table.column_names}

    def fetch_batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """A query's rows, however many, part by part."""
        yield from self._query(query).to_arrow_reader(ROWS_AT_ONCE)

    def _query(self, query: str) -> "DuckDBPyRelation":
        return self._database.sql(query)
