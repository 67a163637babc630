"""JSON: one object per record. Only mapped paths are decoded, into a type made for the mapping.

A record that this type does not fit is decoded value by value, by `json_repair`.
"""

from operator import attrgetter
from typing import Any, ClassVar, Final, cast

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble
from schemas.codecs.interface import CodecSpec, SchemaSource
from schemas.codecs.json_repair import VALUE_TYPE, ObjectLevel, RecordRepairs, decode
from schemas.codecs.values import number_column, text_column
from schemas.dead_letters import Fault
from schemas.mapping import Mapping, Path, ValueKind
from schemas.records import Records

DEPTH_MAX: Final = 200
"""Levels of nested objects and arrays. The decoder's own limit depends on the depth of the call
stack, so that a record could pass in replay and fail live."""

CHUNK_RECORDS: Final = 1500
"""Records decoded before their values are read: as many objects as fit into the caches."""

_DEPTH_CHANGE: Final = np.zeros(256, np.int32)  # by byte
_DEPTH_CHANGE[list(b"{[")] = 1
_DEPTH_CHANGE[list(b"}]")] = -1
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, ValueError)


class JsonSpec(CodecSpec, frozen=True, kw_only=True, tag="json"):
    """One JSON object per record."""

    json_objects: ClassVar[bool] = True
    cells: ClassVar[bool] = True

    def build(self, mapping: Mapping, schemas: SchemaSource) -> "JsonCodec":
        """The codec for one input; JSON needs no schemas."""
        del schemas
        return JsonCodec(mapping)

    def examples(self) -> list[bytes]:
        """A payment, and a login with another order of keys and an unmapped one."""
        payment = {"type": "transaction", "event_id": "e1", "time": 1_772_409_600_000}
        login = {"kind": "success", "ip": "203.0.113.1", "time": 1_772_409_600_500, "note": None}
        return [
            orjson.dumps({**payment, "account": "a", "amount": 12.5}),
            orjson.dumps({**login, "event_id": 2, "type": "login"}),
        ]


