"""What the charts show, in our own shape; `page.js` draws it in the reader's colours.

Each function adds one chart to a page and returns its place, with a table that says the same.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from schemas.alerts import Severity
from stream.formatting import duration, format_count, format_time, format_value
from stream.replay.incidents import SEVERITIES
from stream.replay.traffic import Traffic
from stream.report.elements import Html, Page, table, text

ROWS_MAX: Final = 12
"""A curve has hundreds of points; its table has some of them."""


class AlertMark(NamedTuple):
    """An alert, or several at one place in time. said: shown when it is pointed at."""

    time_ms: int
    severity: Severity
    said: str


class ShadedSpan(NamedTuple):
    """A span of time that is shaded, and what stands above it. quiet: it is no alarm."""

    first_ms: int
    last_ms: int
    label: str
    quiet: bool = False


class ChartLine(NamedTuple):
    """One curve. low and high: bounds of its interval at each x, or empty. reference: no result but
    what others are held against."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    reference: bool = False


class Axis(NamedTuple):
    """An axis: its title, whether it is logarithmic, whether its values are shares or days."""

    title: str
    log: bool = False
    share: bool = False
    dates: bool = False


def traffic_chart(
    page: Page, traffic: Traffic, marks: Sequence[AlertMark], windows: Sequence[ShadedSpan] = ()
) -> Html:
    """Events over time by type, alerts on top of them."""
    series = list(traffic.by_type.values())
    count = max(map(len, series), default=0)
    totals = [sum(column) for column in zip(*series, strict=True)] or [0] * count
    peak = max(totals, default=0)
    seen: dict[int, int] = {}
    alerts = []
    for mark in sorted(marks, key=lambda mark: mark.time_ms):
        bucket = (mark.time_ms - traffic.start_ms) // traffic.bucket_ms
        bucket = min(max(bucket, 0), max(count - 1, 0))
        above = seen[bucket] = seen.get(bucket, 0) + 1
        height = (totals[bucket] if count else 0) + peak * 0.035 * min(above, 8)
        alerts.append([mark.time_ms, height, mark.severity, text(mark.said).replace("\n", "<br>")])
    data = {
        "kind": "traffic",
        "time": [traffic.start_ms + int((i + 0.5) * traffic.bucket_ms) for i in range(count)],
        "bucket": duration(traffic.bucket_ms),
        "types": list(traffic.by_type),
        "counts": series,
        "alerts": alerts,
        "windows": [window._asdict() for window in windows],
    }
    label = f"Events per {duration(traffic.bucket_ms)} by type, with alerts marked on them"
    return page.chart("traffic", label, data, _traffic_table(traffic))


def alert_marks(traffic: Traffic) -> list[AlertMark]:
    """The alerts of each bucket as one mark a severity."""
    return [
        AlertMark(
            traffic.start_ms + int((i + 0.5) * traffic.bucket_ms),
            severity,
            f"{format_count(counts[i])} {severity} alert{'s' if counts[i] > 1 else ''}\n"
            f"{duration(traffic.bucket_ms)} from {format_time(traffic.start_ms + i * traffic.bucket_ms)}",
        )
        for severity, counts in traffic.alerts.items()
        for i in range(len(counts))
        if counts[i]
    ]


def curves_chart(
    page: Page, key: str, label: str, x: Axis, y: Axis, curves: Sequence[ChartLine]
) -> Html:
    """Curves over one axis. label: what they show, in a sentence."""
    data = {
        "kind": "curves",
        "x": x._asdict(),
        "y": y._asdict(),
        "lines": [line._asdict() for line in curves],
    }
    return page.chart(key, label, data, _curves_table(label, x, curves))


def _traffic_table(traffic: Traffic) -> Html:
    columns = {**traffic.by_type}
    for severity in SEVERITIES:
        if severity in traffic.alerts:
            columns[f"{severity} alerts"] = traffic.alerts[severity]
    rows = (
        (format_time(traffic.start_ms + i * traffic.bucket_ms), *map(format_count, counts))
        for i, counts in enumerate(zip(*columns.values(), strict=True))
        if any(counts)
    )
    caption = f"Events and alerts per {duration(traffic.bucket_ms)}"
    return table(caption, ["From", *columns], rows)


def _curves_table(caption: str, x: Axis, curves: Sequence[ChartLine]) -> Html:
    rows: list[tuple[str, ...]] = []
    for line in curves:
        if not line.reference and len(line.x):
            chosen = _spread(len(line.x))
            rows += ((line.name, _x_text(line.x[i]), format_value(line.y[i])) for i in chosen)
    return table(caption, ("Curve", x.title, "Value"), rows)


def _x_text(x: float | str) -> str:
    return x if isinstance(x, str) else format_value(x)


def _spread(count: int) -> Iterable[int]:
    """At most `ROWS_MAX` indexes, the first and the last among them."""
    most = min(count, ROWS_MAX)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
