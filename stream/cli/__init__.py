"""The command line: parses arguments, calls the other packages, and turns errors into exit codes.

Heavy modules are imported inside the commands, so that `eddy --help` is fast.
"""

import sys
from typing import Final

import typer

from stream.cli import compare, config, query, replay, run, simulate
from stream.cli.apps import app
from stream.errors import EddyError, InputError
from stream.formatting import escape_control_characters

__all__ = ["app", "compare", "config", "main", "query", "replay", "run", "simulate"]

DUCKDB_INTERRUPTED: Final = "Query interrupted"
"""Message of the RuntimeError that DuckDB raises on Ctrl-C during a query."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, by the convention of shells."""
RENAMED_OPTIONS: Final = {
    "--again": "it was renamed; use --rerun",
    "--jobs": "it was removed: several processes were not faster; run without it",
}
"""Options of `eddy replay` in earlier versions, and what to do instead."""


@app.command()
def version() -> None:
    """Print Eddy's version.

    Example: eddy version
    """
    from importlib.metadata import version as version_of

    typer.echo(version_of("eddywatch"))


def main() -> None:
    """Run a command (the entry point `eddy`). Errors of Eddy are printed without a traceback."""
    try:
        refuse_renamed_options(sys.argv[1:])
        app()
    except EddyError as error:
        typer.echo(escape_control_characters(f"eddy: {error.message}"), err=True)
        typer.echo(escape_control_characters(f"      {error.remedy}"), err=True)
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if str(error) != DUCKDB_INTERRUPTED:
            raise
        sys.exit(INTERRUPTED)


def refuse_renamed_options(arguments: list[str]) -> None:
    """Raise InputError where `eddy replay` is called with an option of an earlier version."""
    if arguments[:1] != ["replay"]:
        return
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in RENAMED_OPTIONS:
            raise InputError(f"{option}: {RENAMED_OPTIONS[option]}")
