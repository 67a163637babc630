"""Tables: columnar files (Parquet), whose columns are taken as they are and never made rows."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble, numbers, readable
from schemas.columns import Bools
from schemas.mapping import Mapping, Path, TimeUnit, compile_mapping
from schemas.records import Records

_FAR = 4 * 10**15
"""Seconds or milliseconds that are certainly out of range, and still an int64 in milliseconds."""
_PER_MS = {"us": 1_000, "ns": 1_000_000}
_DAY_MS: Final = 86_400_000
_EXACT: Final = 2.0**53
"""Up to here every whole number is a float of its own."""
_WRAPPED: Final = (pa.ExtensionScalar, pa.DictionaryScalar, pa.RunEndEncodedScalar, pa.UnionScalar)
DEPTH_MAX: Final = 100
"""Levels of nesting that a dead letter shows; deeper values are replaced by their type."""
ROW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of a row after which lists are cut."""

EDDY_FIELDS: Final = {b"eddy": b"own fields"}
"""In the metadata of a table's schema: its columns are Eddy's own fields, with time in milliseconds,
whatever the mapping of the live topic says."""


class TableCodec:
    """Decodes Arrow tables by the mapping of the live topic; a nested path is a struct column, or a
    map with texts as keys.

    A time column that is a timestamp needs no unit: it has its own. A table that is `EDDY_FIELDS` is taken
    by Eddy's own names.
    """

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._own = compile_mapping("json", None, None, list(mapping.fields))

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        assert isinstance(records.values, pa.Table)
        is_own = EDDY_FIELDS.items() <= (records.values.schema.metadata or {}).items()
        mapping = self._own if is_own else self.mapping
        leaves = _TableColumns(records.values, mapping)
        return assemble(mapping, leaves, records, np.arange(len(records)), [])


