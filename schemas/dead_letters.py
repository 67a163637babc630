"""Dead letters: records that could not become events, kept whole enough to be repaired and resent.

Says what a dead letter looks like on its topic and which codes there are; who finds the fault is
the codecs' and the checks' business. The topic also holds examples of records that are events with
a field repaired: the header `eddy-disposition` is `dead_lettered` or `event_kept`. An example must
never be resent, and is not among the records that are accounted for.
"""

from bisect import bisect_right
from itertools import accumulate
from typing import Final, Literal, NamedTuple

import orjson
import xxhash

from schemas.records import Headers
from schemas.repairs import RepairCode

DeadLetterCode = Literal[
    "malformed",
    "wrong_type",
    "missing_id",
    "missing_time",
    "bad_time",
    "too_large",
    "unknown_type",
    "label_without_entity",
    "label_without_verdict",
]

MEANING: Final[dict[DeadLetterCode, str]] = {
    "malformed": "not decodable: not JSON, nested too deep, or a log line of no known form",
    "wrong_type": "the record is JSON, and no object",
    "missing_id": "no event id where the mapping says it is",
    "missing_time": "no time where the mapping says it is",
    "bad_time": "the time cannot be read in the mapped unit, or lies before 1970 or after 2100",
    "too_large": "the record is larger than limits.record_bytes_max",
    "unknown_type": "the type is none of Eddy's, and the mapping translates it to none",
    "label_without_entity": "a label names no entity, only an event, and live nobody can look that up",
    "label_without_verdict": "a label's verdict is absent where the mapping says it is",
}
CODES: Final[tuple[DeadLetterCode, ...]] = tuple(MEANING)

PAYLOAD_BYTES_MAX: Final = 512 * 1024
"""A larger payload is cut: with its headers it would pass a default broker's 1 MiB no more."""

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Original headers beyond it are dropped, for the same reason; a header says how many."""

DISPOSITION: Final = "eddy-disposition"
DEAD_LETTERED: Final = b"dead_lettered"
EVENT_KEPT: Final = b"event_kept"


class Fault(NamedTuple):
    """Why one record of a batch is no event: its row in the batch, the code, and a message.

    The message names field, expectation and what was found, but never a value of an entity field.
    """

    row: int
    code: DeadLetterCode
    message: str


class RepairExample(NamedTuple):
    """An event of which a field was repaired, as an example: its row in the batch, which field, the
    code, and a message."""

    row: int
    field: str
    code: RepairCode
    message: str


class DeadLetter(NamedTuple):
    """One record for the dead-letter topic: original bytes as value, everything else as headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]

    @property
    def event_kept(self) -> bool:
        """Whether the record is an event all the same, and this an example of a repair."""
        return (DISPOSITION, EVENT_KEPT) in self.headers


def dead_letter(
    fault: Fault | RepairExample,
    value: bytes,
    headers: Headers,
    topic: str,
    partition: int,
    offset: int,
) -> DeadLetter:
    """The dead letter of one record. Same input, same bytes: no clock, no counter.

    The value is the original payload up to `PAYLOAD_BYTES_MAX`, else that prefix; the headers
    are the original ones (prefixed `original-`) up to `HEADERS_BYTES_MAX`, and `eddy-disposition`,
    `eddy-code`, `eddy-message`, `eddy-field` (of an example), `eddy-topic`, `eddy-partition`,
    `eddy-offset`, `eddy-payload-bytes`, `eddy-payload-xxh3-128`, `eddy-headers-dropped`.
    """
    position = f"{topic}:{partition}:{offset}".encode()
    about: dict[str, bytes] = {
        DISPOSITION: EVENT_KEPT if isinstance(fault, RepairExample) else DEAD_LETTERED,
        "eddy-code": fault.code.encode(),
        "eddy-message": fault.message.encode("utf-8", "replace"),
        "eddy-topic": topic.encode(),
        "eddy-partition": str(partition).encode(),
        "eddy-offset": str(offset).encode(),
        "eddy-payload-bytes": str(len(value)).encode(),
        "eddy-payload-xxh3-128": xxhash.xxh3_128_hexdigest(value).encode(),
    }
    if isinstance(fault, RepairExample):
        about["eddy-field"] = fault.field.encode()
    original = [(f"original-{name}", body or b"") for name, body in headers]
    size = accumulate(len(name.encode()) + len(body) for name, body in original)
    kept = original[: bisect_right(list(size), HEADERS_BYTES_MAX)]
    about["eddy-headers-dropped"] = str(len(original) - len(kept)).encode()
    return DeadLetter(position, value[:PAYLOAD_BYTES_MAX], [*about.items(), *kept])


def as_json_line(letter: DeadLetter) -> bytes:
    """A dead letter as one NDJSON line, for files; payload bytes that are not UTF-8 are escaped."""
    record = {name: body.decode("utf-8", "backslashreplace") for name, body in letter.headers}
    record["value"] = letter.value.decode("utf-8", "backslashreplace")
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
