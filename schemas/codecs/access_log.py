"""Access logs: the combined format of web servers, one line per request.

A line may be wrapped in quotes, as in some exports, may continue after the user agent, and may
begin with a prefix that `access_log_prefix` recognises. The client's address is normalised; a host
name in its place, or nginx's "unix:", makes the line a fault.
"""

import re
from datetime import date
from functools import lru_cache
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa

from schemas.addresses import V4, parse_address
from schemas.codecs.access_log_prefix import EXPECTED, NotALogLineError, client, without_prefix
from schemas.codecs.decoded import DecodedColumns, RawColumns, assemble, path_text
from schemas.codecs.interface import CodecSpec, SchemaSource
from schemas.codecs.values import number_column
from schemas.dead_letters import Fault
from schemas.mapping import Mapping, Path, RecordLayout, TimeUnit
from schemas.records import Records
from schemas.repairs import replace_invalid

ACCESS_LOG_FIELDS: Final = ("ip", "method", "path", "status", "bytes", "referrer", "user_agent")
"""The event fields that a line of the combined format holds, besides its time."""

_QUOTED: Final = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_HEAD: Final = r"(\S+) (\S+) (.+?) "
_TIME: Final = r"\[(\d\d/[A-Z][a-z]{2}/\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] "
_REST: Final = rf"{_TIME}{_QUOTED} (\d{{3}}) (\d{{1,20}}|-) {_QUOTED} {_QUOTED}(?: .*)?"
_COMMON: Final = re.compile(rf"({V4}) - .+? {_REST}", re.ASCII | re.DOTALL)
"""The form of most lines: an IPv4 address and no ident."""
_LINE: Final = re.compile(f"{_HEAD}{_REST}", re.ASCII | re.DOTALL)
_START: Final = re.compile(rf'{_HEAD}{_TIME}"', re.ASCII | re.DOTALL)
_STATUS: Final = re.compile(r'" (\d{3}) (\d{1,20}|-) "', re.ASCII)
_METHOD: Final = re.compile(r"[A-Z]{1,32}")
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_Row = tuple[str | int | None, ...]


class AccessLogSpec(CodecSpec, frozen=True, kw_only=True, tag="access_log"):
    """One line of the combined access log format per record."""

    layout: ClassVar[RecordLayout] = RecordLayout(ACCESS_LOG_FIELDS, "request", has_ids=False)

    def build(self, mapping: Mapping, schemas: SchemaSource) -> "AccessLogCodec":
        """The codec for one input; lines need no schemas."""
        del schemas
        return AccessLogCodec(mapping)

    def examples(self) -> list[bytes]:
        """A request of an IPv4 address, and one of an IPv6 address after a syslog prefix."""
        time = "[02/Mar/2026:00:00:00 +0000]"
        request = f'{time} "GET /item/7 HTTP/1.1" 200 512 "-" "Mozilla/5.0"'
        return [
            f"203.0.113.1 - - {request}".encode(),
            f"<13>Mar  2 00:00:00 web nginx: 2001:db8::1 - ann {request}".encode(),
        ]


