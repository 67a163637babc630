"""The page of a run: alerts and incidents and, with labels, the caught and the missed frauds.

Every number on it is in the run's `summary.json`.
"""

from collections.abc import Iterator
from typing import Final

from stream.clock import parse_time_ms
from stream.config import ALL_MONITORS
from stream.evaluation.results import Evaluation, Level, MissedFraud, MonitorScore, View
from stream.formatting import (
    UNDEFINED,
    format_count,
    format_duration,
    format_number,
    format_percent,
    format_quantity,
    format_ratio,
    format_score,
)
from stream.replay.summary import Counts, Summary
from stream.report.charts import Chart, ShadedSpan, alert_marks, traffic_chart
from stream.report.curves import budget_chart, calibration_chart, precision_recall_chart
from stream.report.estimates import percent_interval, ratio_interval
from stream.report.templating import render

LEVELS: Final[dict[Level, str]] = {
    "events": "Events",
    "new_events": "Events of entities not known yet",
    "entities": "Entities",
    "entity_days": "Entities, each day",
    "incidents": "Incidents",
}
DEFINITIONS: Final = (
    (
        "Alerted",
        (
            "an alert was published on it, or it was counted into an open incident. Recall is the share "
            "of all frauds that are alerted."
        ),
    ),
    (
        "With an alert",
        "an alert was published on it. Precision is the share of these that is fraud.",
    ),
    ("Caught", "alerted, or while a recommended action on one of its entities was in force."),
    ("Found", "scored above the threshold that gives this many false positives, or events a day."),
)
COUNTING_NOTE: Final = (
    "Alerts and incidents of each monitor, and of assess, are counted separately: one event may have "
    "several."
)
BAND_TEXTS: Final = {
    "held back": "nothing: the alert was held back, over budget",
    "budget": "nothing: the budget did not allow it then",
    "not scored": "no monitor scored them",
}


def render_run(summary: Summary) -> str:
    """The page of a run, one HTML file that loads nothing."""
    evaluation = summary.evaluation
    definitions = DEFINITIONS if evaluation else ()
    features = evaluation.missed.not_surprising_features if evaluation else []
    return render(
        "run.html",
        summary.name,
        _sections(summary),
        _charts(summary),
        {
            "summary": summary,
            "evaluation": evaluation,
            "lead": _lead(summary),
            "headline_figures": [
                *(headline_figures(evaluation) if evaluation else _count_figures(summary))
            ],
            "definitions": [*definitions, ("Counting", COUNTING_NOTE)],
            "levels": LEVELS,
            "band_texts": BAND_TEXTS,
            "not_surprising_features": sorted(
                features,
                key=lambda feature: (feature.share_caught or 0.0) - (feature.share_missed or 0.0),
            ),
            "miscounted": [monitor for monitor, adds_up in summary.adds_up.items() if not adds_up],
            "view_name": _view_name,
            "delay_text": _delay_text,
            "reason_missed": _reason_missed,
            "monitor_facts": _monitor_facts,
            "counts_text": _counts_text,
            "entities_text": _entities_text,
        },
    )


