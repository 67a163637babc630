"""Builds typed declarations from a parsed TOML document and names every mistake, without showing
values that could be secrets. Independent of what the declarations mean.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

from msgspec import inspect as mi

from schemas.mapping import nearest_hint
from stream.location import hide_credentials

T = TypeVar("T")

SECRET_ROOTS: Final = ("kafka", "secret")
"""Tables and keys whose values no message shows."""
SHOWN_CHARACTERS_MAX: Final = 80
SHOWN_BITS_MAX: Final = 256
"""Larger integers are not printed: Python refuses to format more than 4,300 digits."""
SUBSTITUTED_CHARACTERS_MIN: Final = 3
"""Shorter values of the environment are not hidden: they occur in ordinary words."""
_REFERENCE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


NUMBER_MAX: Final = 1e15
INTEGER_MAX: Final = 10**15
"""Bounds of all numbers without narrower ones: within them, arithmetic on times, counts and sizes is
exact and does not overflow."""

_INVALID: Final = object()
"""Returned by `_build` for a value of the wrong type."""
PLACEHOLDER_TEXT: Final = "\0"
"""Placeholder for a missing text, number or choice, so that the rest can still be checked."""


class FromEnvironment(str):
    """A text that contains values of the environment. template: the text before substitution, which
    may be shown. values: value → its "${NAME}"."""

    __slots__ = ("template", "values")
    template: str
    values: dict[str, str]


def key_path(where: str, key: str) -> str:
    """The path of a key in the table at path `where`."""
    return f"{where}.{key}" if where else key


def substitute_environment(
    value: Any, environment: dict[str, str], problems: list[str], where: str = ""
) -> Any:
    """Replace every "${NAME}" and "${NAME:-default}" in the texts of a value.

    A name that is not set and has no default is a problem.
    """
    if isinstance(value, dict):
        return {
            k: substitute_environment(v, environment, problems, key_path(where, k))
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [
            substitute_environment(v, environment, problems, f"{where}[{i}]")
            for i, v in enumerate(value)
        ]
    if not isinstance(value, str) or not _REFERENCE.search(value):
        return value
    problems += (
        f"{where}: ${{{name}}} is not set in the environment"
        for name, default in _REFERENCE.findall(value)
        if name not in environment and not default
    )
    filled = FromEnvironment(_REFERENCE.sub(lambda m: environment.get(m[1], m[2] or ""), value))
    filled.template = value
    filled.values = {
        environment[name]: f"${{{name}}}"
        for name, _ in _REFERENCE.findall(value)
        if name in environment
    }
    return filled


def plain_texts(value: Any) -> Any:
    """The value with plain `str` only, since msgspec's encoder refuses subclasses."""
    if isinstance(value, dict):
        return {key: plain_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_texts(inner) for inner in value]
    return str.__str__(value) if isinstance(value, FromEnvironment) else value


