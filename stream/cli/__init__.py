"""The command line: reads arguments, calls what does the work, and turns errors into exit codes.

Heavy modules are imported inside the commands, so that `eddy --help` is quick.
"""

import sys
from typing import Final

import typer

from stream.cli import config, query, replay, run, simulate
from stream.cli.apps import app
from stream.errors import EddyError
from stream.formatting import escape_control_characters

__all__ = ["app", "config", "main", "query", "replay", "run", "simulate"]

DUCKDB_INTERRUPTED: Final = "Query interrupted"
"""What DuckDB makes of Ctrl-C in the middle of a query: a RuntimeError with these words."""
INTERRUPTED: Final = 130
"""The exit code of Ctrl-C, as shells have it."""


@app.command()
def version() -> None:
    """Print Eddy's version.

    Example: eddy version
    """
    from importlib.metadata import version as version_of

    typer.echo(version_of("eddywatch"))


def main() -> None:
    """The entry point `eddy`: runs a command; an error that Eddy knows ends without a traceback."""
    try:
        app()
    except EddyError as error:
        typer.echo(escape_control_characters(f"eddy: {error.message}"), err=True)
        typer.echo(escape_control_characters(f"      {error.remedy}"), err=True)
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if str(error) != DUCKDB_INTERRUPTED:
            raise
        sys.exit(INTERRUPTED)
