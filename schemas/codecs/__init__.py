"""Codecs: a batch of records in, the raw columns of its fields out, and a fault for each record
that gives none. Each module here is one format; nothing that a record holds raises past it.

Whether a decoded value is allowed is not decided here: that is `schemas.codecs.checks`.
"""

from typing import Protocol

from schemas.codecs.access_log import AccessLogCodec
from schemas.codecs.decoded import DecodedColumns
from schemas.codecs.json_records import JsonCodec
from schemas.codecs.table import TableCodec
from schemas.mapping import CodecName, Mapping
from schemas.records import Records

__all__ = ["AccessLogCodec", "Codec", "DecodedColumns", "JsonCodec", "TableCodec", "codec_named"]


class Codec(Protocol):
    """Decodes batches of one input, by a mapping given at its making."""

    def decode(self, records: Records) -> DecodedColumns:
        """The raw columns of n records, none of which is a tombstone."""


class _Named:
    """The codec that a configuration names, and beside it the one of tables."""

    def __init__(self, of_bytes: Codec, of_tables: Codec) -> None:
        self._of_bytes = of_bytes
        self._of_tables = of_tables

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        codec = self._of_bytes if isinstance(records.values, list) else self._of_tables
        return codec.decode(records)


def codec_named(name: CodecName, mapping: Mapping) -> Codec:
    """The codec that a configuration names; records that come as a table are columns already,
    whatever it names."""
    of_bytes = AccessLogCodec(mapping) if name == "access_log" else JsonCodec(mapping)
    return _Named(of_bytes, TableCodec(mapping))
