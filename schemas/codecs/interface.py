"""The interface of codecs: a declaration with options builds a decoder of whole batches.

A codec turns records into columns of raw values. Whether a value is allowed is decided later, in
`schemas.codecs.checks`. A codec does no I/O: schemas come from a `SchemaSource`, which is
always empty today, and a file format splits bytes that a reader passes to it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from schemas.codecs.decoded import DecodedColumns
from schemas.mapping import Mapping, RecordLayout
from schemas.records import Records


class SchemaNotFoundError(LookupError):
    """No schema has the id that a record names."""


class SchemaSource(Protocol):
    """Provides the schemas that records name by id."""

    def schema(self, schema_id: int) -> bytes:
        """The schema with this id, as its registry stores it. Raises SchemaNotFoundError."""


class StaticSchemas:
    """A fixed set of schemas by id."""

    def __init__(self, schemas: dict[int, bytes] | None = None) -> None:
        self._schemas = schemas or {}

    def schema(self, schema_id: int) -> bytes:
        """See `SchemaSource`."""
        try:
            return self._schemas[schema_id]
        except KeyError:
            raise SchemaNotFoundError(f"no schema has the id {schema_id}") from None


class FileFormat(NamedTuple):
    """A file format that holds a codec's records.

    suffixes: of the files' names, in lower case, such as ".avro". magic: the first bytes of such a
        file; empty where only the name identifies it.
    split: cuts the bytes of a file, in chunks of any size, into records. Raises ValueError with a
        message where the bytes do not have the format.
    """

    suffixes: tuple[str, ...]
    magic: bytes
    split: Callable[[Iterable[bytes]], Iterator[bytes]]

    def claims(self, name: str, first_bytes: bytes) -> bool:
        """Whether a file is of this format. name: without the suffix of a compression."""
        if self.magic:
            return first_bytes.startswith(self.magic)
        return name.lower().endswith(self.suffixes)


class Codec(Protocol):
    """Decodes the records of one input."""

    def decode(self, records: Records) -> DecodedColumns:
        """The columns of n records, none of which is a tombstone, and a fault for each record that
        cannot be decoded. Never raises because of a record's content."""


class CodecSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"
):
    """Base of a codec's declaration; its tag is the codec's name, its fields are its options.

    layout: the values that its records have without a mapping. json_objects: each record is the text of
    one JSON object. cells: its records may also be rows of a CSV file.
    """

    layout: ClassVar[RecordLayout] = RecordLayout()
    json_objects: ClassVar[bool] = False
    cells: ClassVar[bool] = False

    def build(self, mapping: Mapping, schemas: SchemaSource) -> Codec:
        """The codec for one input."""
        raise NotImplementedError(f"{type(self).__name__}.build({mapping}, {schemas})")

    def problems(self) -> list[str]:
        """Mistakes in the options that their types do not exclude: one line each, the key first."""
        return []

    def file_formats(self) -> tuple[FileFormat, ...]:
        """File formats of its records, in addition to text with one record per line."""
        return ()

    def examples(self) -> list[bytes]:
        """Records in Eddy's own shape, for tests: each decodes without a mapping."""
        return []
