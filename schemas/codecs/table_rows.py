"""Rows of a table as JSON objects, as dead letters show them."""

from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any, Final

import orjson
import pyarrow as pa

DEPTH_MAX: Final = 100
"""Levels of nesting that are shown; a deeper value is replaced by its type."""
ROW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of a row after which its lists are cut."""
_WRAPPED: Final = (pa.ExtensionScalar, pa.DictionaryScalar, pa.RunEndEncodedScalar, pa.UnionScalar)


def row_as_json(table: pa.Table, row: int) -> bytes:
    """A row of any types as a JSON object. Values without a JSON form become texts, and lists are cut
    once the row is too long."""
    encoder = _RowEncoder()
    cells = {
        name: encoder.encode(column[row], 0)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return orjson.dumps(cells)


class _RowEncoder:
    """Converts the values of one row to JSON types, up to `ROW_BYTES_MAX`."""

    def __init__(self) -> None:
        self._bytes_left = ROW_BYTES_MAX

    def encode(self, scalar: pa.Scalar, depth: int) -> Any:
        """A value as JSON types."""
        kind = scalar.type
        self._bytes_left -= 8
        if not scalar.is_valid:
            return None
        if depth > DEPTH_MAX:
            return str(kind)
        if isinstance(scalar, _WRAPPED) and not isinstance(kind, pa.UuidType):
            return self.encode(scalar.value, depth + 1)
        if isinstance(scalar, pa.BinaryScalar):  # texts, too
            raw = scalar.as_buffer().to_pybytes()
            self._bytes_left -= len(raw)
            return raw.decode(errors="backslashreplace")
        if isinstance(scalar, pa.ListScalar):  # maps, too: lists of pairs
            return list(self._items(scalar.values, depth + 1))
        if pa.types.is_struct(kind):
            fields = enumerate(kind)
            return {field.name: self.encode(scalar[i], depth + 1) for i, field in fields}
        return _encode_single(scalar)

    def _items(self, values: pa.Array, depth: int) -> Iterator[Any]:
        for item in values:
            if self._bytes_left < 0:
                yield "…"
                return
            yield self.encode(item, depth)


def _encode_single(scalar: pa.Scalar) -> Any:
    """A number, a boolean or a text; a time beyond Python's range is Arrow's text."""
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
