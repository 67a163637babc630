"""The generated parts of the reference: Markdown made from the declarations in the code.

Each function returns the Markdown of one part. Nothing is written to disk: `conf.py` inserts the
text into the page that asks for it. What is said here about a key, a metric, an error or a command
stands in the code beside its declaration; a mistake in the text is corrected there.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa
import typer
import typer.core
import typer.main

import stream.errors
from detectors.features import KINDS
from detectors.models import DETECTORS
from detectors.monitor import MonitorSpec
from detectors.spec import DURATION, FeatureSpec
from schemas import dead_letters, events, repairs
from stream.cli import app
from stream.config import AssessSpec, Config, InputSpec
from stream.config.schema import json_schema
from stream.config.stages import declared_stages
from stream.replay.final_labels import SCHEMA as LABEL_COLUMNS
from stream.replay.tables import (
    ALERT_COLUMNS,
    INCIDENT_COLUMNS,
    feature_columns,
    fraud_columns,
    score_columns,
)
from stream.telemetry.metrics import METRICS

Schema = dict[str, Any]
ROOT: Final = ""
"""The name of a configuration's outermost table."""
DURATION_PATTERN: Final = DURATION.pattern.replace(r"\Z", "$")
"""As the JSON Schema of a configuration has it, before what it allows besides."""


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(names)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """The text as inline code; nothing where it is empty."""
    return f"`{text}`" if text else ""


def _sentence(text: str) -> str:
    """The text with a capital at its start and a full stop at its end."""
    text = " ".join(text.split())
    first = text[:1] if text.startswith("eddy ") else text[:1].upper()
    return first + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


# -- configuration ----------------------------------------------------------------------------------


def configuration() -> str:
    """Every key of a configuration: a section for each table, an entry for each key."""
    schema = json_schema()
    return "\n".join(_Keys({ROOT: schema, **schema["$defs"]}).sections())


class _Keys:
    """Walks the JSON Schema of a configuration from its root. definitions: its tables by name."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._sections: dict[str, str] = {}
        """By table: where its first section stands."""

    def sections(self) -> Iterator[str]:
        """The Markdown of every table, each before the tables within it."""
        yield from self._section(ROOT, "")

    def _section(self, name: str, where: str) -> Iterator[str]:
        definition = self._definitions[name]
        kind = _tag(definition)
        title = f"`{_toml(where)}`" if where else "Top level"
        title += f' with `kind = "{kind}"`' if kind else ""
        self._sections[name] = where
        yield f"## {title}\n"
        summary = str(definition.get("description", "")).split("\n\n")[0]
        yield f"{_sentence(summary)}\n"
        inner: list[tuple[str, str]] = []
        required = definition.get("required", ())
        for key, of in definition["properties"].items():
            if key == "kind" and kind:
                continue
            yield self._entry(where, kind, key, of, required=key in required)
            inner += ((one, f"{path}") for one, path in _tables_in(of, _at(where, key)))
        for one, path in inner:
            if one not in self._sections:
                yield from self._section(one, path)

    def _entry(self, where: str, kind: str, key: str, of: Schema, *, required: bool) -> str:
        inside = f"{where}({kind})" if kind else where
        lines = [
            f"```{{confval}} {_at(inside, key)}",
            f":type: {self._type(of)}",
            f":default: {'required' if required else _default(of)}",
            "",
            _sentence(_meaning(of)),
            "```",
            "",
        ]
        return "\n".join(lines)

    def _type(self, of: Schema, *, plural: bool = False) -> str:
        """A value's type in words."""
        s = "s" if plural else ""
        if "$ref" in of:
            kind = _tag(self._definitions[of["$ref"].rsplit("/", 1)[1]])
            return f'table{s} with `kind = "{kind}"`' if kind else f"table{s}"
        if "discriminator" in of:
            return f"table{s}, each of a `kind`"
        if "anyOf" in of:
            members = [one for one in of["anyOf"] if one.get("type") != "null"]
            words = list(dict.fromkeys(self._type(one, plural=plural) for one in members))
            return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
        if "enum" in of:
            return (
                ("texts, each " if plural else "")
                + "one of "
                + ", ".join(_code(f'"{one}"') for one in of["enum"])
            )
        match of.get("type"):
            case "string":
                is_duration = of.get("pattern", "").startswith(DURATION_PATTERN)
                return f"duration{s}" if is_duration else f"text{s}"
            case "integer" | "number" as number:
                return f"{number}{s}{_bounds(of)}"
            case "boolean":
                return "booleans" if plural else "`true` or `false`"
            case "array":
                return f"list{s} of {self._type(of['items'], plural=True)}"
            case "object" if of.get("additionalProperties"):
                return f"table{s} of {self._type(of['additionalProperties'], plural=True)}"
            case "object":
                return f"table{s}"
            case _:
                return "any value"


def _tag(definition: Schema) -> str:
    """The `kind` that chooses this table among several; "" where nothing does."""
    return str(definition["properties"].get("kind", {}).get("enum", [""])[0])


