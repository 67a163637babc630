"""Codecs: batches of records in, columns of raw values out, and a fault for each undecodable record.

`CODECS` is the vocabulary of configurations. `codec = "json"` names a codec with its default
options; `codec = { name = "json" }` is the same, and has room for options. Every codec is found by
the entry-point group "eddy.codecs", Eddy's own included.
"""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Literal, Union

import msgspec

from schemas.codecs.decoded import DecodedColumns
from schemas.codecs.interface import (
    Codec,
    CodecSpec,
    FileFormat,
    SchemaNotFoundError,
    SchemaSource,
    StaticSchemas,
)
from schemas.codecs.table import TableCodec
from schemas.mapping import Mapping
from schemas.records import Records

__all__ = [
    "CODECS",
    "AnyCodec",
    "Codec",
    "CodecSpec",
    "DecodedColumns",
    "FileFormat",
    "SchemaNotFoundError",
    "SchemaSource",
    "StaticSchemas",
    "build_codec",
    "codec_spec",
]

ENTRY_POINTS: Final = "eddy.codecs"


def _installed_codecs() -> dict[str, type[CodecSpec]]:
    specs: list[type[CodecSpec]] = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    codecs = {str(spec.__struct_config__.tag): spec for spec in specs}
    if "json" not in codecs:
        raise ImportError(
            "Eddy's own codecs are not registered: the installed metadata of eddywatch is older than "
            "its code; install it again (in a checkout: make setup)"
        )
    return dict(sorted(codecs.items()))


CODECS: Final[dict[str, type[CodecSpec]]] = _installed_codecs()
"""Every codec's declaration by the name that a configuration gives it."""

WITHOUT_OPTIONS: Final = tuple(
    name
    for name, spec in CODECS.items()
    if not any(option.required for option in msgspec.structs.fields(spec))
)
"""Codecs that need no options: their name alone declares them."""

if TYPE_CHECKING:
    AnyCodec = str | CodecSpec
else:
    AnyCodec = Union[(Literal[WITHOUT_OPTIONS], *CODECS.values())]


def codec_spec(codec: AnyCodec) -> CodecSpec:
    """The full declaration of a codec that may be given by its name."""
    return codec if isinstance(codec, CodecSpec) else CODECS[codec]()


def build_codec(codec: AnyCodec, mapping: Mapping, schemas: SchemaSource) -> Codec:
    """The codec of an input. Records in a table are decoded as columns, whatever the codec.

    schemas: for codecs whose records name a schema by id. The configuration has no setting for schemas yet:
    the pipeline always passes an empty `StaticSchemas`.
    """
    return _PayloadOrTableCodec(codec_spec(codec).build(mapping, schemas), TableCodec(mapping))


class _PayloadOrTableCodec:
    """Decodes payloads with one codec and tables with another."""

    def __init__(self, payload_codec: Codec, table_codec: Codec) -> None:
        self._payload_codec = payload_codec
        self._table_codec = table_codec

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        codec = self._payload_codec if isinstance(records.values, list) else self._table_codec
        return codec.decode(records)
