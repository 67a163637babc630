"""Dead letters: records that could not become events, kept whole enough to be mended and resent.

Says what a dead letter looks like on its topic and which codes there are; who finds the fault is
the codecs' and the checks' business.
"""

from bisect import bisect_right
from itertools import accumulate
from typing import Final, Literal, NamedTuple

import orjson
import xxhash

from schemas.records import Headers

DeadLetterCode = Literal[
    "malformed",
    "wrong_type",
    "missing_id",
    "missing_time",
    "bad_time",
    "time_ahead",
    "too_large",
    "not_finite",
    "out_of_range",
    "text_too_long",
    "unknown_type",
    "label_without_entity",
]

MEANING: Final[dict[DeadLetterCode, str]] = {
    "malformed": "not decodable: not JSON, not UTF-8, nested too deep, or a log line of no form",
    "wrong_type": "a mapped field holds another type than it must, or the record is no object",
    "missing_id": "no event id where the mapping says it is",
    "missing_time": "no time where the mapping says it is",
    "bad_time": "the time cannot be read in the mapped unit, or lies before 1970 or after 2100",
    "time_ahead": "the time lies further ahead of the broker's timestamp than limits.time_ahead_max",
    "too_large": "the record is larger than limits.record_bytes_max",
    "not_finite": "a number is NaN or infinite",
    "out_of_range": "a number lies outside its field's range",
    "text_too_long": "a text is longer than its field's limit",
    "unknown_type": "the type is none of Eddy's, and the mapping translates it to none",
    "label_without_entity": "a label names no entity, only an event, and live nobody can look that up",
}
CODES: Final[tuple[DeadLetterCode, ...]] = tuple(MEANING)

PAYLOAD_BYTES_MAX: Final = 512 * 1024
"""A larger payload is cut: with its headers it would pass a default broker's 1 MiB no more."""

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Original headers beyond it are dropped, for the same reason; a header says how many."""


class Fault(NamedTuple):
    """Why one record of a batch is no event: its row in the batch, the code, and a message.

    The message names field, expectation and what was found, but never a value of an entity field.
    """

    row: int
    code: DeadLetterCode
    message: str


class DeadLetter(NamedTuple):
    """One record for the dead-letter topic: original bytes as value, everything else as headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def dead_letter(
    fault: Fault, value: bytes, headers: Headers, topic: str, partition: int, offset: int
) -> DeadLetter:
    """The dead letter of one record. Same input, same bytes: no clock, no counter.

    The value is the original payload up to `PAYLOAD_BYTES_MAX`, else that prefix; the headers
    are the original ones (prefixed `original-`) up to `HEADERS_BYTES_MAX`, and `eddy-code`,
    `eddy-message`, `eddy-topic`, `eddy-partition`, `eddy-offset`, `eddy-payload-bytes`,
    `eddy-payload-xxh3-128`, `eddy-headers-dropped`.
    """
    position = f"{topic}:{partition}:{offset}".encode()
    about: dict[str, bytes] = {
        "eddy-code": fault.code.encode(),
        "eddy-message": fault.message.encode("utf-8", "replace"),
        "eddy-topic": topic.encode(),
        "eddy-partition": str(partition).encode(),
        "eddy-offset": str(offset).encode(),
        "eddy-payload-bytes": str(len(value)).encode(),
        "eddy-payload-xxh3-128": xxhash.xxh3_128_hexdigest(value).encode(),
    }
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
