"""Groups of commands, and arguments that many commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Streaming anomaly detection for e-commerce risk: Kafka events in, alerts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks print local variables: events, secrets
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Check and inspect a configuration without starting anything.")
app.add_typer(config_app, name="config", no_args_is_help=True)
topics_app = typer.Typer(help="Create and check the topics of a configuration.")
app.add_typer(topics_app, name="topics", no_args_is_help=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration (TOML).")]
Level = Literal["debug", "info", "warning", "error"]
