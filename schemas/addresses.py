"""Network addresses: one text for each, however a producer writes it.

`::ffff:203.0.113.1`, `203.0.113.1:52100` and `203.0.113.1` are one client, and so are
`[2001:DB8::1]:443`, `2001:db8:0::1` and `2001:db8::1%eth0`. Forms are those of Python's `ipaddress`.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import numpy as np
import pyarrow as pa

from schemas.columns import Bools

ADDRESS_CHARACTERS_MAX: Final = 128
"""Longer texts are no addresses; nobody can make the memory of known ones large."""

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_V4: Final = re.compile(rf"((?:{_OCTET}\.){{3}}{_OCTET})(?::\d{{1,5}})?", re.ASCII)
_V6: Final = re.compile(r"\[([^\]%]+)(?:%[^\]]+)?\](?::\d{1,5})?|([^\[\]%]+)(?:%\S+)?")
_PLAIN: Final[Bools] = np.isin(np.arange(256), list(b"0123456789."))


def address(text: str) -> str | None:
    """The address that a text writes, without port and zone, or None where it writes none."""
    return _address(text) if len(text) <= ADDRESS_CHARACTERS_MAX else None


@lru_cache(maxsize=1 << 16)
def _address(text: str) -> str | None:
    if v4 := _V4.fullmatch(text):
        return v4[1]
    v6 = _V6.fullmatch(text)
    if v6 is None or ":" not in text:
        return None
    try:
        found = IPv6Address(v6[1] or v6[2])
    except AddressValueError:
        return None
    return str(found.ipv4_mapped or found)


def one_form(column: pa.StringArray) -> pa.StringArray:
    """Each address in its one form; texts that are no address stay as they are. string[n]."""
    _, offsets, data = column.buffers()
    if data is None:
        return column
    places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    if _PLAIN[np.frombuffer(data, np.uint8)[places[0] : places[-1]]].all():
        return column  # digits and dots have one form only
    codes = column.dictionary_encode()
    forms = [address(text) or text for text in codes.dictionary.to_pylist()]
    return pa.array(forms, pa.string()).take(codes.indices)