class _TableColumns(RawColumns):
    """The values of a table's columns."""

    def __init__(self, table: pa.Table, mapping: Mapping) -> None:
        super().__init__(len(table))
        self._table = table
        self._kinds = mapping.leaves()

    def text(self, path: Path) -> pa.StringArray:
        column = self._column(path)
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._readable(path, column)
        if pa.types.is_integer(kind) or pa.types.is_null(kind):
            return column.cast(pa.string())
        if pa.types.is_boolean(kind) and self._kinds[path] == "choice":
            return column.cast(pa.string())
        if pa.types.is_floating(kind):
            return self._whole_numbers(path, column.cast(pa.float64()))
        if pa.types.is_decimal(kind):
            return self._each(path, column, _digits)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return self._binary(path, column)
        return self._none_of_it(path, column, pa.string())

    def number(self, path: Path) -> pa.DoubleArray:
        column = self._column(path)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            return column.cast(pa.float64(), safe=False)
        if pa.types.is_decimal(kind):
            return column.cast(pa.float64(), safe=False)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column, _ = readable(column.cast(pa.string()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = self._binary(path, column)
        else:
            return self._none_of_it(path, column, pa.float64())
        values, wrong = numbers(column.to_pylist())
        self.note(path, "wrong_type", wrong)
        return values

    def time_ms(self, path: Path, unit: TimeUnit) -> pa.Int64Array:
        column = self._column(path)
        kind = column.type
        if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
            return super().time_ms(path, unit)
        days = pa.types.is_date32(kind)
        known = column.cast(pa.int32()).cast(pa.int64()) if days else column.cast(pa.int64())
        raw = known.fill_null(0).to_numpy(zero_copy_only=False)
        if days:
            ms = raw * _DAY_MS
        else:
            own = "ms" if pa.types.is_date(kind) else kind.unit
            ms = np.clip(raw, -_FAR, _FAR) * 1000 if own == "s" else raw // _PER_MS.get(own, 1)
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
            elif pa.types.is_map(kind) and (found := _looked_up(column, key)) is not None:
                column = _plain(found)
            else:
                return self._none_of_it(path, column, pa.null())
        return column

    def _whole_numbers(self, path: Path, column: pa.DoubleArray) -> pa.StringArray:
        """The decimal digits of whole numbers, null for NaN: many writers keep integers with gaps as
        floats. Other numbers are noted."""
        values = np.array(column.fill_null(np.nan).to_numpy(zero_copy_only=False))
        absent = np.isnan(values)
        values[absent] = 0.5
        whole = (np.abs(values) <= _EXACT) & (np.trunc(values) == values)
        self._note_wrong(path, ~whole & ~absent)
        digits = np.where(whole, values, 0).astype(np.int64)
        return pa.array(digits, mask=~whole).cast(pa.string())

    def _binary(self, path: Path, column: pa.Array) -> pa.StringArray:
        """Bytes as texts: some writers do not mark texts as such. Bytes that are not UTF-8 are replaced,
        as in any text: one such byte must not hide an entity."""
        return self._readable(path, column.cast(pa.string(), safe=False))

    def _each(self, path: Path, column: pa.Array, read: Callable[[Any], str]) -> pa.StringArray:
        """The texts of values one by one. read: raises ValueError for a value that has none."""
        found: list[str | None] = []
        wrong = np.zeros(len(column), np.bool_)
        for i, value in enumerate(column.to_pylist()):
            try:
                found.append(None if value is None else read(value))
            except ValueError:
                found.append(None)
                wrong[i] = True
        self._note_wrong(path, wrong)
        return pa.array(found, pa.string())

    def _none_of_it(self, path: Path, column: pa.Array, kind: pa.DataType) -> pa.Array:
        """Nulls; every value of the column is of a type that cannot be what is expected."""
        given: Bools = column.is_valid().to_numpy(zero_copy_only=False)
        self._note_wrong(path, given)
        return pa.nulls(self.size, kind)

    def _readable(self, path: Path, column: pa.Array) -> pa.StringArray:
        """The texts, with what is not UTF-8 in them replaced."""
        texts, wrong = readable(column.cast(pa.string()))
        self.note(path, "not_utf8", wrong)
        return texts

    def _note_wrong(self, path: Path, wrong: Bools) -> None:
        self.note(path, "wrong_type", np.flatnonzero(wrong).tolist())


def _digits(value: Any) -> str:
    if value != value.to_integral_value():
        raise ValueError(value)
    return str(int(value))


def _plain(column: pa.Array) -> pa.Array:
    """The column without dictionaries, runs, views and extension types, which are ways of storage."""
    while True:
        kind = column.type
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            try:
                column = _spread(column)
            except pa.ArrowNotImplementedError:  # the inner type cannot be decoded
                return column
        elif isinstance(kind, pa.UuidType):
            return pa.array([None if one is None else str(one) for one in column.to_pylist()])
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


def _spread(column: pa.Array) -> pa.Array:
    """A value for each row, where the column has each of them once or once a run."""
    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary).take(column.indices)
    rows = np.arange(len(column)) + column.offset
    runs = np.searchsorted(column.run_ends.to_numpy(), rows, "right")
    return _plain(column.values).take(pa.array(runs))


def _looked_up(column: pa.MapArray, key: str) -> pa.Array | None:
    """The first value of that key in each row's map; None where keys are no texts. Values are not
    spread before they are chosen: a map may have any number of long ones."""
    keys = column.keys
    if pa.types.is_dictionary(keys.type):
        same = pc.is_in(keys.indices, _codes(keys.dictionary, key))
    elif pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        same = pc.equal(keys, key)
    else:
        return None
    at = np.flatnonzero(same.to_numpy(zero_copy_only=False))
    bounds = column.offsets.to_numpy()
    first = np.searchsorted(at, bounds[:-1])
    inside = first < np.searchsorted(at, bounds[1:])
    inside &= column.is_valid().to_numpy(zero_copy_only=False)
    chosen = np.zeros(len(column), np.int64)
    chosen[inside] = at[first[inside]]
    return column.items.take(pa.array(chosen, mask=~inside))


def _codes(dictionary: pa.Array, key: str) -> pa.Array:
    """The positions of a text in a dictionary."""
    same = (
        pc.equal(dictionary, key)
        if pa.types.is_string(dictionary.type)
        else pa.array([], pa.bool_())
    )
    return pa.array(np.flatnonzero(same.to_numpy(zero_copy_only=False)).astype(np.int32))


# -- rows as dead letters show them ---------------------------------------------------------------


def row_as_json(table: pa.Table, row: int) -> bytes:
    """A row of any types as a JSON object: values that JSON lacks become texts, and long lists are
    cut."""
    room = _Room()
    cells = {
        name: room.shown(column[row], 0)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return orjson.dumps(cells)


class _Room:
    """Converts the values of a row to JSON, up to `ROW_BYTES_MAX`."""

    def __init__(self) -> None:
        self._left = ROW_BYTES_MAX

    def shown(self, scalar: pa.Scalar, depth: int) -> Any:
        """A value as JSON types."""
        kind = scalar.type
        self._left -= 8
        if not scalar.is_valid:
            return None
        if depth > DEPTH_MAX:
            return str(kind)
        if isinstance(scalar, _WRAPPED) and not isinstance(kind, pa.UuidType):
            return self.shown(scalar.value, depth + 1)
        if isinstance(scalar, pa.BinaryScalar):  # texts are such, too
            raw = scalar.as_buffer().to_pybytes()
            self._left -= len(raw)
            return raw.decode(errors="backslashreplace")
        if isinstance(scalar, pa.ListScalar):  # maps are such, too: of pairs
            return list(self._items(scalar.values, depth + 1))
        if pa.types.is_struct(kind):
            fields = enumerate(kind)
            return {field.name: self.shown(scalar[i], depth + 1) for i, field in fields}
        return _shown_single(scalar)

    def _items(self, values: pa.Array, depth: int) -> Iterator[Any]:
        for one in values:
            if self._left < 0:
                yield "…"
                return
            yield self.shown(one, depth)


def _shown_single(scalar: pa.Scalar) -> Any:
    """A number, a boolean, or text; times beyond Python's range are Arrow's text."""
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, LookupError):
        try:
            return scalar.cast(pa.string()).as_py()
        except pa.ArrowException:  # an unknown time zone
            return str(scalar.type)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**64):
        return value
    return str(value)
