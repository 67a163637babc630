r"""JSON records that the fast decoder refuses, decoded value by value: a bad field takes no other
field of its record away.

Also reads what many encoders write although it is no JSON: NaN and Infinity (not finite, so absent),
raw control characters, bytes that are not UTF-8, and nginx's escapes of bytes such as \x22. A record
costs time linear in its size, and its result depends on that record alone.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from schemas.mapping import Path, ValueKind
from schemas.repairs import RepairCode, decode_text

LEAF: Final[dict[ValueKind, Any]] = {
    "text": str | int | None,
    "choice": str | int | bool | None,
    "number": float | str | None,
}
"""The type that a value at a path is decoded to."""

RecordRepairs: TypeAlias = list[tuple[Path, RepairCode]]

_DECODE: Final = {kind: msgspec.json.Decoder(leaf).decode for kind, leaf in LEAF.items()}
_TOKEN: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)("?)|-?(?:NaN|Infinity)', re.DOTALL)
_ESCAPE: Final = re.compile(
    rb"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"
    rb'|x[0-9a-fA-F]{2}|["\\/bfnrt])?'
)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")


class ObjectLevel(NamedTuple):
    """The mapped keys of one object of a record. whole: its type for the fast decoder. raw: decodes
    it with every value as bytes. inside: attribute → what it holds: a path and its kind, or the
    next level."""

    whole: type[msgspec.Struct]
    raw: msgspec.json.Decoder[Any]
    inside: "dict[str, tuple[Path, ValueKind] | ObjectLevel]"


def decode(level: ObjectLevel, record: bytes) -> tuple[msgspec.Struct, RecordRepairs]:
    """A record's object, None where a value is not as it must be, and what was repaired.

    Raises msgspec.ValidationError where it is no object, msgspec.DecodeError where it is no JSON.
    """
    changed: set[bytes] = set()
    repairs: RecordRepairs = []
    try:
        return _object(level, record, changed, repairs), repairs
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        repairs.clear()
    return _object(level, _as_json(record, changed), changed, repairs), repairs


def _object(
    level: ObjectLevel, value: bytes, changed: set[bytes], repairs: RecordRepairs
) -> msgspec.Struct:
    found = level.raw.decode(value)
    read: dict[str, Any] = {}
    for attribute, inside in level.inside.items():
        raw = getattr(found, attribute)
        if raw is None:
            continue
        value = bytes(raw)
        if not isinstance(inside, ObjectLevel):
            read[attribute] = _leaf(value, *inside, changed, repairs)
        elif value != b"null":
            try:
                read[attribute] = _object(inside, value, changed, repairs)
            except msgspec.ValidationError:
                repairs += ((path, "wrong_type") for path in _paths(inside))
    return level.whole(**read)


def _leaf(
    value: bytes, path: Path, kind: ValueKind, changed: set[bytes], repairs: RecordRepairs
) -> Any:
    try:
        found = _DECODE[kind](value)
    except msgspec.ValidationError as error:
        if str(error).startswith("Integer value out of range"):
            return value.decode()  # more digits than an int may have are still a text
        out_of_range = str(error).startswith("Number out of range")
        repairs.append((path, "not_finite" if out_of_range else "wrong_type"))
        return None
    if value in changed:
        repairs.append((path, "not_utf8"))
    return found


def _paths(level: ObjectLevel) -> Iterator[Path]:
    for inside in level.inside.values():
        if isinstance(inside, ObjectLevel):
            yield from _paths(inside)
        else:
            yield inside[0]


def _as_json(record: bytes, changed: set[bytes]) -> bytes:
    """The record with its constants and strings made JSON. changed: gets the strings that were
    not."""

    def token(match: re.Match[bytes]) -> bytes:
        whole = match[0]
        if match[1] is None:
            return b"1e999"  # JSON, and a number that no kind of value takes
        if not match[2]:
            return whole  # it never ends
        string = b'"' + _string(match[1]) + b'"'
        if string != whole:
            changed.add(string)
        return string

    return _TOKEN.sub(token, record)


def _string(content: bytes) -> bytes:
    text = decode_text(_ESCAPE.sub(_escape, content))
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def _escape(match: re.Match[bytes]) -> bytes:
    """A JSON escape as it is, a lone surrogate as U+FFFD, a byte as the byte, else a backslash."""
    escape = match[1]
    if escape is None:
        return b"\\\\"
    if escape.startswith(b"x"):
        code = int(escape[1:], 16)
        return bytes([code]) if code >= 0x80 else b"\\u%04x" % code
    if len(escape) == 5 and 0xD800 <= int(escape[1:], 16) < 0xE000:
        return b"\\ufffd"
    return match[0]
