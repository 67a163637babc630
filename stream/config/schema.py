"""The JSON Schema of a configuration, for editors and for the reference of the documentation.

Types, bounds and defaults come from the declarations, descriptions from the texts under their keys.
"""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from textwrap import dedent
from typing import Any, Final

import msgspec
from msgspec import inspect as mi

from stream.config.declarations import Config

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Final = r"\$\{\w+"
"""A text with `${NAME}` gets its value from the environment and cannot be checked before."""


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file, with a description of every key."""
    _, tables = msgspec.json.schema_components((Config,), ref_template="#/$defs/{name}")
    for cls in declared_tables():
        table = tables[cls.__name__]
        table["description"] = _one_line(cls.__doc__ or "")
        for key, text in key_descriptions(cls).items():
            table["properties"][key]["description"] = text
    root = tables.pop(Config.__name__)
    schema = {"$schema": DIALECT, "title": "Eddy configuration", **root, "$defs": tables}
    return {key: _with_portable_patterns(value) for key, value in schema.items()}


def declared_tables() -> list[type]:
    """Every Struct that a configuration may hold, `Config` first."""
    types: dict[type, None] = {}
    waiting = [mi.type_info(Config)]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, mi.StructType):
            if kind.cls in types:
                continue
            types[kind.cls] = None
            waiting += [field.type for field in kind.fields]
        waiting += _inner_types(kind)
    return list(types)


@cache
def key_descriptions(cls: type) -> dict[str, str]:
    """Key → description, from the text under each field of a Struct and of its bases."""
    descriptions: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            [body] = ast.parse(dedent(inspect.getsource(base))).body
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(description))),
                    ):
                        descriptions[name] = _one_line(description)
    return descriptions


def _inner_types(kind: mi.Type) -> Iterator[mi.Type]:
    match kind:
        case mi.Metadata():
            yield kind.type
        case mi.UnionType():
            yield from kind.types
        case mi.ListType():
            yield kind.item_type
        case mi.DictType():
            yield kind.value_type


def _one_line(text: str) -> str:
    """The first paragraph of a text, in one line."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def _with_portable_patterns(value: Any) -> Any:
    r"""The schema with patterns that every validator reads (`$` for Python's `\Z`), and that allow
    a value from the environment."""
    if isinstance(value, dict):
        return {
            key: rf"{inner.replace(chr(92) + 'Z', '$')}|{REFERENCE}"
            if key == "pattern" and isinstance(inner, str)
            else _with_portable_patterns(inner)
            for key, inner in value.items()
        }
    return [_with_portable_patterns(inner) for inner in value] if isinstance(value, list) else value
