"""Repairs: a bad value of an optional field does not cost the event.

A field that cannot be read is absent, bytes that are not UTF-8 are replaced, and a text that is too
long is cut; an id that is too long keeps its first bytes and a hash of the whole id. This module
defines the repairs and performs those of texts; codecs and checks find where they are needed.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np

from schemas.columns import I64
from schemas.events import ENTITY_FIELDS, EVENT_ID_BYTES_MAX, FIELDS

RepairCode = Literal["wrong_type", "not_finite", "out_of_range", "not_utf8", "text_too_long"]

MEANING: Final[dict[RepairCode, str]] = {
    "wrong_type": "the value has a wrong type: absent",
    "not_finite": "the number is NaN or infinite: absent",
    "out_of_range": "the number is outside its field's range: absent",
    "not_utf8": "the text holds bytes that are not UTF-8, or a bad escape: each is now U+FFFD",
    "text_too_long": "the text is longer than its field's limit: cut; the end of an id is now a hash",
}
CODES: Final[tuple[RepairCode, ...]] = tuple(MEANING)

ID_FIELDS: Final = frozenset((*ENTITY_FIELDS, "event_id", "labelled_event_id"))
"""Fields that hold ids, of which two could become equal when cut."""
REPAIRABLE: Final[tuple[str, ...]] = ("event_id", *FIELDS)
"""Every field that can be repaired."""

ID_PREFIX_BYTES: Final = 200
REPLACEMENT: Final = "\ufffd"
_NOT_UTF8: Final = re.compile("[\ud800-\udfff]")


class FieldRepair(NamedTuple):
    """A field that was repaired in some records. rows: int64, ascending, without duplicates."""

    field: str
    code: RepairCode
    rows: I64


class RepairLog:
    """Collects the rows in which fields were repaired."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, RepairCode], list[I64]] = {}

    def add(self, field: str, code: RepairCode, rows: I64) -> None:
        """Note the same repair of some rows, which may have been noted before."""
        if len(rows):
            self._rows.setdefault((field, code), []).append(rows)

    def extend(self, repaired: Iterable[FieldRepair]) -> None:
        """Note several repairs."""
        for repair in repaired:
            self.add(*repair)

    def repaired(self) -> list[FieldRepair]:
        """All repairs, by field in the order of `REPAIRABLE`, then by code."""
        repairs = [
            FieldRepair(*key, np.unique(np.concatenate(rows))) for key, rows in self._rows.items()
        ]
        return sorted(
            repairs, key=lambda repair: (REPAIRABLE.index(repair.field), CODES.index(repair.code))
        )


def replace_invalid(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, by which `surrogateescape` also marks a byte that is
    not UTF-8."""
    return _NOT_UTF8.sub(REPLACEMENT, text)


def decode_text(raw: bytes) -> str:
    """The bytes as text, with U+FFFD for each byte that is not UTF-8."""
    return replace_invalid(raw.decode("utf-8", "surrogateescape"))


def shorten(field: str, text: str, bytes_max: int) -> str:
    """A text that is longer than its field's limit, shortened: cut between characters, or, if it is an
    id, shortened to a text that is as unique as the id.

    An id keeps its first 200 bytes, followed by "~" and the BLAKE2b-128 of all its bytes in hex: the
    same in every process, and nobody can construct two ids that become equal.
    """
    raw = text.encode()
    if field not in ID_FIELDS:
        return raw[:bytes_max].decode("utf-8", "ignore")
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    return f"{raw[:ID_PREFIX_BYTES].decode('utf-8', 'ignore')}~{digest}"


def repair_message(field: str, code: RepairCode) -> str:
    """The message of a repair: what was expected, and what the event has instead."""
    if code == "not_utf8":
        return f"{field}: expected UTF-8; each other byte is replaced by U+FFFD"
    if code == "text_too_long":
        limit = FIELDS[field].bytes_max if field in FIELDS else EVENT_ID_BYTES_MAX
        if field in ID_FIELDS:
            instead = f"shortened to its first {ID_PREFIX_BYTES} bytes and a hash of the whole id"
        else:
            instead = "cut"
        return f"{field}: expected at most {limit} bytes; {instead}"
    if field not in FIELDS or FIELDS[field].kind == "text":
        return f"{field}: expected a text or an integer; absent"
    if code == "not_finite":
        return f"{field}: expected a finite number; absent"
    if code == "out_of_range":
        return f"{field}: expected {FIELDS[field].low:g} to {FIELDS[field].high:g}; absent"
    return f"{field}: expected a number, or one as decimal text; absent"
