"""The page of a comparison: the conclusion first, then the measures that support it.

Every number on it is in `comparison.json`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from stream.evaluation.comparison import ComparedRun, Comparison, Pair
from stream.report.charts import Axis, Chart, ChartLine, curves_chart
from stream.report.curves import budget_chart, precision_recall_chart
from stream.report.estimates import difference_interval
from stream.report.run_page import COUNTING_NOTE, DEFINITIONS
from stream.report.templating import render

OVERLAP_NAMES: Final = {
    "events": "Events with an alert",
    "entities": "Entities with an alert",
    "incidents": "Incidents",
    "amount": "Amount of the events with an alert",
    "frauds": "Frauds with an alert",
    "fraud entities": "Entities with an alert and a fraud",
    "fraud amount": "Amount of the frauds with an alert",
}


def render_comparison(comparison: Comparison) -> str:
    """The page of a comparison, one HTML file that loads nothing and links to the runs' pages."""
    runs = comparison.runs
    return render(
        "comparison.html",
        f"Comparison of {', '.join(run.name for run in runs)}",
        _sections(comparison),
        [*_charts(comparison)],
        {
            "comparison": comparison,
            "lead": _lead(comparison),
            "labelled": all(run.view for run in runs),
            "definitions": DEFINITIONS,
            "counting_note": COUNTING_NOTE,
            "overlap_names": OVERLAP_NAMES,
            "scenarios": _scenarios(runs),
            "difference_interval": difference_interval,
        },
    )


def _sections(comparison: Comparison) -> dict[str, str]:
    """Id and heading of each section, in their order."""
    sections = {"runs": "The runs"}
    if comparison.no_evaluation_reason is None:
        sections |= {"differences": "Differences", "curves": "How well each ranks"}
    sections["overlap"] = "Overlap of alerts"
    views = [run.view for run in comparison.runs if run.view]
    if any(scenario.name for view in views for scenario in view.scenarios):
        sections["scenarios"] = "By kind of fraud"
    sections["drift"] = "How far the scores have moved"
    sections["settings"] = "Where the configurations differ"
    return sections


def _lead(comparison: Comparison) -> str:
    """A sentence on what was compared and evaluated."""
    *names, last = [run.name for run in comparison.runs]
    period = ""
    if comparison.first_event_time and comparison.last_event_time:
        period = f", {comparison.first_event_time[:10]} to {comparison.last_event_time[:10]}"
    bounds = (("from", comparison.evaluated_from), ("before", comparison.evaluated_until))
    evaluated = " and ".join(f"{bound} {time[:10]}" for bound, time in bounds if time)
    compared = f"{', '.join(names)} and {last} over the same events in one pass{period}"
    compared += f", evaluated {evaluated}. " if evaluated else ". "
    if comparison.no_evaluation_reason is None:
        return f"{compared}{comparison.runs[0].name} is the baseline."
    return (
        f"{compared}{comparison.no_evaluation_reason} The page shows what differs, not what is "
        "right."
    )


def _scenarios(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Each kind of fraud, with its results in each run; None where a run has none."""
    by_run = [
        {scenario.name: scenario for scenario in run.view.scenarios} if run.view else {}
        for run in runs
    ]
    names = dict.fromkeys(name for scenarios in by_run for name in scenarios)
    results_by_name = ((name, [scenarios.get(name) for scenarios in by_run]) for name in names)
    return [
        {
            "name": name,
            "frauds": next(result.frauds for result in results if result),
            "results": results,
        }
        for name, results in results_by_name
    ]


def _charts(comparison: Comparison) -> Iterator[Chart]:
    if comparison.no_evaluation_reason is None:
        views = [(run.name, run.view) for run in comparison.runs if run.view]
        yield budget_chart(views)
        yield precision_recall_chart(views)
    for index, pair in enumerate(comparison.pairs):
        yield _periods_chart(pair, index)
        yield _score_bands_chart(pair, index)


def _periods_chart(pair: Pair, index: int) -> Chart:
    drift = pair.drift
    days = [period.from_day for period in drift.periods]
    each = "day" if drift.period_days == 1 else f"{drift.period_days} days"
    return curves_chart(
        f"periods-{index}",
        f"Events with an alert, each {each}, of {pair.first}, of {pair.other} and of both",
        Axis(f"{each} from", dates=True),
        Axis("events with an alert"),
        [
            ChartLine(pair.first, days, [period.first for period in drift.periods]),
            ChartLine(pair.other, days, [period.other for period in drift.periods]),
            ChartLine("both", days, [period.both for period in drift.periods]),
        ],
    )


def _score_bands_chart(pair: Pair, index: int) -> Chart:
    bands = pair.drift.bands
    scores = [band.score_from for band in bands]
    return curves_chart(
        f"bands-{index}",
        f"Share of events with at least a score, {pair.first} and {pair.other}",
        Axis("score of at least"),
        Axis("share of events", log=True),
        [
            ChartLine(pair.first, scores, [band.first or None for band in bands]),
            ChartLine(pair.other, scores, [band.other or None for band in bands]),
        ],
    )
