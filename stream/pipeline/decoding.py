"""Decoding: an input's records to checked events, with a fault for each record that is no event.

Keeps no state but, in `SharedDecoder`, the last batch, so that configurations that are replayed side
by side decode it once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from schemas.codecs import Codec, StaticSchemas, build_codec
from schemas.codecs.checks import check
from schemas.columns import I64, EventBatch
from schemas.dead_letters import Fault
from schemas.mapping import compile_mapping
from schemas.records import Records
from schemas.repairs import FieldRepair
from stream.config import Config, InputSpec, LimitsSpec, extracted_fields


def codec_for(spec: InputSpec, fields: Sequence[str]) -> Codec:
    """The codec of an input: it extracts times, types, ids and these fields."""
    mapping = compile_mapping(spec.layout, spec.type, spec.fields, fields)
    return build_codec(spec.codec, mapping, StaticSchemas())


class DecodedBatch(NamedTuple):
    """A decoded batch: events and faults, both in the order of their records, and the repairs made in
    the events."""

    events: EventBatch
    faults: list[Fault]
    tombstones: int
    repaired: list[FieldRepair]


class Decoder:
    """Decodes the batches of an input. fields: the event fields to extract."""

    def __init__(self, spec: InputSpec, limits: LimitsSpec, fields: Sequence[str]) -> None:
        self._record_bytes_max = limits.record_bytes_max
        self._codec = codec_for(spec, fields)

    def read(self, batch: Records) -> DecodedBatch:
        """The batch's events, and a fault for each record that is neither an event nor a tombstone."""
        rows, faults, tombstones = self._decodable_rows(batch)
        records = batch if len(rows) == len(batch) else batch.take(rows)
        checked = check(self._codec.decode(records), records)
        check_faults = [fault._replace(row=int(rows[fault.row])) for fault in checked.faults]
        repaired = [repair._replace(rows=rows[repair.rows]) for repair in checked.repaired]
        return DecodedBatch(checked.events, sorted(faults + check_faults), tombstones, repaired)

    def _decodable_rows(self, batch: Records) -> tuple[I64, list[Fault], int]:
        """The rows to decode, a fault for each record that is too large, and the number of
        tombstones."""
        rows = np.arange(len(batch))
        if not isinstance(batch.values, list):
            return rows, [], 0
        sizes = np.array([-1 if v is None else len(v) for v in batch.values], np.int64)
        limit = self._record_bytes_max
        faults = [
            Fault(i, "too_large", f"{int(sizes[i])} bytes; expected at most {limit}")
            for i in np.flatnonzero(sizes > limit).tolist()
        ]
        decodable = (sizes >= 0) & (sizes <= limit)
        return rows[decodable], faults, int(np.count_nonzero(sizes < 0))


class SharedDecoder:
    """Decodes each batch once, however often it is asked for before the next batch."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._last: tuple[Records, DecodedBatch] | None = None

    def read(self, batch: Records) -> DecodedBatch:
        """The batch's events and faults, as from `Decoder.read`."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._decoder.read(batch)
        return self._last[1]


def shared_decoders(configs: Sequence[Config]) -> list[dict[str, SharedDecoder]]:
    """For each configuration a decoder for every input, shared by those that decode it alike."""
    shared: dict[DecodingKey, SharedDecoder] = {}
    decoders: list[dict[str, SharedDecoder]] = []
    for config in configs:
        keys = {name: decoding_key(config, name) for name in config.inputs}
        for name, key in keys.items():
            if key not in shared:
                decoder = Decoder(config.inputs[name], config.limits, key.fields)
                shared[key] = SharedDecoder(decoder)
        decoders.append({name: shared[key] for name, key in keys.items()})
    return decoders


class DecodingKey(NamedTuple):
    """All settings that determine how an input's records are decoded. fields: the event fields to
    extract, which determine the faults."""

    spec: bytes
    fields: tuple[str, ...]


def decoding_key(config: Config, input_name: str) -> DecodingKey:
    """The key of an input's decoding by a configuration: equal keys give equal batches."""
    # the duplicate window does not affect decoding: the same value in every key
    limits = msgspec.structs.replace(config.limits, duplicate_window=2)
    spec = input_name, config.inputs[input_name], limits
    fields = extracted_fields(config, input_name)
    return DecodingKey(msgspec.json.encode(spec, order="sorted"), tuple(fields))
