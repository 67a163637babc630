"""The reference of the configuration, from its JSON Schema: every table, every key."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from markup import code, sentence

from detectors.spec import DURATION
from stream.config.schema import json_schema

Schema = dict[str, Any]
ROOT: Final = ""
"""The name of a configuration's outermost table."""
DURATION_PATTERN: Final = DURATION.pattern.replace(r"\Z", "$")
"""As the JSON Schema of a configuration has it, before what it allows besides."""


def configuration() -> str:
    """Every key of a configuration: a section for each table, an entry for each key."""
    schema = json_schema()
    return "\n".join(_Keys({ROOT: schema, **schema["$defs"]}).sections())


class _Keys:
    """Walks the JSON Schema of a configuration from its root. definitions: its tables by name."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._paths: dict[str, str] = {}
        """Of each table so far: the path of its section."""

    def sections(self) -> Iterator[str]:
        """The Markdown of every table, each before the tables within it."""
        yield from self._section(ROOT, "")

    def _section(self, name: str, where: str) -> Iterator[str]:
        definition = self._definitions[name]
        tag, kind = _tag(definition)
        title = f"`{_toml(where)}`" if where else "Top level"
        title += f' with `{tag} = "{kind}"`' if kind else ""
        self._paths[name] = where
        yield f"## {title}\n"
        summary = str(definition.get("description", "")).split("\n\n")[0]
        yield f"{sentence(summary)}\n"
        inner: list[tuple[str, str]] = []
        required = definition.get("required", ())
        for key, of in definition["properties"].items():
            if key == tag:
                continue
            yield self._entry(where, kind, key, of, required=key in required)
            inner += _tables_in(of, _at(where, key))
        for one, path in inner:
            if one not in self._paths:
                yield from self._section(one, path)

    def _entry(self, where: str, kind: str, key: str, of: Schema, *, required: bool) -> str:
        inside = f"{where}({kind})" if kind else where
        lines = [
            f"```{{confval}} {_at(inside, key)}",
            f":type: {self._type(of)}",
            f":default: {'required' if required else _default(of)}",
            "",
            " ".join([sentence(_meaning(of)), *self._elsewhere(of)]),
            "```",
            "",
        ]
        return "\n".join(lines)

    def _elsewhere(self, of: Schema) -> Iterator[str]:
        """That the keys of a table are described at another path."""
        for name, _ in _tables_in(of, ""):
            if name in self._paths:
                yield f"Its keys are those of `{_toml(self._paths[name])}`."

    def _type(self, of: Schema, *, plural: bool = False) -> str:
        """A value's type in words."""
        s = "s" if plural else ""
        if "$ref" in of:
            tag, kind = _tag(self._definitions[of["$ref"].rsplit("/", 1)[1]])
            return f'table{s} with `{tag} = "{kind}"`' if kind else f"table{s}"
        if "discriminator" in of:
            return f"table{s} of a `{of['discriminator']['propertyName']}`"
        if "anyOf" in of:
            members = [one for one in of["anyOf"] if one.get("type") != "null"]
            words = list(dict.fromkeys(self._type(one, plural=plural) for one in members))
            return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
        if "enum" in of:
            return (
                ("texts, each " if plural else "")
                + "one of "
                + ", ".join(code(f'"{one}"') for one in of["enum"])
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


def _tag(definition: Schema) -> tuple[str, str]:
    """The key that chooses this table among several, and its value; empty where none does."""
    for key, of in definition["properties"].items():
        if len(of.get("enum", ())) == 1:
            return key, str(of["enum"][0])
    return "", ""


def _tables_in(of: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Every table that a value may hold: its name, and its path."""
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
