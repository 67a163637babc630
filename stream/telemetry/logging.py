"""How the worker logs: one JSON object a line to standard error.

Kafka's client speaks through the standard library's logging; its lines take the same form. What is
logged names topics, partitions, offsets and counts, never an entity. Credentials in addresses are
hidden in every line.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from stream.location import hide_credentials

Level = Literal["debug", "info", "warning", "error"]


def configure_logging(level: Level, **named: str) -> None:
    """Log everything from that level on; call once, before anything is logged.

    named: what every line says of the process, such as its slot.
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
    """The value with credentials hidden in all its texts; other objects as texts."""
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
