"""From a parsed TOML document to typed declarations, with every mistake named and none shown that
could be a secret. Knows the types it is handed and nothing of what they are for.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

from msgspec import inspect as mi

from schemas.mapping import nearest
from stream.place import without_credentials

T = TypeVar("T")

SECRET_ROOTS: Final = ("kafka", "secret")
"""Tables and keys whose values never stand in a message."""
SHOWN_CHARACTERS_MAX: Final = 80
SHOWN_BITS_MAX: Final = 256
"""Of an integer; Python refuses to write one of more than 4,300 digits in decimal."""
REPLACED_CHARACTERS_MIN: Final = 3
"""A shorter value from the environment is shown: as text it is part of ordinary words."""
_REFERENCE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


NUMBER_MAX: Final = 1e15
INTEGER_MAX: Final = 10**15
"""Bounds of every number, unless its type has closer ones: no value of a configuration comes near
them, and below them arithmetic on times, counts and sizes is exact and does not overflow."""

_BROKEN: Final = object()
"""What `_build` hands back for a value that is not of its type."""
NEUTRAL_TEXT: Final = "\0"
"""Stands where a text, a number or a choice is missing, so that the rest can still be checked."""


class FromEnvironment(str):
    """A text with values of the environment in it. template: the text before, which may be shown.
    values: the "${NAME}" of each value."""

    __slots__ = ("template", "values")
    template: str
    values: dict[str, str]


def at(where: str, key: str) -> str:
    """The path of a key in the table at `where`."""
    return f"{where}.{key}" if where else key


def fill(value: Any, environment: dict[str, str], problems: list[str], where: str = "") -> Any:
    """The value with every "${NAME}" in its texts replaced, or "${NAME:-default}".

    A name that is not set and has no default is a problem.
    """
    if isinstance(value, dict):
        return {k: fill(v, environment, problems, at(where, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, environment, problems, f"{where}[{i}]") for i, v in enumerate(value)]
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


def plain(value: Any) -> Any:
    """The filled value with ordinary texts only: an encoder refuses subclasses of `str`."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str.__str__(value) if isinstance(value, FromEnvironment) else value


def without_environment(problems: list[str], filled: Any) -> list[str]:
    """The problems with values of the environment written as the "${NAME}" that they come from.

    A word that the document itself holds in clear stays as it is.
    """
    replaced: dict[str, str] = {}
    clear: set[str] = set()
    for text in _texts(filled):
        if isinstance(text, FromEnvironment):
            replaced |= {**text.values, str.__str__(text): text.template}
        else:
            clear.add(text)
    values = [one for one in replaced if len(one) >= REPLACED_CHARACTERS_MIN and one not in clear]
    if not values:
        return problems
    longest_first = sorted(values, key=len, reverse=True)
    found = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")
    shown: list[str] = []
    for line in problems:
        where, colon, text = line.partition(": ")
        shown.append(where + colon + found.sub(lambda one: replaced[one[0]], text))
    return shown


def _texts(value: Any) -> Iterator[str]:
    """Every key and every text of a document."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def build(cls: type[T], document: dict[str, Any], problems: list[str]) -> T:
    """The document as the Struct `cls`; a problem is added for every value that is none.

    Such a value becomes its key's default, else something empty of its type or `NEUTRAL_TEXT`.
    So the result serves for checking relations only; conversion is msgspec's, once no problem is
    left.
    """
    return cast("T", _build(mi.type_info(cls), document, problems, ""))


def _build(kind: mi.Type, value: Any, problems: list[str], where: str) -> Any:
    kind, description = _bare(kind)
    if isinstance(kind, mi.UnionType):
        kind, described = _bare(_member(kind, value))
        description = description or described
    if isinstance(kind, mi.StructType) and isinstance(value, dict):
        return _build_struct(kind, value, problems, where)
    if isinstance(kind, mi.UnionType) and isinstance(value, dict):
        where, value = _tag_of(kind, value, where)
    if not _fits(kind, value):
        expected = _expected(kind, description)
        problems.append(f"{where}: got {_shown(value, where)}; expected {expected}")
        return _BROKEN
    if isinstance(kind, mi.DictType):
        return _build_dict(kind, value, problems, where)
    if isinstance(kind, mi.ListType):
        item_type = kind.item_type
        built = (_build(item_type, v, problems, f"{where}[{i}]") for i, v in enumerate(value))
        return [_neutral(item_type) if item is _BROKEN else item for item in built]
    return value


def _build_struct(
    kind: mi.StructType, value: dict[str, Any], problems: list[str], where: str
) -> Any:
    fields = {field.encode_name: field for field in kind.fields}
    built: dict[str, Any] = {}
    for key, item in value.items():
        if key in fields:
            built[fields[key].name] = _build(fields[key].type, item, problems, at(where, key))
        elif key != kind.tag_field:
            known = (name for name in fields if name not in value)
            problems.append(f"{at(where, key)}: unknown key{_number(item)}{nearest(key, known)}")
    for field in kind.fields:
        if field.required and field.name not in built:
            expected = _expected(*_bare(field.type))
            problems.append(f"{at(where, field.encode_name)}: missing; expected {expected}")
    whole = {name: item for name, item in built.items() if item is not _BROKEN}
    lacking = {f.name: _neutral(f.type) for f in kind.fields if f.required and f.name not in whole}
    return kind.cls(**whole, **lacking)


def _build_dict(kind: mi.DictType, value: dict[str, Any], problems: list[str], where: str) -> Any:
    for key in value:
        key_type, description = _bare(kind.key_type)
        if not _fits(key_type, key):
            expected = _expected(key_type, description)
            problems.append(f"{at(where, key)}: got this as a name; expected {expected}")
    built = {k: _build(kind.value_type, v, problems, at(where, k)) for k, v in value.items()}
    return {k: _neutral(kind.value_type) if v is _BROKEN else v for k, v in built.items()}


def _neutral(kind: mi.Type) -> Any:
    """Something of a type's shape."""
    kind, _ = _bare(kind)
    match kind:
        case mi.UnionType():
            return _neutral(kind.types[0])
        case mi.StructType():
            return kind.cls(**{f.name: _neutral(f.type) for f in kind.fields if f.required})
        case mi.ListType():
            return []
        case mi.DictType():
            return {}
        case _:
            return NEUTRAL_TEXT


