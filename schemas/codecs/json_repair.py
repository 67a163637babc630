r"""JSON records that the fast decoder rejects, decoded value by value: one bad field does not lose
the others.

Also accepts what many encoders write although it is not JSON: NaN and Infinity (absent, since they
are not finite), raw control characters, bytes that are not UTF-8, and nginx's escapes of bytes such
as \x22. Decoding takes time linear in a record's size, and depends on that record alone.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from schemas.mapping import Path, ValueKind
from schemas.repairs import RepairCode, decode_text

VALUE_TYPE: Final[dict[ValueKind, Any]] = {
    "text": str | int | None,
    "choice": str | int | bool | None,
    "number": float | str | None,
}
"""The type to which a value at a path is decoded."""

RecordRepairs: TypeAlias = list[tuple[Path, RepairCode]]

_DECODE: Final = {kind: msgspec.json.Decoder(type_).decode for kind, type_ in VALUE_TYPE.items()}
_TOKEN: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)("?)|-?(?:NaN|Infinity)', re.DOTALL)
_ESCAPE: Final = re.compile(
    rb"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"
    rb'|x[0-9a-fA-F]{2}|["\\/bfnrt])?'
)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")


class ObjectLevel(NamedTuple):
    """The mapped keys of one object in a record. struct_type: its type for the fast decoder. raw_decoder:
    decodes it with every value as bytes. children: attribute → its path and kind, or the level below it."""

    struct_type: type[msgspec.Struct]
    raw_decoder: msgspec.json.Decoder[Any]
    children: "dict[str, tuple[Path, ValueKind] | ObjectLevel]"


def decode(level: ObjectLevel, record: bytes) -> tuple[msgspec.Struct, RecordRepairs]:
    """A record's object, with None for each value of a wrong type, and the repairs.

    Raises msgspec.ValidationError for JSON that is no object, msgspec.DecodeError for no JSON.
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
    raw_object = level.raw_decoder.decode(value)
    values: dict[str, Any] = {}
    for attribute, child in level.children.items():
        raw = getattr(raw_object, attribute)
        if raw is None:
            continue
        value = bytes(raw)
        if not isinstance(child, ObjectLevel):
            values[attribute] = _value(value, *child, changed, repairs)
        elif value != b"null":
            try:
                values[attribute] = _object(child, value, changed, repairs)
            except msgspec.ValidationError:
                repairs += ((path, "wrong_type") for path in _paths(child))
    return level.struct_type(**values)


def _value(
    value: bytes, path: Path, kind: ValueKind, changed: set[bytes], repairs: RecordRepairs
) -> Any:
    try:
        decoded = _DECODE[kind](value)
    except msgspec.ValidationError as error:
        if str(error).startswith("Integer value out of range"):
            return value.decode()  # too many digits for an int are still a text
        out_of_range = str(error).startswith("Number out of range")
        repairs.append((path, "not_finite" if out_of_range else "wrong_type"))
        return None
    if value in changed:
        repairs.append((path, "not_utf8"))
    return decoded


def _paths(level: ObjectLevel) -> Iterator[Path]:
    for child in level.children.values():
        if isinstance(child, ObjectLevel):
            yield from _paths(child)
        else:
            yield child[0]


def _as_json(record: bytes, changed: set[bytes]) -> bytes:
    """The record with its constants and strings turned into JSON. changed: gets every string that
    was not JSON."""

    def token(match: re.Match[bytes]) -> bytes:
        text = match[0]
        if match[1] is None:
            return b"1e999"  # JSON, and out of range for every type
        if not match[2]:
            return text  # an unterminated string
        string = b'"' + _string(match[1]) + b'"'
        if string != text:
            changed.add(string)
        return string

    return _TOKEN.sub(token, record)


def _string(content: bytes) -> bytes:
    text = decode_text(_ESCAPE.sub(_escape, content))
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def _escape(match: re.Match[bytes]) -> bytes:
    """A JSON escape unchanged, a lone surrogate as U+FFFD, an escaped byte as the byte, any other
    backslash as an escaped backslash."""
    escape = match[1]
    if escape is None:
        return b"\\\\"
    if escape.startswith(b"x"):
        code = int(escape[1:], 16)
        return bytes([code]) if code >= 0x80 else b"\\u%04x" % code
    if len(escape) == 5 and 0xD800 <= int(escape[1:], 16) < 0xE000:
        return b"\\ufffd"
    return match[0]
