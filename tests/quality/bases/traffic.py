"""Simple bases on web traffic: sessions, addresses of a log, and a scan for holes.

None of these files has an early part to choose on but the scan's, whose thresholds come from the
first day of the log: the others are what the field looks at first, and nothing in them is tuned.
People read, so that the gaps between their pages vary; crawlers come to a page from nowhere, and
fetch no assets.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from schemas.columns import F64, I64
from tests.quality.bases.histories import window_sums

ASSET: Final = re.compile(
    r"(?i)\.(css|js|png|jpe?g|gif|ico|svg|webp|woff2?|ttf|eot|xsl|map)(\?|$)|^/robots\.txt"
)
HOUR_MS: Final = 3_600_000
SCAN_WINDOW_MS: Final = 600_000


class Requests(NamedTuple):
    """In order of time. entity: session or address. referrer: empty where there is none."""

    entity: list[str]
    time_ms: I64
    path: list[str]
    status: I64
    referrer: list[str]

    def take(self, rows: I64) -> "Requests":
        """These rows."""
        return Requests(
            [self.entity[i] for i in rows],
            self.time_ms[rows],
            [self.path[i] for i in rows],
            self.status[rows],
            [self.referrer[i] for i in rows],
        )


def session_bases(requests: Requests) -> dict[str, float]:
    """Of one session. A session of fewer than three pages has no spread of gaps: nothing is known
    against it."""
    pages = np.array([ASSET.search(path) is None for path in requests.path], np.bool_)
    gap = np.diff(requests.time_ms[pages]) / 1000.0
    every = np.diff(requests.time_ms) / 1000.0
    return {
        "standard deviation of all gaps, low": -float(every.std()) if len(every) > 1 else -np.inf,
        "standard deviation of the page gaps, low": -float(gap.std()) if len(gap) > 1 else -np.inf,
        "mean page gap, low": -float(gap.mean()) if len(gap) else -np.inf,
        "pages": float(pages.sum()),
        "share of pages": float(pages.mean()),
    }


def crawler_bases(requests: Requests) -> dict[str, dict[str, float]]:
    """Of each address, from all its requests."""
    entity, number = np.unique(np.array(requests.entity), return_inverse=True)
    page = np.array([ASSET.search(path) is None for path in requests.path], np.float64)
    bare = page * np.array([one in {"", "-"} for one in requests.referrer], np.float64)
    count, pages, without = (np.bincount(number, x) for x in (np.ones_like(page), page, bare))
    in_hour = bare + window_sums(bare, number, requests.time_ms, HOUR_MS)[1]
    most = np.zeros(len(entity))
    np.maximum.at(most, number, in_hour)
    found = {
        "share of pages without a referrer": without / np.maximum(pages, 1.0),
        "share of pages among its requests": pages / count,
        "the sum of these two": without / np.maximum(pages, 1.0) + pages / count,
        "most pages without a referrer in an hour": most,
    }
    return {
        name: dict(zip(entity.tolist(), values.tolist(), strict=True))
        for name, values in found.items()
    }


def scan_bases(attack: Requests, early: Requests) -> dict[str, float]:
    """Requests of a scan until a count in ten minutes exceeds all that any address reached on the
    early day, one more than all where it never does."""
    every = {name: counts(early) for name, counts in _COUNTS.items()}
    own = {name: counts(attack) for name, counts in _COUNTS.items()}
    found = {}
    for name, reached in own.items():
        above = np.flatnonzero(reached > every[name].max(initial=0.0))
        found[name] = float(above[0] + 1 if len(above) else len(reached) + 1)
    return found


def errors_in_window(requests: Requests) -> F64:
    """Errors of the request's address in ten minutes, this one counted."""
    return _in_window(requests, (requests.status >= 400).astype(np.float64))


def requests_in_window(requests: Requests) -> F64:
    """Requests of the address in ten minutes, this one counted."""
    return _in_window(requests, np.ones(len(requests.status)))


def not_found_in_window(requests: Requests) -> F64:
    """Paths that its address asked for in vain for the first time, in ten minutes."""
    known: set[tuple[str, str]] = set()
    new = np.zeros(len(requests.status))
    for i, key in enumerate(zip(requests.entity, requests.path, strict=True)):
        new[i] = requests.status[i] >= 400 and key not in known
        known.add(key)
    return _in_window(requests, new)


_COUNTS: Final = {
    "errors in 10 min, more than ever on the first day": errors_in_window,
    "new paths in vain in 10 min, likewise": not_found_in_window,
    "requests in 10 min, likewise": requests_in_window,
}


def _in_window(requests: Requests, values: F64) -> F64:
    _, number = np.unique(np.array(requests.entity), return_inverse=True)
    before = window_sums(values, number.astype(np.int64), requests.time_ms, SCAN_WINDOW_MS)[1]
    found: F64 = values + before
    return found


def parsed(lines: Sequence[str], time_ms: I64) -> Requests:
    """The requests of a combined log's lines; a line of another form is an empty request."""
    form = re.compile(r'^(\S+) .*?"\S+ (\S*)[^"]*" (\d{3}) \S+ "([^"]*)"')
    found = [form.match(line) for line in lines]
    return Requests(
        [line.split(" ", 1)[0] for line in lines],
        time_ms,
        [one[2] if one else "" for one in found],
        np.array([int(one[3]) if one else 0 for one in found], np.int64),
        [one[4] if one else "" for one in found],
    )
