"""Records into checked events: what of route is alike for all that read an input in the same way.

Decodes, maps and checks, and names what is no event. Remembers nothing of what it has read but the
last batch, so that configurations which are replayed side by side decode it once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from schemas.codecs import Codec, codec_named
from schemas.codecs.checks import check
from schemas.columns import I64, EventBatch
from schemas.dead_letters import Fault
from schemas.mapping import compile_mapping
from schemas.records import Records
from schemas.repairs import FieldRepair
from stream.config import Config, InputSpec, LimitsSpec, extracted_fields


def codec_for(spec: InputSpec, fields: Sequence[str]) -> Codec:
    """What decodes an input's records: their times, types and ids, and these fields."""
    return codec_named(spec.codec, compile_mapping(spec.codec, spec.type, spec.fields, fields))


class DecodedBatch(NamedTuple):
    """A batch decoded: its events and its faults, both in the order of their records, and the repairs
    in its events."""

    events: EventBatch
    faults: list[Fault]
    tombstones: int
    repaired: list[FieldRepair]


class Decoder:
    """Decodes the batches of an input. fields: the event fields that are wanted of it."""

    def __init__(self, spec: InputSpec, limits: LimitsSpec, fields: Sequence[str]) -> None:
        self._record_bytes_max = limits.record_bytes_max
        self._codec = codec_for(spec, fields)

    def read(self, batch: Records) -> DecodedBatch:
        """The batch's events, and a fault for each record that is none and no tombstone."""
        kept, faults, tombstones = self._screened(batch)
        records = batch if len(kept) == len(batch) else batch.take(kept)
        checked = check(self._codec.decode(records), records)
        found = [fault._replace(row=int(kept[fault.row])) for fault in checked.faults]
        repaired = [one._replace(rows=kept[one.rows]) for one in checked.repaired]
        return DecodedBatch(checked.events, sorted(faults + found), tombstones, repaired)

    def _screened(self, batch: Records) -> tuple[I64, list[Fault], int]:
        """The records to decode, faults of those too large, and the number of tombstones."""
        everything = np.arange(len(batch))
        if not isinstance(batch.values, list):
            return everything, [], 0
        sizes = np.array([-1 if v is None else len(v) for v in batch.values], np.int64)
        limit = self._record_bytes_max
        faults = [
            Fault(i, "too_large", f"{int(sizes[i])} bytes; expected at most {limit}")
            for i in np.flatnonzero(sizes > limit).tolist()
        ]
        fine = (sizes >= 0) & (sizes <= limit)
        return everything[fine], faults, int(np.count_nonzero(sizes < 0))


class SharedDecoder:
    """Decodes each batch once for all that ask for it before the next one comes."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._last: tuple[Records, DecodedBatch] | None = None

    def read(self, batch: Records) -> DecodedBatch:
        """The batch's events and faults, as `Decoder.read` has them."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._decoder.read(batch)
        return self._last[1]


def shared_decoders(configs: Sequence[Config]) -> list[dict[str, SharedDecoder]]:
    """For each configuration a decoder for every input, one for all that read it alike."""
    shared: dict[DecodingKey, SharedDecoder] = {}
    found: list[dict[str, SharedDecoder]] = []
    for config in configs:
        own = {name: decoding_key(config, name) for name in config.inputs}
        for name, key in own.items():
            if key not in shared:
                decoder = Decoder(config.inputs[name], config.limits, key.fields)
                shared[key] = SharedDecoder(decoder)
        found.append({name: shared[key] for name, key in own.items()})
    return found


class DecodingKey(NamedTuple):
    """Everything on which depends how an input's records are cut and decoded. fields: the event
    fields that are wanted of them, on which it depends what is a fault."""

    spec: bytes
    fields: tuple[str, ...]


def decoding_key(config: Config, input_name: str) -> DecodingKey:
    """How a configuration reads an input."""
    limits = msgspec.structs.replace(config.limits, duplicate_window=2)
    spec = input_name, config.inputs[input_name], limits
    fields = extracted_fields(config, input_name)
    return DecodingKey(msgspec.json.encode(spec, order="sorted"), tuple(fields))
