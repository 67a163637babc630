"""JSON: one object a record. Only mapped paths are decoded, into a type made for the mapping."""

import json
from operator import attrgetter
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from schemas.codecs.decoded import Decoded, Leaves, assemble, numbers, texts
from schemas.dead_letters import DeadLetterCode, Fault
from schemas.mapping import Kind, Mapping, Path
from schemas.records import Records

DEPTH_MAX: Final = 200
"""Objects and arrays in one another. A limit of our own: the decoder's depends on how deep in
calls it runs, so the same record could pass in replay and fail live."""

TURN_RECORDS: Final = 1500
"""Records decoded before their values are read off: as many objects as the caches hold."""

_STEP: Final = np.zeros(256, np.int32)
_STEP[list(b"{[")] = 1
_STEP[list(b"}]")] = -1
_LEAF: Final[dict[Kind, Any]] = {
    "text": str | int | None,
    "choice": str | int | bool | None,
    "number": float | str | None,
}
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, ValueError)


class JsonCodec:
    """Decodes JSON objects. About 1.3 µs a record of ten mapped fields."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._leaves = mapping.leaves()
        self._attributes: dict[Path, tuple[str, ...]] = {}
        self._decode = msgspec.json.Decoder(self._struct(self._leaves, (), ())).decode

    def decode(self, records: Records) -> Decoded:
        """See `Codec`."""
        values = cast("list[bytes]", records.values)
        refused = _refused(values)
        if refused:
            values = [b"" if i in refused else value for i, value in enumerate(values)]
        faults: list[Fault] = []
        columns = _Columns(self._leaves, self.mapping.time.paths, self._attributes)
        for start in range(0, len(values), TURN_RECORDS):
            columns.add(self._objects(values, start, faults))
        faults = [Fault(i, code, refused.get(i, text)) for i, code, text in faults]
        rows = np.delete(np.arange(len(values)), [fault.row for fault in faults])
        return assemble(self.mapping, columns, records, rows, faults)

    def _objects(self, values: list[bytes], start: int, faults: list[Fault]) -> list[Any]:
        """The objects of one turn; a fault is added for each record that is none."""
        turn = values[start : start + TURN_RECORDS]
        objects: list[Any] = []
        waiting = iter(turn)
        failed = 0
        while True:
            # extend keeps what came before the record that raised, and `waiting` stands behind
            # it: good records pay nothing for bad ones
            try:
                objects.extend(map(self._decode, waiting))
                return objects
            except _UNREADABLE as error:
                at = len(objects) + failed
                faults.append(Fault(start + at, *_reason(turn[at], error)))
                failed += 1

    def _struct(
        self, leaves: dict[Path, Kind], above: Path, attributes: tuple[str, ...]
    ) -> type[msgspec.Struct]:
        """A type for the keys behind the path `above`; notes how each leaf is reached."""
        depth = len(above)
        inside = {path: kind for path, kind in leaves.items() if path[:depth] == above}
        keys = dict.fromkeys(path[depth] for path in inside)
        fields: list[tuple[str, Any, Any]] = []
        for i, key in enumerate(keys):
            path, attribute = (*above, key), f"f{i}"
            if path in leaves:
                self._attributes[path] = (*attributes, attribute)
                kind = _LEAF[leaves[path]]
            else:
                kind = self._struct(leaves, path, (*attributes, attribute)) | None
            fields.append((attribute, kind, msgspec.field(default=None, name=key)))
        # no cycles can arise, so the collector need not know these objects
        return msgspec.defstruct("_".join(("Record", *attributes)), fields, gc=False)


class _Columns(Leaves):
    """The values of decoded objects, read off by attribute, turn by turn."""

    def __init__(
        self,
        leaves: dict[Path, Kind],
        times: tuple[Path, ...],
        attributes: dict[Path, tuple[str, ...]],
    ) -> None:
        super().__init__(0, times)
        self._leaves = leaves
        self._attributes = attributes
        self._parts: dict[Path, list[pa.Array]] = {path: [] for path in leaves}

    def add(self, objects: list[Any]) -> None:
        """Take the next objects' values."""
        for path, kind in self._leaves.items():
            values = _values(objects, self._attributes[path])
            if kind != "number":
                self._parts[path].append(texts(values))
                continue
            column, wrong = numbers(values)
            self._parts[path].append(column)
            self.note_no_number(path, [self.size + i for i in wrong])
        self.size += len(objects)

    def text(self, path: Path) -> pa.StringArray:
        return pa.concat_arrays(self._parts[path] or [pa.array([], pa.string())])

    def number(self, path: Path) -> pa.DoubleArray:
        return pa.concat_arrays(self._parts[path] or [pa.array([], pa.float64())])


def _values(objects: list[Any], attributes: tuple[str, ...]) -> list[Any]:
    """What stands behind a chain of attributes, None where the chain ends early."""
    values = list(map(attrgetter(attributes[0]), objects))
    for attribute in attributes[1:]:
        get = attrgetter(attribute)
        values = [None if value is None else get(value) for value in values]
    return values


def _refused(values: list[bytes]) -> dict[int, str]:
    """Which records must not be decoded at all, and why.

    The decoder skips what is not mapped without looking for UTF-8, and a record must not become
    an event only because nobody reads its spoilt field.
    """
    refused: dict[int, str] = {}
    if max(map(len, values), default=0) > 2 * DEPTH_MAX:
        deep = f"nested deeper than {DEPTH_MAX}"
        refused |= {i: deep for i, value in enumerate(values) if _too_deep(value)}
    if not all(map(bytes.isascii, values)):
        refused |= {i: "not UTF-8" for i, value in enumerate(values) if not _is_utf8(value)}
    return refused


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _too_deep(value: bytes) -> bool:
    if value.count(b"{") + value.count(b"[") <= DEPTH_MAX:
        return False
    no_escapes = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(no_escapes.split(b'"')[::2])
    depth = np.cumsum(_STEP[np.frombuffer(outside_strings, np.uint8)])
    return bool(depth.max(initial=0) > DEPTH_MAX)


def _reason(value: bytes, error: Exception) -> tuple[DeadLetterCode, str]:
    """Why a record did not decode. Only here is it worth finding out exactly."""
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        if message.startswith("Number out of range"):
            return "not_finite", message
        if message.startswith("Integer value out of range"):
            return "text_too_long", message
        return "wrong_type", message
    if _has_not_finite(value):
        return "not_finite", "holds NaN or Infinity, which are no JSON numbers"
    return "malformed", message


def _has_not_finite(value: bytes) -> bool:
    """Whether it is JSON but for NaN and Infinity, which many encoders write all the same."""
    seen: list[str] = []
    try:
        json.loads(value, parse_constant=seen.append)
    except (ValueError, RecursionError):
        return False
    return bool(seen)
