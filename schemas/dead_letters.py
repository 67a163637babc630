"""Dead letters: records that could not become events, in a form that can be repaired and resent.

Defines the form of a dead letter in its topic, and the codes. Codecs and checks detect the faults.
The topic also holds examples of records that became events with a repaired field: the header
`eddy-disposition` is `dead_lettered` or `event_kept`. An example must never be resent, and does not
count among the dead letters.
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
    "wrong_type": "the record is JSON, but not an object",
    "missing_id": "no event id at the mapped path",
    "missing_time": "no time at the mapped path",
    "bad_time": "the time cannot be read in the mapped unit, or is before 1970 or after 2100",
    "too_large": "the record is larger than limits.record_bytes_max",
    "unknown_type": "the type is not one of Eddy's, and the mapping does not translate it to one",
    "label_without_entity": "a label names only an event and no entity, and a live group cannot look up the event",
    "label_without_verdict": "no verdict at the mapped path of a label",
}
CODES: Final[tuple[DeadLetterCode, ...]] = tuple(MEANING)

PAYLOAD_BYTES_MAX: Final = 512 * 1024
"""A larger payload is cut: with its headers it would exceed a default broker's 1 MiB."""

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Original headers above this size are dropped, for the same reason; a header holds their number."""

DISPOSITION: Final = "eddy-disposition"
DEAD_LETTERED: Final = b"dead_lettered"
EVENT_KEPT: Final = b"event_kept"


class Fault(NamedTuple):
    """Why a record of a batch is no event: its row in the batch, the code, and a message.

    The message names the field, the expectation and the actual value, but never that of an entity.
    """

    row: int
    code: DeadLetterCode
    message: str


class RepairExample(NamedTuple):
    """An event with a repaired field, as an example: its row in the batch, the field, the code, and a
    message."""

    row: int
    field: str
    code: RepairCode
    message: str


class DeadLetter(NamedTuple):
    """A record for the dead-letter topic: the original bytes as value, everything else as headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]

    @property
    def event_kept(self) -> bool:
        """Whether the record became an event, and this is an example of a repair."""
        return (DISPOSITION, EVENT_KEPT) in self.headers


def dead_letter(
    fault: Fault | RepairExample,
    value: bytes,
    headers: Headers,
    topic: str,
    partition: int,
    offset: int,
) -> DeadLetter:
    """The dead letter of one record. The same input gives the same bytes: no clock, no counter.

    The value is the original payload up to `PAYLOAD_BYTES_MAX`, else that prefix; the headers
    are the original ones (prefixed `original-`) up to `HEADERS_BYTES_MAX`, and `eddy-disposition`,
    `eddy-code`, `eddy-message`, `eddy-field` (of an example), `eddy-topic`, `eddy-partition`,
    `eddy-offset`, `eddy-payload-bytes`, `eddy-payload-xxh3-128`, `eddy-headers-dropped`.
    """
    position = f"{topic}:{partition}:{offset}".encode()
    eddy_headers: dict[str, bytes] = {
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
        eddy_headers["eddy-field"] = fault.field.encode()
    original = [(f"original-{name}", body or b"") for name, body in headers]
    size = accumulate(len(name.encode()) + len(body) for name, body in original)
    kept_headers = original[: bisect_right(list(size), HEADERS_BYTES_MAX)]
    eddy_headers["eddy-headers-dropped"] = str(len(original) - len(kept_headers)).encode()
    return DeadLetter(position, value[:PAYLOAD_BYTES_MAX], [*eddy_headers.items(), *kept_headers])


def as_json_line(letter: DeadLetter) -> bytes:
    """A dead letter as a line of NDJSON, for files; payload bytes that are not UTF-8 are escaped."""
    record = {name: body.decode("utf-8", "backslashreplace") for name, body in letter.headers}
    record["value"] = letter.value.decode("utf-8", "backslashreplace")
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
