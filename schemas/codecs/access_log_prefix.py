"""How an access log's line begins: known prefixes, and which token is the client's address.

A line is ADDRESS IDENT USER [TIME] …, and known programs put something before it: a virtual host
(Apache's vhost_combined), syslog (RFC 3164, RFC 5424, and with an ISO time), a container's log. The
user's name is the client's own choice and may hold anything, so only the first address can be the
client's; only a second one directly after it shows that the first is the name of the host.
"""

import re
from typing import Final

from schemas.addresses import address

EXPECTED: Final = (
    "expected a line of the combined format: "
    'ADDRESS IDENT USER [TIME] "REQUEST" STATUS BYTES "REFERRER" "AGENT"'
)
_ISO: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_TAG: Final = r"[^\s:\[]{1,64}(?:\[\d{1,10}\])?: "
_PREFIX: Final = re.compile(
    r"[\ufeff\0]+"
    rf"|{_ISO} (?:stdout|stderr) [FP] "
    rf"|(?:<\d{{1,3}}>)?(?:[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d|{_ISO}) \S{{1,255}} {_TAG}"
    rf"|<\d{{1,3}}>\d{{1,2}} (?:\S{{1,255}} ){{5}}(?:-|(?:\[(?:[^\]\\]++|\\.)*+\])++) ?",
    re.ASCII,
)
_PREFIXES_MAX: Final = 8
_HOST: Final = re.compile(r"[\w.*-]{1,255}(?::\d{1,5})?", re.ASCII)


class NotALogLineError(ValueError):
    """A text is no line of an access log; the message says why."""


def without_prefix(line: str) -> str:
    """The line without prefixes of other programs."""
    for _ in range(_PREFIXES_MAX):
        found = _PREFIX.match(line)
        if found is None:
            break
        line = line[found.end() :]
    return line


def client(first: str, second: str, user: str) -> str:
    """The client's address, or "-", of a line that begins with these two tokens and goes on with
    a user's name up to the time. Raises NotALogLineError where the line has another form."""
    if "," in first or (second.endswith(",") and address(second[:-1])):
        raise NotALogLineError(f"a list of addresses in the place of one; {EXPECTED}")
    ip, after_it = address(first), address(second)
    if after_it is not None and (ip is not None or _HOST.fullmatch(first)):
        ident, _, name = user.partition(" ")
        if not name or address(ident):
            raise NotALogLineError(f"several addresses in the place of one; {EXPECTED}")
        return after_it
    if second != "-" and user.endswith("- -"):
        raise NotALogLineError(f"no address directly before the dashes; {EXPECTED}")
    if ip is not None:
        return ip
    if first == second == "-" and " " not in user:
        return first
    raise NotALogLineError(f"no address in the client's place; {EXPECTED}")
