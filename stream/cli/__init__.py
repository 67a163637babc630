"""The command line: reads arguments, calls what does the work, and turns errors into exit codes.

Heavy modules are imported inside the commands, so that `eddy --help` is quick.
"""

import sys

import typer

from stream.cli import asked, configuration, live, recorded, simulated
from stream.cli.apps import app
from stream.cli.simulated import shop_config
from stream.errors import EddyError

__all__ = ["app", "asked", "configuration", "live", "main", "recorded", "shop_config", "simulated"]


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
        typer.echo(f"eddy: {error.message}", err=True)
        typer.echo(f"      {error.do}", err=True)
        sys.exit(error.exit_code)