def hide_environment_values(problems: list[str], filled: Any) -> list[str]:
    """The problems with every value of the environment replaced by its "${NAME}", except values that
    the document also contains in clear.
    """
    replaced: dict[str, str] = {}
    clear: set[str] = set()
    for text in _all_texts(filled):
        if isinstance(text, FromEnvironment):
            replaced |= {**text.values, str.__str__(text): text.template}
        else:
            clear.add(text)
    values = [
        value
        for value in replaced
        if len(value) >= SUBSTITUTED_CHARACTERS_MIN and value not in clear
    ]
    if not values:
        return problems
    longest_first = sorted(values, key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")
    shown: list[str] = []
    for line in problems:
        where, colon, text = line.partition(": ")
        shown.append(where + colon + pattern.sub(lambda match: replaced[match[0]], text))
    return shown


def _all_texts(value: Any) -> Iterator[str]:
    """All keys and texts of a document."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _all_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_texts(inner)
    elif isinstance(value, str):
        yield value


def build(cls: type[T], document: dict[str, Any], problems: list[str]) -> T:
    """Build the Struct `cls` from a document and add a problem for every invalid value.

    An invalid value is replaced by its key's default, else by an empty value of its type or
    `PLACEHOLDER_TEXT`. The result therefore only serves for checking consistency; without problems,
    msgspec converts the document.
    """
    return cast("T", _build(mi.type_info(cls), document, problems, ""))


def _build(kind: mi.Type, value: Any, problems: list[str], where: str) -> Any:
    kind, description = _without_metadata(kind)
    if isinstance(kind, mi.UnionType):
        kind, described = _without_metadata(_matching_member(kind, value))
        description = description or described
    if isinstance(kind, mi.StructType) and isinstance(value, dict):
        return _build_struct(kind, value, problems, where)
    if isinstance(kind, mi.UnionType) and isinstance(value, dict):
        where, value = _tag_position(kind, value, where)
    if not _is_valid(kind, value):
        expected = _describe_expected(kind, description)
        problems.append(f"{where}: got {_displayed(value, where)}; expected {expected}")
        return _INVALID
    if isinstance(kind, mi.DictType):
        return _build_dict(kind, value, problems, where)
    if isinstance(kind, mi.ListType):
        item_type = kind.item_type
        built = (_build(item_type, v, problems, f"{where}[{i}]") for i, v in enumerate(value))
        return [_placeholder(item_type) if item is _INVALID else item for item in built]
    return value


def _build_struct(
    kind: mi.StructType, value: dict[str, Any], problems: list[str], where: str
) -> Any:
    fields = {field.encode_name: field for field in kind.fields}
    built: dict[str, Any] = {}
    for key, item in value.items():
        if key in fields:
            built[fields[key].name] = _build(fields[key].type, item, problems, key_path(where, key))
        elif key != kind.tag_field:
            missing = (name for name in fields if name not in value)
            problems.append(
                f"{key_path(where, key)}: unknown key{_displayed_number(item)}{nearest_hint(key, missing)}"
            )
    for field in kind.fields:
        if field.required and field.name not in built:
            expected = _describe_expected(*_without_metadata(field.type))
            problems.append(f"{key_path(where, field.encode_name)}: missing; expected {expected}")
    valid = {name: item for name, item in built.items() if item is not _INVALID}
    placeholders = {
        f.name: _placeholder(f.type) for f in kind.fields if f.required and f.name not in valid
    }
    return kind.cls(**valid, **placeholders)


def _build_dict(kind: mi.DictType, value: dict[str, Any], problems: list[str], where: str) -> Any:
    for key in value:
        key_type, description = _without_metadata(kind.key_type)
        if not _is_valid(key_type, key):
            expected = _describe_expected(key_type, description)
            problems.append(f"{key_path(where, key)}: invalid name; expected {expected}")
    built = {k: _build(kind.value_type, v, problems, key_path(where, k)) for k, v in value.items()}
    return {k: _placeholder(kind.value_type) if v is _INVALID else v for k, v in built.items()}


def _placeholder(kind: mi.Type) -> Any:
    """A value of a type, as a placeholder."""
    kind, _ = _without_metadata(kind)
    match kind:
        case mi.UnionType():
            return _placeholder(kind.types[0])
        case mi.StructType():
            return kind.cls(**{f.name: _placeholder(f.type) for f in kind.fields if f.required})
        case mi.ListType():
            return []
        case mi.DictType():
            return {}
        case _:
            return PLACEHOLDER_TEXT


def _without_metadata(kind: mi.Type) -> tuple[mi.Type, str]:
    """A type without its metadata, and its description."""
    if not isinstance(kind, mi.Metadata):
        return kind, ""
    return kind.type, str((kind.extra_json_schema or {}).get("description", ""))


def _matching_member(kind: mi.UnionType, value: Any) -> mi.Type:
    """The member of a union that fits the value; the union itself if none does."""
    members = [member for member in kind.types if not isinstance(member, mi.NoneType)]
    if len(members) == 1:
        return members[0]
    for member in members:
        bare, _ = _without_metadata(member)
        if isinstance(bare, mi.StructType) and isinstance(value, dict):
            if bare.tag_field is None or value.get(bare.tag_field) == bare.tag:
                return member
        elif _is_valid(bare, value) or (isinstance(bare, mi.ListType) and isinstance(value, list)):
            return member
    return kind


def _tag_position(kind: mi.UnionType, value: dict[str, Any], where: str) -> tuple[str, Any]:
    """Path and value of the key that selects one of several tables."""
    key = next((m.tag_field for m in kind.types if isinstance(m, mi.StructType)), None)
    return (key_path(where, key), value[key]) if key in value else (where, value)


def _is_valid(kind: mi.Type, value: Any) -> bool:
    """Whether a value is valid for a type, without checking its items."""
    match kind:
        case mi.StrType():
            return isinstance(value, str) and (
                _in_range(len(value), ge=kind.min_length, le=kind.max_length)
                and (kind.pattern is None or re.search(kind.pattern, value) is not None)
            )
        case mi.BoolType():
            return isinstance(value, bool)
        case mi.IntType():
            valid = isinstance(value, int) and not isinstance(value, bool)
            return (
                valid
                and -INTEGER_MAX <= value <= INTEGER_MAX
                and _in_range(value, kind.ge, kind.le, kind.gt, kind.lt)
            )
        case mi.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return (
                number
                and -NUMBER_MAX <= value <= NUMBER_MAX  # false of NaN, too
                and _in_range(value, kind.ge, kind.le, kind.gt, kind.lt)
            )
        case mi.LiteralType():
            return isinstance(value, str) and value in kind.values
        case mi.AnyType():
            return _numbers_in_range(value)
        case mi.DictType():
            return isinstance(value, dict) and _in_range(
                len(value), kind.min_length, kind.max_length
            )
        case mi.ListType():
            return isinstance(value, list) and _in_range(
                len(value), kind.min_length, kind.max_length
            )
        case _:
            return False


def _numbers_in_range(value: Any) -> bool:
    """Whether all numbers in a nested value are within the general bounds."""
    if isinstance(value, dict):
        return all(map(_numbers_in_range, value.values()))
    if isinstance(value, list):
        return all(map(_numbers_in_range, value))
    return not isinstance(value, int | float) or -NUMBER_MAX <= value <= NUMBER_MAX


def _in_range(
    value: float,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
) -> bool:
    return (
        (ge is None or value >= ge)
        and (le is None or value <= le)
        and (gt is None or value > gt)
        and (lt is None or value < lt)
    )


def _describe_expected(kind: mi.Type, description: str = "") -> str:
    """A description of the values of a type, for errors."""
    match kind:
        case mi.StrType():
            if kind.min_length is not None:
                return f"a text of {kind.min_length} to {kind.max_length} characters"
            return f"a text, {description}" if description else "a text"
        case mi.BoolType():
            return "true or false"
        case mi.IntType():
            return "an integer" + _bounds(kind)
        case mi.FloatType():
            return "a number" + _bounds(kind)
        case mi.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case mi.ListType():
            return "a list" + _lengths(kind, "item")
        case mi.DictType():
            return "a table" + _lengths(kind, "key")
        case mi.AnyType():
            return f"numbers from -{NUMBER_MAX:g} to {NUMBER_MAX:g}"
        case mi.StructType(tag=str() as tag):
            return f'{kind.tag_field} = "{tag}"'
        case mi.UnionType():
            members = (m for m in kind.types if not isinstance(m, mi.NoneType))
            return ", or ".join(
                dict.fromkeys(_describe_expected(*_without_metadata(m)) for m in members)
            )
        case _:
            return "a table"


def _bounds(kind: mi.IntType | mi.FloatType) -> str:
    limits = [(">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le)]
    if kind.gt is None and kind.ge is None:
        limits[1] = ("≥", -INTEGER_MAX)
    if kind.lt is None and kind.le is None:
        limits[3] = ("≤", INTEGER_MAX)
    return "".join(
        f"{' and' if i else ''} {sign} {limit:,}".replace(",", "_")
        for i, (sign, limit) in enumerate(pair for pair in limits if pair[1] is not None)
    )


def _lengths(kind: mi.ListType | mi.DictType, noun: str) -> str:
    low, high = kind.min_length, kind.max_length
    if low is None and high is None:
        return ""
    return f" of {low or 0} to {high} {noun}s" if high else f" with at least {low} {noun}"


def _displayed(value: Any, where: str) -> str:
    """A value as shown in messages: no secrets, shortened."""
    if where.split(".", 1)[0] in SECRET_ROOTS:
        return "a value that is not shown here"
    if isinstance(value, FromEnvironment):
        value = value.template
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > SHOWN_BITS_MAX:
        return f"an integer of {value.bit_length()} bits"
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = hide_credentials(text)  # before shortening, which could remove the "@"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def _displayed_number(value: Any) -> str:
    """The value of an unknown key, if it is a number: a text could be a misplaced secret."""
    return f" (value {_displayed(value, '')})" if isinstance(value, int | float) else ""
