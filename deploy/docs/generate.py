"""The generated parts of the reference: Markdown made from the declarations in the code.

Each function returns the Markdown of one part. Nothing is written to disk: `conf.py` inserts the
text into the page that asks for it. The text about a key, a metric, an error or a command is
part of its declaration in the code: correct a mistake there.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
import typer
import typer.core
import typer.main
from configuration_keys import configuration
from markup import code, sentence, table

import stream.errors
from detectors.features import KINDS
from detectors.models import DETECTORS
from detectors.monitor import MonitorSpec
from detectors.spec import FeatureSpec
from schemas import dead_letters, events, repairs
from stream.cli import app
from stream.config import AssessSpec, Config, InputSpec
from stream.config.stage_graph import declared_stages
from stream.errors import EXIT_CODES, NON_RESTARTABLE
from stream.replay.final_labels import SCHEMA as LABEL_COLUMNS
from stream.replay.table_columns import (
    ALERT_COLUMNS,
    INCIDENT_COLUMNS,
    feature_columns,
    fraud_columns,
    score_columns,
)
from stream.telemetry.metrics import METRICS

# -- features and detectors -------------------------------------------------------------------------


def features() -> str:
    """Every feature kind that a configuration may name."""
    rows = (
        (
            code(kind.name),
            kind.meaning,
            ", ".join(kind.parameters),
            str(8 * kind.words) if kind.words else "0",
            str(8 * kind.shared // 1024) if kind.shared else "0",
        )
        for kind in KINDS.values()
    )
    names = ("kind", "value at an event", "parameters", "bytes per entity", "KiB per shard")
    return table(names, rows)


def detectors() -> str:
    """Every detector: the keys of its declaration, and what its module says of it."""
    parts: list[str] = []
    described: dict[Any, str] = {}
    for name, spec in DETECTORS.items():
        module = inspect.getmodule(spec)
        parts += [f"## `{name}`\n", sentence((inspect.getdoc(spec) or "").split("\n\n")[0]), ""]
        if module in described:
            parts += [f"See the text of `{described[module]}`.\n"]
        else:
            described[module] = name
            parts += ["```text", inspect.getdoc(module) or "", "```", ""]
    return "\n".join(parts)


# -- stages -----------------------------------------------------------------------------------------


def stages() -> str:
    """Every declared stage: what it reads and writes, and the metrics that show its counters."""
    rows = (
        (
            code(one.name),
            ", ".join(one.reads),
            ", ".join(one.writes) or "its own topics",
            ", ".join(code(name) for name in dict.fromkeys(c.metric.name for c in one.counters)),
        )
        for one in declared_stages().values()
    )
    return table(("stage", "reads", "writes", "metrics"), rows)


# -- events, dead letters ---------------------------------------------------------------------------


def event_fields() -> str:
    """Every field of an event, with its limits and the event types that have it by default."""
    rows = (
        (
            code(name),
            field.kind,
            field.meaning,
            _limit(field),
            ", ".join(one for one in events.TYPES if name in events.FIELDS_OF[one]),
        )
        for name, field in events.FIELDS.items()
    )
    return table(("field", "type", "meaning", "limit", "event types"), rows)


def _limit(field: events.EventField) -> str:
    if field.kind == "text":
        return f"{field.bytes_max:,} bytes"
    return f"{field.low:,.15g} to {field.high:,.15g}"


def entity_fields() -> str:
    """The fields that can name an entity."""
    return ", ".join(map(code, events.ENTITY_FIELDS)) + "\n"


def dead_letter_codes() -> str:
    """Every code of a dead letter."""
    return table(("code", "meaning"), ((code(c), m) for c, m in dead_letters.MEANING.items()))


def repair_codes() -> str:
    """Every code of a repaired field."""
    return table(("code", "meaning"), ((code(c), m) for c, m in repairs.MEANING.items()))


# -- metrics, errors, commands ----------------------------------------------------------------------


def metrics() -> str:
    """Every metric: a section each."""
    parts: list[str] = []
    for metric in METRICS:
        labels = ", ".join(map(code, metric.labels)) or "none"
        parts += [
            f"## `{metric.name}`\n",
            f"{sentence(metric.meaning)}\n",
            f":Type: {metric.kind}",
            f":Unit: {metric.unit}",
            f":Labels: {labels}",
            f":What to do: {sentence(metric.action)}",
            "",
        ]
    return "\n".join(parts)


def exit_codes() -> str:
    """Every exit code, and whether a restart may help."""
    rows = (
        (
            str(exit_code),
            meaning,
            "no" if exit_code in NON_RESTARTABLE else "perhaps" if exit_code else "",
        )
        for exit_code, meaning in EXIT_CODES.items()
    )
    return table(("code", "meaning", "does a restart help?"), rows)


def errors() -> str:
    """Every error that ends a command: its exit code, its meaning, its remedy."""
    parts: list[str] = []
    known = [
        one
        for _, one in inspect.getmembers(stream.errors, inspect.isclass)
        if issubclass(one, stream.errors.EddyError) and one.__module__ == stream.errors.__name__
    ]
    for one in sorted(known, key=lambda each: (each.exit_code, each.__name__)):
        meaning = (inspect.getdoc(one) or "").split("\n\n")[0]
        parts += [
            f"## `{one.__name__}`\n",
            f"{sentence(meaning)}\n",
            f":Exit code: {one.exit_code}",
            f":What to do: {sentence(one.remedy)}",
            "",
        ]
    return "\n".join(parts)


def commands() -> str:
    """Every command of `eddy`, with its arguments and options."""
    root = typer.main.get_command(app)
    return "\n".join(_commands(root, "eddy"))


def _commands(command: Any, name: str) -> Iterator[str]:
    if isinstance(command, typer.core.TyperGroup):
        for one in command.commands.values():
            yield from _commands(one, f"{name} {one.name}")
        return
    context = typer.Context(command, info_name=name)
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    records = [one.get_help_record(context) for one in shown if one.name != "help"]
    arguments = [
        one.metavar or one.name.upper()
        for one in shown
        if isinstance(one, typer.core.TyperArgument)
    ]
    about, *examples = re.split(r"\n*\s*Example: ", inspect.cleandoc(command.help or ""))
    yield f"## `{name}`\n"
    yield f"```text\n{' '.join([name, *arguments])} [OPTIONS]\n```\n"
    about, _, for_example = about.rpartition("\n\n") if about.endswith(":") else (about, "", "")
    yield f"{about}\n"
    for label, text in records:
        plain = re.sub(r"^([^-].*?) <.*", r"\1", label)
        yield f"`{plain}`\n: {_option(text)}\n"
    yield f"{for_example}\n"
    yield from (f"```bash\n{' '.join(one.split())}\n```\n" for one in examples)


def _option(text: str) -> str:
    """What an option does, with its default and its limits as code."""
    about, _, facts = " ".join(text.split()).partition(" [")
    about = sentence(about or "The configuration, in TOML")
    return f"{about} `{facts.rstrip(']')}`" if facts else about


# -- tables of a run --------------------------------------------------------------------------------


def tables() -> str:
    """Every table that a replay writes, by the columns that it has for a configuration in which a
    monitor, its entity and its feature have placeholders for names."""
    feature = FeatureSpec(name="FEATURE", kind="count", half_life="1h")
    monitor = MonitorSpec(name="MONITOR", entity="ENTITY", inputs=["NAME"], features=[feature])
    config = Config(
        inputs={"NAME": InputSpec(topic="topic")},
        monitors=[monitor],
        assess=AssessSpec(subject="SUBJECT"),
    )
    schemas = {
        "scores": (score_columns(config), "Every event but labels, with its scores."),
        "alerts": (ALERT_COLUMNS, "Every alert."),
        "incidents": (INCIDENT_COLUMNS, "Every incident."),
        "labels": (LABEL_COLUMNS, "With `--labels`: the final label of each event."),
        "frauds": (fraud_columns(config), "With `--labels`: every event labelled as fraud."),
        "features": (feature_columns(config), "With `--features`: every event's features."),
    }
    parts: list[str] = []
    for name, (schema, about) in schemas.items():
        rows = ((code(one.name), _arrow(one), _meaning_of(one)) for one in schema)
        parts += [f"## `{name}`\n", f"{about}\n", table(("column", "type", "meaning"), rows)]
    return "\n".join(parts)


def _arrow(field: pa.Field) -> str:
    return str(field.type).split("<", 1)[0] + ("" if not field.nullable else ", may be null")


def _meaning_of(field: pa.Field) -> str:
    return str((field.metadata or {}).get(b"meaning", b""), "utf-8")


GENERATED: Final[dict[str, Callable[[], str]]] = {
    one.__name__: one
    for one in (
        *(configuration, features, detectors, stages, event_fields, entity_fields),
        *(dead_letter_codes, repair_codes, exit_codes, metrics, errors, commands, tables),
    )
}
"""Every part by the name under which a page asks for it."""
