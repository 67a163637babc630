"""Codecs: a batch of records in, the raw columns of its fields out, and a fault for each record
that gives none. Each module here is one format; nothing that a record holds raises past it.

Whether a decoded value is allowed is not decided here: that is `schemas.checks`.
"""

from typing import Protocol

from schemas.codecs.access_log import AccessLogCodec
from schemas.codecs.decoded import Decoded
from schemas.codecs.json_records import JsonCodec
from schemas.codecs.table import TableCodec
from schemas.mapping import CodecName, Mapping
from schemas.records import Records

__all__ = ["AccessLogCodec", "Codec", "Decoded", "JsonCodec", "TableCodec", "codec_named"]


class Codec(Protocol):
    """Decodes batches of one input, by a mapping given at its making."""

    def decode(self, records: Records) -> Decoded:
        """The raw columns of n records, none of which is a tombstone."""


def codec_named(name: CodecName, mapping: Mapping) -> Codec:
    """The codec that a configuration names, for records of bytes."""
    return AccessLogCodec(mapping) if name == "access_log" else JsonCodec(mapping)
