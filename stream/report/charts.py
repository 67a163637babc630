"""The charts of the pages: data that `page.js` draws in the reader's colours, and a table with the
same values.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import escape

from schemas.alerts import Severity
from stream.formatting import format_count, format_duration, format_time, format_value
from stream.replay.incidents import SEVERITIES
from stream.replay.traffic import Traffic

ROWS_MAX: Final = 12
"""A curve has hundreds of points; its table shows some of them."""


class Chart(NamedTuple):
    """A chart of a page.

    key: unique on the page. label: what the chart shows, in a sentence. data: for `page.js`.
    caption, columns, rows: the table with the same values.
    """

    key: str
    label: str
    data: Mapping[str, Any]
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class AlertMark(NamedTuple):
    """A mark for an alert, or for several in the same time bucket. text: shown on hover."""

    time_ms: int
    severity: Severity
    text: str


class ShadedSpan(NamedTuple):
    """A shaded time span. is_neutral: drawn in grey instead of red."""

    first_ms: int
    last_ms: int
    label: str
    is_neutral: bool = False


class ChartLine(NamedTuple):
    """One curve. low, high: bounds of its interval at each x, or empty. reference: the curve is
    the expectation, not a result."""

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    reference: bool = False


class Axis(NamedTuple):
    """An axis. log: logarithmic. share: values are shares. dates: values are days."""

    title: str
    log: bool = False
    share: bool = False
    dates: bool = False


def traffic_chart(
    traffic: Traffic, marks: Sequence[AlertMark], spans: Sequence[ShadedSpan] = ()
) -> Chart:
    """Events over time by type, with alerts marked above them."""
    series = list(traffic.by_type.values())
    count = max(map(len, series), default=0)
    totals = [sum(column) for column in zip(*series, strict=True)] or [0] * count
    peak = max(totals, default=0)
    marks_in: dict[int, int] = {}
    alerts = []
    for mark in sorted(marks, key=lambda mark: mark.time_ms):
        bucket = (mark.time_ms - traffic.start_ms) // traffic.bucket_ms
        bucket = min(max(bucket, 0), max(count - 1, 0))
        level = marks_in[bucket] = marks_in.get(bucket, 0) + 1
        height = (totals[bucket] if count else 0) + peak * 0.035 * min(level, 8)
        text = str(escape(mark.text)).replace("\n", "<br>")  # Plotly reads markup in hover texts
        alerts.append([mark.time_ms, height, mark.severity, text])
    width = format_duration(traffic.bucket_ms)
    data = {
        "kind": "traffic",
        "time": [traffic.start_ms + int((i + 0.5) * traffic.bucket_ms) for i in range(count)],
        "bucket": width,
        "types": list(traffic.by_type),
        "counts": series,
        "alerts": alerts,
        "windows": [span._asdict() for span in spans],
    }
    columns, rows = _traffic_table(traffic)
    label = f"Events per {width} by type, with alerts marked on them"
    return Chart("traffic", label, data, f"Events and alerts per {width}", columns, rows)


def alert_marks(traffic: Traffic) -> list[AlertMark]:
    """One mark for the alerts of each severity in each time bucket."""
    return [
        AlertMark(
            traffic.start_ms + int((i + 0.5) * traffic.bucket_ms),
            severity,
            f"{format_count(counts[i])} {severity} alert{'s' if counts[i] > 1 else ''}\n"
            f"{format_duration(traffic.bucket_ms)} from "
            f"{format_time(traffic.start_ms + i * traffic.bucket_ms)}",
        )
        for severity, counts in traffic.alerts.items()
        for i in range(len(counts))
        if counts[i]
    ]


def curves_chart(key: str, label: str, x: Axis, y: Axis, lines: Sequence[ChartLine]) -> Chart:
    """Curves over one axis."""
    data = {
        "kind": "curves",
        "x": x._asdict(),
        "y": y._asdict(),
        "lines": [line._asdict() for line in lines],
    }
    rows = [
        (line.name, _x_text(line.x[i]), format_value(line.y[i]))
        for line in lines
        if not line.reference and len(line.x)
        for i in _spread(len(line.x))
    ]
    return Chart(key, label, data, label, ("Curve", x.title, "Value"), rows)


def _traffic_table(traffic: Traffic) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows; time buckets without events and alerts are left out."""
    columns = {**traffic.by_type}
    for severity in SEVERITIES:
        if severity in traffic.alerts:
            columns[f"{severity} alerts"] = traffic.alerts[severity]
    rows = [
        (format_time(traffic.start_ms + i * traffic.bucket_ms), *map(format_count, counts))
        for i, counts in enumerate(zip(*columns.values(), strict=True))
        if any(counts)
    ]
    return ["From", *columns], rows


def _x_text(x: float | str) -> str:
    return x if isinstance(x, str) else format_value(x)


def _spread(count: int) -> Iterable[int]:
    """At most `ROWS_MAX` evenly spread indexes, including the first and the last."""
    shown = min(count, ROWS_MAX)
    return sorted({round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)})