def headline_figures(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """The headline figures: description, value, and interval or another note."""
    view, level = evaluation.views[0], evaluation.level
    ranked, incidents, delay = view.levels[level], view.levels["incidents"], view.delay
    share, recall_at_false_positives = view.amount.caught_share, ranked.recall_at_false_positives
    if evaluation.events_known:
        yield "of the frauds' amount caught", format_percent(share.value), percent_interval(share)
    else:
        alerted = f"{format_count(ranked.frauds_alerted)} of {format_count(ranked.frauds)}"
        yield "of the fraudulent entities alerted", format_percent(ranked.recall.value), alerted
    yield (
        "of incidents are fraud",
        format_percent(incidents.precision.value),
        (
            f"{format_count(incidents.count)} incidents, "
            f"{format_number(view.incident_alerts.value)} alerts each"
        ),
    )
    yield (
        f"of {level} with an alert are fraud",
        format_percent(ranked.precision.value),
        percent_interval(ranked.precision),
    )
    never = f"{format_percent(delay.never.value)} of {format_count(delay.entities)} never had one"
    quartiles = (
        f"middle half {_delay_text(delay.first_quartile_s)} to "
        f"{_delay_text(delay.third_quartile_s)}"
    )
    if evaluation.events_known:
        yield (
            f"median from first fraud to alert, by {view.entity}",
            _delay_text(delay.median_s.value),
            f"{quartiles}; {never}" if delay.median_s.value is not None else never,
        )
    precision, auc = ranked.average_precision, ranked.roc_auc
    suffix = "" if evaluation.events_known else f" of {level}"
    yield f"average precision{suffix}", format_ratio(precision.value), ratio_interval(precision)
    yield f"ROC AUC{suffix}", format_ratio(auc.value), ratio_interval(auc)
    false_positives = format_percent(evaluation.false_positives)
    yield (
        f"of frauds found at {false_positives} false positives",
        format_percent(recall_at_false_positives.value),
        percent_interval(recall_at_false_positives),
    )
    if not evaluation.events_known:
        return
    first, *others = view.precision_at_k
    yield (
        f"precision of each day's top {first.k} by {view.entity}",
        format_ratio(first.precision.value),
        ", ".join(f"{format_ratio(top.precision.value)} of {top.k}" for top in others),
    )


def _sections(summary: Summary) -> dict[str, str]:
    """Id and heading of each section, in their order."""
    evaluation = summary.evaluation
    sections = {"traffic": "Traffic and alerts"}
    if evaluation and any(scenario.name for scenario in evaluation.views[0].scenarios):
        sections["scenarios"] = "By kind of fraud"
    sections["incidents"] = "Incidents"
    if evaluation:
        sections |= {"missed": "What was missed, and why", "curves": "How well it ranks"}
        if len(evaluation.views) > 1:
            sections["monitors"] = "By monitor"
        sections |= {"days": "By day", "calibration": "Calibration of p-values"}
    sections["records"] = "Records by outcome"
    return sections


def _charts(summary: Summary) -> Iterator[Chart]:
    traffic = summary.traffic
    yield traffic_chart(traffic, alert_marks(traffic), [*_spans_not_evaluated(summary)])
    if summary.evaluation is None:
        return
    views = summary.evaluation.views
    if summary.evaluation.events_known:
        named = [(_view_name(view), view) for view in views]
        yield precision_recall_chart(named)
        yield budget_chart(named)
    yield calibration_chart(views[0])


def _spans_not_evaluated(summary: Summary) -> Iterator[ShadedSpan]:
    """The time before and after the events that are evaluated."""
    if summary.first_event_time is None or summary.last_event_time is None:
        return
    first_ms = parse_time_ms(summary.first_event_time)
    last_ms = parse_time_ms(summary.last_event_time)
    from_time, until_time = summary.evaluation_span.from_time, summary.evaluation_span.until_time
    if from_time is not None and (from_ms := parse_time_ms(from_time)) > first_ms:
        yield ShadedSpan(first_ms, min(from_ms, last_ms), "learned only", is_neutral=True)
    if until_time is not None and (until_ms := parse_time_ms(until_time)) < last_ms:
        yield ShadedSpan(max(until_ms, first_ms), last_ms, "learned only", is_neutral=True)


def _count_figures(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """The headline figures of a run without an evaluation."""
    evaluated = " evaluated" if summary.evaluation_span.events < summary.events else ""
    yield f"events{evaluated}", format_count(summary.evaluation_span.events), ""
    yield "alerts", format_count(summary.alerts_published), ""
    yield "incidents", format_count(summary.incidents_opened), ""
    for monitor, count in summary.evaluation_span.alerts_per_day.items():
        yield f"alerts a day, {monitor}", format_number(count), ""
    yield "dead letters", format_count(summary.dead_letters), ""
    yield "events per second", format_count(round(summary.events_per_s)), ""


def _lead(summary: Summary) -> str:
    """A sentence on what was replayed and evaluated."""
    period = "no event"
    if summary.first_event_time and summary.last_event_time:
        period = f"{summary.first_event_time[:10]} to {summary.last_event_time[:10]}"
    replayed = (
        f"Replay of {summary.name}: {format_count(summary.events)} events, {period}, through the "
        "stages that run live. "
    )
    evaluation, span = summary.evaluation, summary.evaluation_span
    if evaluation is None:
        bounds = (("from", span.from_time), ("before", span.until_time))
        span_text = " and ".join(f"{bound} {time[:10]}" for bound, time in bounds if time)
        evaluated = (
            f"Evaluated {span_text}: {format_quantity(span.events, 'event')}. " if span_text else ""
        )
        return replayed + evaluated + (summary.no_evaluation_reason or "")
    frauds = f"{format_count(evaluation.frauds)} of them confirmed as fraud"
    return replayed + (
        f"Evaluated from {evaluation.first_event_time[:10]} to {evaluation.last_event_time[:10]}: "
        f"{format_count(evaluation.events)} events, "
        f"{frauds if evaluation.event_labels else 'none of them labelled'}."
    )


def _view_name(view: View) -> str:
    return "all together" if view.name == ALL_MONITORS else view.name


def _delay_text(seconds: float | None) -> str:
    return UNDEFINED if seconds is None else format_duration(seconds * 1000)


def _reason_missed(fraud: MissedFraud) -> str:
    """Why no alert was raised on a fraud."""
    if fraud.nearest is None or fraud.gap is None:
        return "no monitor scored it"
    held_back = [score.monitor for score in fraud.monitors if score.held_back]
    if held_back:
        return f"{held_back[0]} held its alert back, over budget"
    if fraud.gap > 0:
        nearest = next(score for score in fraud.monitors if score.monitor == fraud.nearest)
        return f"{_score_of_needed(nearest)} needed for an alert by {fraud.nearest}"
    return f"the budget of {fraud.nearest} did not allow an alert on that score"


def _monitor_facts(fraud: MissedFraud) -> list[tuple[str, str]]:
    """Each monitor that scored a missed fraud, with its score and features."""
    return [
        (
            score.monitor,
            (
                f"score {_score_of_needed(score)}; "
                f"surprising: {', '.join(score.surprising) or 'nothing'}; "
                f"not surprising: {', '.join(score.not_surprising) or 'nothing'}"
            ),
        )
        for score in fraud.monitors
        if score.score is not None
    ]


def _score_of_needed(score: MonitorScore) -> str:
    """A score and the lowest score that alerts: "3.95 of 4"."""
    return f"{format_score(score.score)} of {format_score(score.min_alert_score)}"


def _counts_text(counts: Counts) -> str:
    named = ((name.replace("_", " "), count) for name, count in counts.items() if count)
    return ", ".join(f"{name} {format_count(count)}" for name, count in named)


def _entities_text(entities: dict[str, str]) -> str:
    return ", ".join(f"{entity_type} {entity}" for entity_type, entity in entities.items())
