"""Network addresses in one normal form, however a producer writes them.

`::ffff:203.0.113.1`, `203.0.113.1:52100` and `203.0.113.1` are one client, and so are
`[2001:DB8::1]:443`, `2001:db8:0::1` and `2001:db8::1%eth0`. The normal form is that of Python's
`ipaddress`.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import text_bytes

ADDRESS_CHARACTERS_MAX: Final = 128
"""Longer texts are no addresses; this bounds the memory of the cache."""

V4: Final = r"\.".join([r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"] * 4)
"""A regular expression for an IPv4 address."""

_V4: Final = re.compile(rf"({V4})(?::\d{{1,5}})?", re.ASCII)
_V6: Final = re.compile(r"\[([^\]%]+)(?:%[^\]]+)?\](?::\d{1,5})?|([^\[\]%]+)(?:%\S+)?")


def parse_address(text: str) -> str | None:
    """The address in a text, without port and zone; None where the text is no address."""
    return _address(text) if len(text) <= ADDRESS_CHARACTERS_MAX else None


@lru_cache(maxsize=1 << 16)
def _address(text: str) -> str | None:
    if v4 := _V4.fullmatch(text):
        return v4[1]
    v6 = _V6.fullmatch(text)
    if v6 is None or ":" not in text:
        return None
    try:
        parsed = IPv6Address(v6[1] or v6[2])
    except AddressValueError:
        return None
    return str(parsed.ipv4_mapped or parsed)


def normalise_addresses(column: pa.StringArray) -> pa.StringArray:
    """string[n]: each address in normal form; texts that are no address are unchanged."""
    if not (text_bytes(column) == ord(":")).any():
        return (
            column  # a text without a colon is in normal form: only ports, zones and IPv6 have one
        )
    has_colon = pc.match_substring(column, ":").fill_null(False)
    codes = column.filter(has_colon).dictionary_encode()
    texts = codes.dictionary.to_pylist()
    normal = [parse_address(text) or text for text in texts]
    if normal == texts:
        return column
    return pc.replace_with_mask(
        column, has_colon, pa.array(normal, pa.string()).take(codes.indices)
    )
