"""DuckDB, in which files larger than memory are joined and sorted: opened within bounds.

An extra that not every installation has: where it is missing, the error says what to install.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from stream.errors import ExtraMissing

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

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
def opened(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """An empty database that lies in the folder while it is open, and is gone behind.

    Raises ExtraMissing.
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
            quiet(database)
            yield database


def quiet(database: "DuckDBPyConnection") -> None:
    """Let it draw no progress bars of its own."""
    database.execute("SET enable_progress_bar = false")