class AccessLogCodec:
    """Decodes log lines into `ACCESS_LOG_FIELDS` and a time; "-" is absent. About 5 µs a line."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping

    def decode(self, records: Records) -> DecodedColumns:
        """See `Codec`."""
        assert isinstance(records.values, list)
        parsed: list[_Row] = []
        not_utf8: list[int] = []
        faults: list[Fault] = []
        for i, value in enumerate(records.values):
            raw, is_utf8 = value or b"", True
            try:
                line = raw.decode()
            except UnicodeDecodeError:
                line, is_utf8 = raw.decode("utf-8", "surrogateescape"), False
            try:
                parsed.append(_parse(line))
            except _BadTimeError:
                faults.append(Fault(i, "bad_time", "time: no such date or time of day"))
            except NotALogLineError as error:
                faults.append(Fault(i, "malformed", str(error)))
            else:
                if not is_utf8:
                    not_utf8.append(len(parsed) - 1)
        rows = np.delete(np.arange(len(records)), [fault.row for fault in faults])
        return assemble(self.mapping, _Lines(parsed, not_utf8), records, rows, faults)


class _BadTimeError(ValueError):
    """A time of the right form that does not exist."""


class _Lines(RawColumns):
    """The values of parsed lines. not_utf8: the positions of lines with bytes that are not UTF-8."""

    def __init__(self, parsed: list[_Row], not_utf8: list[int]) -> None:
        super().__init__(len(parsed))
        for position in not_utf8:
            parsed[position] = self._with_replacements(position, parsed[position])
        columns = zip(*parsed, strict=True) if parsed else ((),) * (1 + len(ACCESS_LOG_FIELDS))
        self._columns = dict(zip(("time", *ACCESS_LOG_FIELDS), map(list, columns), strict=True))

    def _with_replacements(self, position: int, row: _Row) -> _Row:
        values = [replace_invalid(value) if isinstance(value, str) else value for value in row]
        for name, value, before in zip(("time", *ACCESS_LOG_FIELDS), values, row, strict=True):
            if value != before:
                self.note((name,), "not_utf8", [position])
        return tuple(values)

    def text(self, path: Path) -> pa.StringArray:
        return pa.array(self._columns[path[0]], pa.string())

    def number(self, path: Path) -> pa.DoubleArray:
        column, wrong = number_column(self._columns[path[0]])
        assert not wrong, path_text(path)
        return column

    def time_ms(self, path: Path, unit: TimeUnit) -> pa.Int64Array:  # noqa: ARG002  # already in milliseconds
        return pa.array(self._columns[path[0]], pa.int64())


def _parse(line: str) -> _Row:
    """The time in ms, then `ACCESS_LOG_FIELDS`. Raises NotALogLineError for a line of another form."""
    line = line.strip("\r\n")
    if line.startswith('"') and line.endswith('"'):
        line = line[1:-1]
    match = _COMMON.fullmatch(line)
    ip, day, hour, minute, second, sign, off_h, off_min, request, status, size, referrer, agent = (
        match.groups() if match else _parts(line)
    )
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 60:
        raise _BadTimeError
    offset_s = (int(off_h) * 60 + int(off_min)) * (-60 if sign == "-" else 60)
    time_s = _midnight_s(day) + hours * 3600 + minutes * 60 + seconds - offset_s
    method, path = _request(request)
    return (
        time_s * 1000,
        *map(_present, (ip, method, path)),
        *map(_present, (status, size, referrer, agent)),
    )


def _parts(line: str) -> tuple[str, ...]:
    """The groups of `_COMMON`, with a normalised address. Where a text holds quotes without escapes,
    the request ends before the first status, and the user agent at the last quote. Raises
    NotALogLineError."""
    match = _LINE.fullmatch(line)
    if match and match[2] == "-" and (ip := parse_address(match[1])):
        return ip, *match.groups()[3:]
    line = without_prefix(line)
    if match := _LINE.fullmatch(line):
        first, second, user, *rest = match.groups()
        return client(first, second, user), *rest
    start = _START.match(line)
    status = _STATUS.search(line, start.end() - 1) if start else None
    if start is None or status is None:
        raise NotALogLineError(EXPECTED)
    referrer, between, after = line[status.end() :].partition('" "')
    agent, end, _ = after.rpartition('"')
    if not between or not end:
        raise NotALogLineError(EXPECTED)
    first, second, user, *time = start.groups()
    request = line[start.end() : status.start()]
    return client(first, second, user), *time, request, *status.groups(), referrer, agent


def _request(text: str) -> tuple[str | None, str]:
    """Method and path of a request line; a text that is no request line is a path."""
    method, _, rest = text.partition(" ")
    if not _METHOD.fullmatch(method):
        return None, text
    return method, rest.rpartition(" HTTP/")[0] or rest


def _present(text: str | None) -> str | None:
    return None if text == "-" else text


@lru_cache(maxsize=64)
def _midnight_s(day: str) -> int:
    """Seconds since 1970 of a day such as 17/May/2015, at 00:00 UTC."""
    number, month, year = day.split("/")
    if month not in _MONTHS:
        raise _BadTimeError
    try:
        days = date(int(year), _MONTHS.index(month) + 1, int(number)).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise _BadTimeError from error
    return days * 86_400