def _bare(kind: mi.Type) -> tuple[mi.Type, str]:
    """The type without its description, and the description."""
    if not isinstance(kind, mi.Metadata):
        return kind, ""
    return kind.type, str((kind.extra_json_schema or {}).get("description", ""))


def _member(kind: mi.UnionType, value: Any) -> mi.Type:
    """The member of a union that the value is meant to be; the union itself where none is."""
    members = [member for member in kind.types if not isinstance(member, mi.NoneType)]
    if len(members) == 1:
        return members[0]
    for member in members:
        bare, _ = _bare(member)
        if isinstance(bare, mi.StructType) and isinstance(value, dict):
            if bare.tag_field is None or value.get(bare.tag_field) == bare.tag:
                return member
        elif _fits(bare, value) or (isinstance(bare, mi.ListType) and isinstance(value, list)):
            return member
    return kind


def _tag_of(kind: mi.UnionType, value: dict[str, Any], where: str) -> tuple[str, Any]:
    """Where the key stands that should have told which of several tables this is, and its value."""
    key = next((m.tag_field for m in kind.types if isinstance(m, mi.StructType)), None)
    return (at(where, key), value[key]) if key in value else (where, value)


def _fits(kind: mi.Type, value: Any) -> bool:
    """Whether a value is of the type, its parts not looked at."""
    match kind:
        case mi.StrType():
            return isinstance(value, str) and (
                _within(len(value), ge=kind.min_length, le=kind.max_length)
                and (kind.pattern is None or re.search(kind.pattern, value) is not None)
            )
        case mi.BoolType():
            return isinstance(value, bool)
        case mi.IntType():
            whole = isinstance(value, int) and not isinstance(value, bool)
            return (
                whole
                and -INTEGER_MAX <= value <= INTEGER_MAX
                and _within(value, kind.ge, kind.le, kind.gt, kind.lt)
            )
        case mi.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return (
                number
                and -NUMBER_MAX <= value <= NUMBER_MAX  # false of NaN, too
                and _within(value, kind.ge, kind.le, kind.gt, kind.lt)
            )
        case mi.LiteralType():
            return isinstance(value, str) and value in kind.values
        case mi.AnyType():
            return _numbers_fit(value)
        case mi.DictType():
            return isinstance(value, dict) and _within(len(value), kind.min_length, kind.max_length)
        case mi.ListType():
            return isinstance(value, list) and _within(len(value), kind.min_length, kind.max_length)
        case _:
            return False


def _numbers_fit(value: Any) -> bool:
    """Whether all numbers in a value of any shape are within the bounds of every number."""
    if isinstance(value, dict):
        return all(map(_numbers_fit, value.values()))
    if isinstance(value, list):
        return all(map(_numbers_fit, value))
    return not isinstance(value, int | float) or -NUMBER_MAX <= value <= NUMBER_MAX


def _within(
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


def _expected(kind: mi.Type, description: str = "") -> str:
    """What a value of the type looks like, in words."""
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
            return ", or ".join(dict.fromkeys(_expected(*_bare(m)) for m in members))
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


def _lengths(kind: mi.ListType | mi.DictType, what: str) -> str:
    low, high = kind.min_length, kind.max_length
    if low is None and high is None:
        return ""
    return f" of {low or 0} to {high} {what}s" if high else f" with at least {low} {what}"


def _shown(value: Any, where: str) -> str:
    """A value as a message may show it: nothing secret, nothing long."""
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
    text = without_credentials(text)  # before it is cut, which could take the "@" away
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def _number(value: Any) -> str:
    """Of an unknown key's value only a number is shown: a text could be a misplaced secret."""
    return f" (value {_shown(value, '')})" if isinstance(value, int | float) else ""