def _tables_in(of: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Every table that a value may hold: its name, and the path at which it stands."""
    if "$ref" in of:
        yield of["$ref"].rsplit("/", 1)[1], path
    for member in of.get("anyOf", ()):
        yield from _tables_in(member, path)
    if of.get("type") == "array":
        yield from _tables_in(of["items"], f"{path}[]")
    if of.get("type") == "object" and isinstance(of.get("additionalProperties"), dict):
        name = {"inputs": "NAME", "fields": "FIELD"}.get(path.rsplit(".", 1)[-1], "KEY")
        yield from _tables_in(of["additionalProperties"], f"{path}.{name}")


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _toml(where: str) -> str:
    """The header of a table as TOML writes it."""
    plain = where.replace("[]", "")
    return f"[[{plain}]]" if where.endswith("[]") else f"[{plain}]"


def _meaning(of: Schema) -> str:
    """What a key means; a key that may be absent has its description with its type."""
    described = (one.get("description", "") for one in (of, *of.get("anyOf", ())))
    return next(filter(None, described), "")


def _default(of: Schema) -> str:
    default = of.get("default")
    if default is None:
        return "none"
    if default in ([], {}):
        return "empty"
    if isinstance(default, dict):
        return "the defaults of its keys"
    if isinstance(default, list):
        return " and ".join(f'`{{ kind = "{one["kind"]}" }}`' for one in default)
    return f"`{msgspec.json.encode(default).decode()}`"


def _bounds(of: Schema) -> str:
    low, high = of.get("minimum"), of.get("maximum")
    if "exclusiveMinimum" in of:
        low_text = f"above {of['exclusiveMinimum']:g}"
        return f", {low_text}" + (f", at most {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return f", {low:,} to {high:,}"
    return f", at least {low:,}" if low is not None else f", at most {high:,}" if high else ""


# -- features and detectors -------------------------------------------------------------------------


def features() -> str:
    """Every feature kind that a configuration may name."""
    rows = (
        (
            _code(kind.name),
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
        parts += [f"## `{name}`\n", _sentence((inspect.getdoc(spec) or "").split("\n\n")[0]), ""]
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
            _code(one.name),
            ", ".join(one.reads),
            ", ".join(one.writes) or "its own topics",
            ", ".join(_code(name) for name in dict.fromkeys(c.metric.name for c in one.counters)),
        )
        for one in declared_stages().values()
    )
    return table(("stage", "reads", "writes", "metrics"), rows)


# -- events, dead letters ---------------------------------------------------------------------------


def event_fields() -> str:
    """Every field of an event, with its limits and the event types that have it by default."""
    rows = (
        (
            _code(name),
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
    return ", ".join(map(_code, events.ENTITY_FIELDS)) + "\n"


def dead_letter_codes() -> str:
    """Every code of a dead letter."""
    return table(("code", "meaning"), ((_code(c), m) for c, m in dead_letters.MEANING.items()))


def repair_codes() -> str:
    """Every code of a repaired field."""
    return table(("code", "meaning"), ((_code(c), m) for c, m in repairs.MEANING.items()))


# -- metrics, errors, commands ----------------------------------------------------------------------


def metrics() -> str:
    """Every metric: a section each."""
    parts: list[str] = []
    for metric in METRICS:
        labels = ", ".join(map(_code, metric.labels)) or "none"
        parts += [
            f"## `{metric.name}`\n",
            f"{_sentence(metric.meaning)}\n",
            f":Type: {metric.kind}",
            f":Unit: {metric.unit}",
            f":Labels: {labels}",
            f":What to do: {_sentence(metric.action)}",
            "",
        ]
    return "\n".join(parts)


def errors() -> str:
    """Every error that ends a command: its exit code, its meaning, its remedy."""
    parts: list[str] = []
    known = [
        one
        for _, one in inspect.getmembers(stream.errors, inspect.isclass)
        if issubclass(one, stream.errors.EddyError) and one.__module__ == stream.errors.__name__
    ]
    for one in sorted(known, key=lambda each: (each.exit_code, each.__name__)):
        meaning = " ".join((inspect.getdoc(one) or "").split())
        parts += [
            f"## `{one.__name__}`\n",
            f"{_sentence(re.sub(r' [a-z_]+: .*', '', meaning))}\n",
            f":Exit code: {one.exit_code}",
            f":What to do: {_sentence(one.remedy)}",
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
    about = _sentence(about or "The configuration, in TOML")
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
        rows = ((_code(one.name), _arrow(one), _meaning_of(one)) for one in schema)
        parts += [f"## `{name}`\n", f"{about}\n", table(("column", "type", "meaning"), rows)]
    return "\n".join(parts)


def _arrow(field: pa.Field) -> str:
    return str(field.type).split("<", 1)[0] + ("" if not field.nullable else ", may be null")


def _meaning_of(field: pa.Field) -> str:
    return (field.metadata or {}).get(b"meaning", b"").decode()


GENERATED: Final[dict[str, Callable[[], str]]] = {
    one.__name__: one
    for one in (
        *(configuration, features, detectors, stages, event_fields, entity_fields),
        *(dead_letter_codes, repair_codes, metrics, errors, commands, tables),
    )
}
"""Every part by the name under which a page asks for it."""
