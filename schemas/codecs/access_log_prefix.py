"""The beginning of an access log line: known prefixes, and which token is the client's address.

A line is ADDRESS IDENT USER [TIME] …, and some programs write a prefix before it: a virtual host
(Apache's vhost_combined), syslog (RFC 3164, RFC 5424, and with an ISO time), a container runtime.
The user name is chosen by the client and may hold anything, so only the first address can be the
client's, unless a second address directly after it shows that the first token is the host.
"""

import re
from typing import Final

from schemas.addresses import parse_address

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
    """A text is no line of an access log; the message gives the reason."""


def without_prefix(line: str) -> str:
    """The line without the prefixes of other programs."""
    for _ in range(_PREFIXES_MAX):
        prefix = _PREFIX.match(line)
        if prefix is None:
            break
        line = line[prefix.end() :]
    return line


def client(first: str, second: str, user: str) -> str:
    """The client's address, or "-", of a line that begins with these two tokens, followed by the
    user name up to the time. Raises NotALogLineError for a line of another form."""
    if "," in first or (second.endswith(",") and parse_address(second[:-1])):
        raise NotALogLineError(f"a list of addresses in the place of one; {EXPECTED}")
    ip, second_ip = parse_address(first), parse_address(second)
    if second_ip is not None and (ip is not None or _HOST.fullmatch(first)):
        ident, _, name = user.partition(" ")
        if not name or parse_address(ident):
            raise NotALogLineError(f"several addresses in the place of one; {EXPECTED}")
        return second_ip
    if second != "-" and user.endswith("- -"):
        raise NotALogLineError(f"no address directly before the dashes; {EXPECTED}")
    if ip is not None:
        return ip
    if first == second == "-" and " " not in user:
        return first
    raise NotALogLineError(f"no address in the client's place; {EXPECTED}")