class JsonCodec:
    """Decodes JSON objects. About 1.3 µs a record of ten mapped fields."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._path_kinds = mapping.path_kinds()
        self._attributes: dict[Path, tuple[str, ...]] = {}
        self._level = self._object_level(self._path_kinds, (), ())
        self._decode = msgspec.json.Decoder(self._level.struct_type).decode

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        values = cast("list[bytes]", records.values)
        faults: list[Fault] = []
        columns = _JsonColumns(self._path_kinds, self._attributes)
        for start in range(0, len(values), CHUNK_RECORDS):
            columns.add(*self._objects(values, start, faults))
        rows = np.delete(np.arange(len(values)), [fault.row for fault in faults])
        return assemble(self.mapping, columns, records, rows, faults)

    def _objects(
        self, values: list[bytes], start: int, faults: list[Fault]
    ) -> tuple[list[Any], dict[int, RecordRepairs]]:
        """The objects of one chunk, and the repairs by position among them; `faults` gets a fault
        for each record that is no object."""
        chunk = values[start : start + CHUNK_RECORDS]
        objects: list[Any] = []
        repairs: dict[int, RecordRepairs] = {}
        waiting = iter(_without_deep(chunk))
        failed = 0
        while True:
            # extend keeps the objects before the record that raised, and `waiting` continues
            # after it: good records pay nothing for bad ones
            try:
                objects.extend(map(self._decode, waiting))
                return objects, repairs
            except _UNREADABLE as error:
                index = len(objects) + failed
                decoded = self._decode_by_value(chunk[index], error)
                if isinstance(decoded, Fault):
                    faults.append(decoded._replace(row=start + index))
                    failed += 1
                else:
                    record, repairs[len(objects)] = decoded
                    objects.append(record)

    def _decode_by_value(self, value: bytes, error: Exception) -> tuple[Any, RecordRepairs] | Fault:
        """The object of a record that could not be decoded as a whole, or its fault."""
        # a short record that is nested too deeply is never valid JSON: only this function checks it
        if _too_deep(value):
            return Fault(0, "malformed", f"nested deeper than {DEPTH_MAX}")
        try:
            return decode(self._level, value)
        except msgspec.ValidationError as wrong:
            return Fault(0, "wrong_type", str(wrong))
        except _UNREADABLE:
            return Fault(0, "malformed", str(error))

    def _object_level(
        self, path_kinds: dict[Path, ValueKind], above: Path, attributes: tuple[str, ...]
    ) -> ObjectLevel:
        """The `ObjectLevel` of the keys below the path `above`; adds to `self._attributes` the attributes that
        lead to each path. attributes: those that lead to `above`."""
        depth = len(above)
        below = {path: kind for path, kind in path_kinds.items() if path[:depth] == above}
        children: dict[str, tuple[Path, ValueKind] | ObjectLevel] = {}
        typed_fields: list[tuple[str, Any, Any]] = []
        raw_fields: list[tuple[str, Any, Any]] = []
        for i, key in enumerate(dict.fromkeys(path[depth] for path in below)):
            path, attribute = (*above, key), f"f{i}"
            if path in path_kinds:
                self._attributes[path] = (*attributes, attribute)
                children[attribute] = path, path_kinds[path]
                kind = VALUE_TYPE[path_kinds[path]]
            else:
                level = self._object_level(path_kinds, path, (*attributes, attribute))
                children[attribute] = level
                kind = level.struct_type | None
            field = msgspec.field(default=None, name=key)
            typed_fields.append((attribute, kind, field))
            raw_fields.append((attribute, msgspec.Raw, field))
        name = "_".join(("Record", *attributes))
        # these objects cannot form cycles, so the garbage collector need not track them
        return ObjectLevel(
            msgspec.defstruct(name, typed_fields, gc=False),
            msgspec.json.Decoder(msgspec.defstruct(f"{name}_raw", raw_fields, gc=False)),
            children,
        )


class _JsonColumns(RawColumns):
    """The values of decoded objects, read by attribute, chunk by chunk."""

    def __init__(
        self, path_kinds: dict[Path, ValueKind], attributes: dict[Path, tuple[str, ...]]
    ) -> None:
        super().__init__(0)
        self._path_kinds = path_kinds
        self._attributes = attributes
        self._parts: dict[Path, list[pa.Array]] = {path: [] for path in path_kinds}

    def add(self, objects: list[Any], repairs: dict[int, RecordRepairs]) -> None:
        """Append the values of the next objects. repairs: by position among them."""
        for position, of_record in repairs.items():
            for path, code in of_record:
                self.note(path, code, [self.size + position])
        for path, kind in self._path_kinds.items():
            values = _values(objects, self._attributes[path])
            if kind != "number":
                self._parts[path].append(text_column(values))
                continue
            column, wrong = number_column(values)
            self._parts[path].append(column)
            self.note(path, "wrong_type", [self.size + i for i in wrong])
        self.size += len(objects)

    def text(self, path: Path) -> pa.StringArray:
        return pa.concat_arrays(self._parts[path] or [pa.array([], pa.string())])

    def number(self, path: Path) -> pa.DoubleArray:
        return pa.concat_arrays(self._parts[path] or [pa.array([], pa.float64())])


def _values(objects: list[Any], attributes: tuple[str, ...]) -> list[Any]:
    """The value at the end of a chain of attributes, None where the chain ends early."""
    values = list(map(attrgetter(attributes[0]), objects))
    for attribute in attributes[1:]:
        get = attrgetter(attribute)
        values = [None if value is None else get(value) for value in values]
    return values


def _without_deep(values: list[bytes]) -> list[bytes]:
    """The values, with an empty one in place of each that is nested too deeply."""
    if max(map(len, values), default=0) <= 2 * DEPTH_MAX:
        return values
    return [b"" if len(value) > 2 * DEPTH_MAX and _too_deep(value) else value for value in values]


def _too_deep(value: bytes) -> bool:
    if value.count(b"{") + value.count(b"[") <= DEPTH_MAX:
        return False
    no_escapes = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(no_escapes.split(b'"')[::2])
    depth = np.cumsum(_DEPTH_CHANGE[np.frombuffer(outside_strings, np.uint8)])
    return bool(depth.max(initial=0) > DEPTH_MAX)
