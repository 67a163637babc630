"""Logging: one JSON object per line, to standard error.

Kafka's client logs through the standard library, in the same format. Lines name topics, partitions,
offsets and counts, never an entity. Credentials in addresses are hidden.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from stream.location import hide_credentials

Level = Literal["debug", "info", "warning", "error"]


def configure_logging(level: Level, **named: str) -> None:
    """Log everything from that level on. Call it once, before anything is logged.

    named: fields of every line, such as the worker's slot.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _, __, line: {**named, **line},
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                lambda _, __, line: _without_credentials(line),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _without_credentials(line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _hidden(value) for name, value in line.items()}


def _hidden(value: Any) -> Any:
    """The value with credentials hidden in its texts; objects of other types as text."""
    match value:
        case str():
            return hide_credentials(value)
        case dict():
            return {name: _hidden(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_hidden(inner) for inner in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return hide_credentials(str(value))
