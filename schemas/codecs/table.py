"""Tables: the columns of Parquet and CSV files, decoded without ever making rows."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble
from schemas.codecs.values import number_column, valid_utf8
from schemas.columns import Bools
from schemas.mapping import Mapping, Path, RecordLayout, TimeUnit, compile_mapping
from schemas.records import Records

_OUT_OF_RANGE = 4 * 10**15
"""Seconds or milliseconds that are out of range for certain, and fit an int64 in milliseconds."""
_PER_MS = {"us": 1_000, "ns": 1_000_000}
_DAY_MS: Final = 86_400_000
_EXACT: Final = 2.0**53
"""Up to this number float64 holds every integer."""

EDDY_FIELDS: Final = {b"eddy": b"own fields"}
"""Metadata of a table's schema: its columns are Eddy's own fields, with time in milliseconds; the
input's mapping does not apply."""


class TableCodec:
    """Decodes Arrow tables by an input's mapping. A nested path leads into a struct column, or into a
    map with texts as keys. A timestamp column has its own unit, whatever the mapping says."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._own = compile_mapping(RecordLayout(), None, None, list(mapping.fields))

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        assert isinstance(records.values, pa.Table)
        is_own = EDDY_FIELDS.items() <= (records.values.schema.metadata or {}).items()
        mapping = self._own if is_own else self.mapping
        columns = _TableColumns(records.values, mapping)
        return assemble(mapping, columns, records, np.arange(len(records)), [])


class _TableColumns(RawColumns):
    """The values of a table's columns."""

    def __init__(self, table: pa.Table, mapping: Mapping) -> None:
        super().__init__(len(table))
        self._table = table
        self._kinds = mapping.path_kinds()

    def text(self, path: Path) -> pa.StringArray:
        column = self._column(path)
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._valid_utf8(path, column)
        if pa.types.is_integer(kind) or pa.types.is_null(kind):
            return column.cast(pa.string())
        if pa.types.is_boolean(kind) and self._kinds[path] == "choice":
            return column.cast(pa.string())
        if pa.types.is_floating(kind):
            return self._integers(path, column.cast(pa.float64()))
        if pa.types.is_decimal(kind):
            return self._each(path, column, _digits)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return self._binary(path, column)
        return self._all_wrong(path, column, pa.string())

    def number(self, path: Path) -> pa.DoubleArray:
        column = self._column(path)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            return column.cast(pa.float64(), safe=False)
        if pa.types.is_decimal(kind):
            return column.cast(pa.float64(), safe=False)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column, _ = valid_utf8(column.cast(pa.string()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = self._binary(path, column)
        else:
            return self._all_wrong(path, column, pa.float64())
        values, wrong = number_column(column.to_pylist())
        self.note(path, "wrong_type", wrong)
        return values

    def time_ms(self, path: Path, unit: TimeUnit) -> pa.Int64Array:
        column = self._column(path)
        kind = column.type
        if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
            return super().time_ms(path, unit)
        days = pa.types.is_date32(kind)
        integers = column.cast(pa.int32()).cast(pa.int64()) if days else column.cast(pa.int64())
        raw = integers.fill_null(0).to_numpy(zero_copy_only=False)
        if days:
            ms = raw * _DAY_MS
        else:
            unit_of_column = "ms" if pa.types.is_date(kind) else kind.unit
            ms = (
                np.clip(raw, -_OUT_OF_RANGE, _OUT_OF_RANGE) * 1000
                if unit_of_column == "s"
                else raw // _PER_MS.get(unit_of_column, 1)
            )
        return pc.if_else(column.is_null(), pa.scalar(None, pa.int64()), pa.array(ms))

    def _column(self, path: Path) -> pa.Array:
        """The column at a path, nulls where there is none."""
        index = self._table.schema.get_field_index(path[0])
        if index < 0:
            return pa.nulls(self.size)
        column = _plain(self._table.column(index).combine_chunks())
        for key in path[1:]:
            kind = column.type
            if pa.types.is_struct(kind):
                if kind.get_field_index(key) < 0:
                    return pa.nulls(self.size)
                column = _plain(pc.struct_field(column, key))
            elif pa.types.is_map(kind) and (values := _map_values(column, key)) is not None:
                column = _plain(values)
            else:
                return self._all_wrong(path, column, pa.null())
        return column

    def _integers(self, path: Path, column: pa.DoubleArray) -> pa.StringArray:
        """The decimal digits of integers, null for NaN: many writers store integers with gaps as
        floats. Numbers that are no integers are noted."""
        values = np.array(column.fill_null(np.nan).to_numpy(zero_copy_only=False))
        absent = np.isnan(values)
        values[absent] = 0.5
        is_integer = (np.abs(values) <= _EXACT) & (np.trunc(values) == values)
        self._note_wrong(path, ~is_integer & ~absent)
        digits = np.where(is_integer, values, 0).astype(np.int64)
        return pa.array(digits, mask=~is_integer).cast(pa.string())

    def _binary(self, path: Path, column: pa.Array) -> pa.StringArray:
        """Bytes as texts, since some writers do not mark texts as such. Bytes that are not UTF-8 are
        replaced, as in any text: a bad byte must not hide an entity."""
        return self._valid_utf8(path, column.cast(pa.string(), safe=False))

    def _each(self, path: Path, column: pa.Array, read: Callable[[Any], str]) -> pa.StringArray:
        """The texts of the values, one by one. read: raises ValueError for a value without one."""
        texts: list[str | None] = []
        wrong = np.zeros(len(column), np.bool_)
        for i, value in enumerate(column.to_pylist()):
            try:
                texts.append(None if value is None else read(value))
            except ValueError:
                texts.append(None)
                wrong[i] = True
        self._note_wrong(path, wrong)
        return pa.array(texts, pa.string())

    def _all_wrong(self, path: Path, column: pa.Array, kind: pa.DataType) -> pa.Array:
        """Nulls; every value of the column has a type that cannot be the expected one."""
        given: Bools = column.is_valid().to_numpy(zero_copy_only=False)
        self._note_wrong(path, given)
        return pa.nulls(self.size, kind)

    def _valid_utf8(self, path: Path, column: pa.Array) -> pa.StringArray:
        """The texts, with each byte that is not UTF-8 replaced."""
        texts, wrong = valid_utf8(column.cast(pa.string()))
        self.note(path, "not_utf8", wrong)
        return texts

    def _note_wrong(self, path: Path, wrong: Bools) -> None:
        self.note(path, "wrong_type", np.flatnonzero(wrong).tolist())


def _digits(value: Any) -> str:
    if value != value.to_integral_value():
        raise ValueError(value)
    return str(int(value))


def _plain(column: pa.Array) -> pa.Array:
    """The column without dictionaries, runs, views and extension types: they only define how it is
    stored."""
    while True:
        kind = column.type
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            try:
                column = _expanded(column)
            except pa.ArrowNotImplementedError:  # the inner type cannot be decoded
                return column
        elif isinstance(kind, pa.UuidType):
            return pa.array([None if value is None else str(value) for value in column.to_pylist()])
        elif isinstance(kind, pa.Bool8Type):
            return pc.not_equal(column.storage, 0)
        elif isinstance(kind, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_string_view(kind):
            return column.cast(pa.string())
        elif pa.types.is_binary_view(kind):
            return column.cast(pa.binary())
        else:
            return column


def _expanded(column: pa.Array) -> pa.Array:
    """A value for each row of a dictionary or run-end encoded column."""
    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary).take(column.indices)
    rows = np.arange(len(column)) + column.offset
    runs = np.searchsorted(column.run_ends.to_numpy(), rows, "right")
    return _plain(column.values).take(pa.array(runs))


def _map_values(column: pa.MapArray, key: str) -> pa.Array | None:
    """The first value of a key in each row's map; None where keys are no texts. Values are expanded
    only once they are chosen: a map may hold any number of long ones."""
    keys = column.keys
    if pa.types.is_dictionary(keys.type):
        same = pc.is_in(keys.indices, _codes(keys.dictionary, key))
    elif pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        same = pc.equal(keys, key)
    else:
        return None
    entries = np.flatnonzero(same.to_numpy(zero_copy_only=False))
    bounds = column.offsets.to_numpy()
    first = np.searchsorted(entries, bounds[:-1])
    inside = first < np.searchsorted(entries, bounds[1:])
    inside &= column.is_valid().to_numpy(zero_copy_only=False)
    chosen = np.zeros(len(column), np.int64)
    chosen[inside] = entries[first[inside]]
    return column.items.take(pa.array(chosen, mask=~inside))


def _codes(dictionary: pa.Array, key: str) -> pa.Array:
    """The positions of a text in a dictionary."""
    same = (
        pc.equal(dictionary, key)
        if pa.types.is_string(dictionary.type)
        else pa.array([], pa.bool_())
    )
    return pa.array(np.flatnonzero(same.to_numpy(zero_copy_only=False)).astype(np.int32))
