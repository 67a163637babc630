"""The curves that the pages of a run and of a comparison share."""

from collections.abc import Sequence

from stream.evaluation.results import View
from stream.report.charts import Axis, Chart, ChartLine, curves_chart


def precision_recall_chart(views: Sequence[tuple[str, View]]) -> Chart:
    """Precision against recall over all score thresholds. views: label and view of each curve."""
    lines = [
        ChartLine(
            name,
            [point.recall for point in view.precision_recall],
            [point.precision for point in view.precision_recall],
        )
        for name, view in views
    ]
    return curves_chart(
        "precision-recall",
        "Precision against recall, over all scores",
        Axis("recall", share=True),
        Axis("precision", share=True),
        lines,
    )


def budget_chart(views: Sequence[tuple[str, View]]) -> Chart:
    """Recall against the events alerted on per day. views: label and view of each curve."""
    lines = [
        ChartLine(
            name,
            [point.alerts_per_day for point in view.budget],
            [point.recall for point in view.budget],
        )
        for name, view in views
    ]
    return curves_chart(
        "budget",
        "Share of frauds found, by how many events a day are alerted on",
        Axis("events alerted on a day", log=True),
        Axis("recall", share=True),
        lines,
    )


def calibration_chart(view: View) -> Chart:
    """Observed share of honest events with a p-value of at most p, against p."""
    points = [point for point in view.calibration if point.observed.value]
    p = [point.p for point in points]
    lines = [
        ChartLine("expected", p, p, reference=True),
        ChartLine(
            "observed",
            p,
            [point.observed.value for point in points],
            [point.observed.low for point in points],
            [point.observed.high for point in points],
        ),
    ]
    return curves_chart(
        "calibration",
        "Share of honest events with a p-value of at most p, against p",
        Axis("p", log=True),
        Axis("share of honest events", log=True),
        lines,
    )
