"""Tables: columnar files (Parquet), whose columns are taken as they are and never made rows."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.codecs.decoded import Decoded, Leaves, assemble, numbers, readable
from schemas.mapping import Mapping, Path, Unit, compile_mapping
from schemas.records import Records

_FAR = 4 * 10**15
"""Seconds or milliseconds that are certainly out of range, and still an int64 in milliseconds."""
_PER_MS = {"us": 1_000, "ns": 1_000_000}

OWN: Final = {b"eddy": b"own fields"}
"""In the metadata of a table's schema: its columns are Eddy's own fields, with time in milliseconds,
whatever the mapping of the live topic says."""


class TableCodec:
    """Decodes Arrow tables by the mapping of the live topic; a nested path is a struct column.

    A time column that is a timestamp needs no unit: it has its own. A table that is `OWN` is taken
    by Eddy's own names.
    """

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._own = compile_mapping("json", None, None, list(mapping.fields))

    def decode(self, records: Records) -> Decoded:
        """See `Codec`."""
        assert isinstance(records.values, pa.Table)
        is_own = OWN.items() <= (records.values.schema.metadata or {}).items()
        mapping = self._own if is_own else self.mapping
        leaves = _Columns(records.values, mapping)
        return assemble(mapping, leaves, records, np.arange(len(records)), [])


class _Columns(Leaves):
    """The values of a table's columns."""

    def __init__(self, table: pa.Table, mapping: Mapping) -> None:
        super().__init__(len(table))
        self._table = table
        self._kinds = mapping.leaves()

    def text(self, path: Path) -> pa.StringArray:
        column = self._column(path)
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column, wrong = readable(column.cast(pa.string()))
            self.note(path, "not_utf8", wrong)
            return column
        if pa.types.is_integer(kind) or pa.types.is_null(kind):
            return column.cast(pa.string())
        if pa.types.is_boolean(kind) and self._kinds[path] == "choice":
            return column.cast(pa.string())
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
            values, wrong = numbers(column.to_pylist())
            self.note(path, "wrong_type", wrong)
            return values
        return self._none_of_it(path, column, pa.float64())

    def time_ms(self, path: Path, unit: Unit) -> pa.Int64Array:
        column = self._column(path)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("ms"))
        if not pa.types.is_timestamp(column.type):
            return super().time_ms(path, unit)
        raw = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        own = column.type.unit
        ms = np.clip(raw, -_FAR, _FAR) * 1000 if own == "s" else raw // _PER_MS.get(own, 1)
        return pc.if_else(column.is_null(), pa.scalar(None, pa.int64()), pa.array(ms))

    def _column(self, path: Path) -> pa.Array:
        """The column at a path, nulls where there is none."""
        column: pa.Array = None
        index = self._table.schema.get_field_index(path[0])
        if index >= 0:
            column = self._table.column(index).combine_chunks()
        for key in path[1:]:
            nested = column is not None and pa.types.is_struct(column.type)
            known = nested and column.type.get_field_index(key) >= 0
            column = pc.struct_field(column, key) if known else None
        if column is None:
            return pa.nulls(self.size)
        if pa.types.is_dictionary(column.type):
            return column.cast(column.type.value_type)
        return column

    def _none_of_it(self, path: Path, column: pa.Array, kind: pa.DataType) -> pa.Array:
        """Nulls; every value of the column is of a type that cannot be what is expected."""
        given = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        self.note(path, "wrong_type", given.tolist())
        return pa.nulls(self.size, kind)
