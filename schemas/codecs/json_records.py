"""JSON: one object a record. Only mapped paths are decoded, into a type made for the mapping.

A record that does not decode so is decoded value by value, by `json_repair`.
"""

from operator import attrgetter
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble, numbers, texts
from schemas.codecs.json_repair import LEAF, ObjectLevel, RecordRepairs, decode
from schemas.dead_letters import Fault
from schemas.mapping import Mapping, Path, ValueKind
from schemas.records import Records

DEPTH_MAX: Final = 200
"""Objects and arrays in one another. A limit of our own: the decoder's depends on how deep in
calls it runs, so the same record could pass in replay and fail live."""

TURN_RECORDS: Final = 1500
"""Records decoded before their values are read off: as many objects as the caches hold."""

_STEP: Final = np.zeros(256, np.int32)
_STEP[list(b"{[")] = 1
_STEP[list(b"}]")] = -1
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, ValueError)


class JsonCodec:
    """Decodes JSON objects. About 1.3 µs a record of ten mapped fields."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._leaves = mapping.leaves()
        self._attributes: dict[Path, tuple[str, ...]] = {}
        self._level = self._made(self._leaves, (), ())
        self._decode = msgspec.json.Decoder(self._level.whole).decode

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        values = cast("list[bytes]", records.values)
        faults: list[Fault] = []
        columns = _JsonColumns(self._leaves, self._attributes)
        for start in range(0, len(values), TURN_RECORDS):
            columns.add(*self._objects(values, start, faults))
        rows = np.delete(np.arange(len(values)), [fault.row for fault in faults])
        return assemble(self.mapping, columns, records, rows, faults)

    def _objects(
        self, values: list[bytes], start: int, faults: list[Fault]
    ) -> tuple[list[Any], dict[int, RecordRepairs]]:
        """The objects of one turn, and by position among them what was repaired; a fault is added
        for each record that is none."""
        turn = values[start : start + TURN_RECORDS]
        objects: list[Any] = []
        repairs: dict[int, RecordRepairs] = {}
        waiting = iter(_without_deep(turn))
        failed = 0
        while True:
            # extend keeps what came before the record that raised, and `waiting` stands behind
            # it: good records pay nothing for bad ones
            try:
                objects.extend(map(self._decode, waiting))
                return objects, repairs
            except _UNREADABLE as error:
                at = len(objects) + failed
                read = self._by_value(turn[at], error)
                if isinstance(read, Fault):
                    faults.append(read._replace(row=start + at))
                    failed += 1
                else:
                    made, repairs[len(objects)] = read
                    objects.append(made)

    def _by_value(self, value: bytes, error: Exception) -> tuple[Any, RecordRepairs] | Fault:
        """The object of a record that did not decode as a whole, or the fault that it is."""
        # a short record that is too deep is never whole JSON: it is looked at only here
        if _too_deep(value):
            return Fault(0, "malformed", f"nested deeper than {DEPTH_MAX}")
        try:
            return decode(self._level, value)
        except msgspec.ValidationError as wrong:
            return Fault(0, "wrong_type", str(wrong))
        except _UNREADABLE:
            return Fault(0, "malformed", str(error))

    def _made(
        self, leaves: dict[Path, ValueKind], above: Path, attributes: tuple[str, ...]
    ) -> ObjectLevel:
        """Types for the keys below the path `above`; notes how each leaf is reached."""
        depth = len(above)
        below = {path: kind for path, kind in leaves.items() if path[:depth] == above}
        inside: dict[str, tuple[Path, ValueKind] | ObjectLevel] = {}
        whole: list[tuple[str, Any, Any]] = []
        raw: list[tuple[str, Any, Any]] = []
        for i, key in enumerate(dict.fromkeys(path[depth] for path in below)):
            path, attribute = (*above, key), f"f{i}"
            if path in leaves:
                self._attributes[path] = (*attributes, attribute)
                inside[attribute] = path, leaves[path]
                kind = LEAF[leaves[path]]
            else:
                level = self._made(leaves, path, (*attributes, attribute))
                inside[attribute] = level
                kind = level.whole | None
            named = msgspec.field(default=None, name=key)
            whole.append((attribute, kind, named))
            raw.append((attribute, msgspec.Raw, named))
        name = "_".join(("Record", *attributes))
        # no cycles can arise, so the collector need not know these objects
        return ObjectLevel(
            msgspec.defstruct(name, whole, gc=False),
            msgspec.json.Decoder(msgspec.defstruct(f"{name}_raw", raw, gc=False)),
            inside,
        )


class _JsonColumns(RawColumns):
    """The values of decoded objects, read off by attribute, turn by turn."""

    def __init__(
        self, leaves: dict[Path, ValueKind], attributes: dict[Path, tuple[str, ...]]
    ) -> None:
        super().__init__(0)
        self._leaves = leaves
        self._attributes = attributes
        self._parts: dict[Path, list[pa.Array]] = {path: [] for path in leaves}

    def add(self, objects: list[Any], repairs: dict[int, RecordRepairs]) -> None:
        """Take the next objects' values. repairs: by position among them."""
        for position, found in repairs.items():
            for path, code in found:
                self.note(path, code, [self.size + position])
        for path, kind in self._leaves.items():
            values = _values(objects, self._attributes[path])
            if kind != "number":
                self._parts[path].append(texts(values))
                continue
            column, wrong = numbers(values)
            self._parts[path].append(column)
            self.note(path, "wrong_type", [self.size + i for i in wrong])
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


def _without_deep(values: list[bytes]) -> list[bytes]:
    """The values, with nothing in place of one that is nested too deep to be decoded."""
    if max(map(len, values), default=0) <= 2 * DEPTH_MAX:
        return values
    return [b"" if len(one) > 2 * DEPTH_MAX and _too_deep(one) else one for one in values]


def _too_deep(value: bytes) -> bool:
    if value.count(b"{") + value.count(b"[") <= DEPTH_MAX:
        return False
    no_escapes = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(no_escapes.split(b'"')[::2])
    depth = np.cumsum(_STEP[np.frombuffer(outside_strings, np.uint8)])
    return bool(depth.max(initial=0) > DEPTH_MAX)
