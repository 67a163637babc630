"""A run's page: what it led to, and with labels how right it was, what it missed and why.

Every number on it is in the run's `summary.json`; nothing is computed here but the way it is
written.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stream.clock import parse_time_ms
from stream.config import ALL_MONITORS
from stream.evaluation.results import (
    Estimate,
    Evaluation,
    Level,
    MissedFraud,
    MonitorScore,
    OrdinaryFeature,
    Scenario,
    View,
)
from stream.formatting import (
    UNDEFINED,
    duration,
    format_count,
    format_percent,
    format_quantity,
    format_ratio,
    number,
    score,
)
from stream.replay.summary import Counts, Summary
from stream.report.charts import (
    Axis,
    ChartLine,
    ShadedSpan,
    alert_marks,
    curves_chart,
    traffic_chart,
)
from stream.report.elements import (
    Html,
    Page,
    at,
    bar,
    collapsible,
    document,
    facts,
    figures,
    first_rows,
    incidents_table,
    name,
    paragraph,
    table,
    text,
)

LEVELS: Final[dict[Level, str]] = {
    "events": "Events",
    "new_events": "Events of entities not known yet",
    "entities": "Entities",
    "entity_days": "Entities, each day",
    "incidents": "Incidents",
}
FOOTER: Final = (
    "Times are UTC. A score is −log10 of the p-value: 4 means one honest event in ten thousand. "
    "Intervals of 95 % are of a bootstrap whose blocks are days, or groups of entities where entities "
    "are counted; where fewer than eight of them hold any of what is measured, or it is the same "
    "however they are drawn, there is none. The same numbers, and more of each, are in summary.json "
    "beside this file."
)
DEFINITIONS: Final = (
    (
        "Alerted",
        "told of by an alert, or counted into an open incident. Recall: so many of all frauds.",
    ),
    ("With an alert", "told of by an alert. Precision: so many of these are fraud."),
    ("Caught", "alerted, or while an action that an alert recommended for an entity of it stood."),
    ("Found", "at a score so high that no more false positives, or events a day, reach it."),
)
COUNTING_NOTE: Final = (
    "Alerts and incidents of every monitor, and of assess, are counted each: one event may have "
    "several."
)


def render_run(summary: Summary) -> str:
    """The whole HTML file; it loads nothing from anywhere."""
    page, evaluation = Page(), summary.evaluation
    head = [Html(f"<h1>{text(summary.headline)}</h1>"), paragraph(_summary_sentence(summary))]
    head.append(figures(headline(evaluation) if evaluation else _unlabelled_figures(summary)))
    head.append(facts([*(DEFINITIONS if evaluation else ()), ("Counting", COUNTING_NOTE)]))
    page.add("traffic", "Traffic and alerts", _traffic(page, summary))
    if evaluation and any(scenario.name for scenario in evaluation.views[0].scenarios):
        page.add("scenarios", "By kind of fraud", _scenarios(evaluation.views[0].scenarios))
    incidents = paragraph("No incident was opened in the time that is judged.")
    if summary.incidents:
        incidents = incidents_table(summary.incidents, summary.incidents_opened)
    page.add("incidents", "Incidents", incidents)
    if evaluation:
        page.add("missed", "What was missed, and why", *_missed(evaluation))
        _measured(page, evaluation)
    page.add("records", "What became of the records", *_records(summary))
    return document(page, f"Eddy: {summary.name}", Html("".join(head)), FOOTER)


def interval(figure: Estimate) -> str:
    """The bootstrap interval of a measure between 0 and 1 in words, "" where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{format_ratio(figure.low)} to {format_ratio(figure.high)}"


def headline(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """The figures that are read first, with their intervals."""
    view, level = evaluation.views[0], evaluation.level
    ranked, incidents, delay = view.levels[level], view.levels["incidents"], view.delay
    share, few = view.amount.caught_share, ranked.recall_at_false_positives
    if evaluation.events_known:
        yield "of the frauds' amount caught", format_percent(share.value), _percents(share)
    else:
        said = f"{format_count(ranked.frauds_alerted)} of {format_count(ranked.frauds)}"
        yield "of the fraudulent entities alerted", format_percent(ranked.recall.value), said
    yield (
        "of incidents are fraud",
        format_percent(incidents.precision.value),
        f"{format_count(incidents.count)} incidents, {number(view.incident_alerts.value)} alerts each",
    )
    yield (
        f"of {level} with an alert are fraud",
        format_percent(ranked.precision.value),
        _percents(ranked.precision),
    )
    never = f"{format_percent(delay.never.value)} of {format_count(delay.entities)} never had one"
    middle = f"middle half {_span(delay.first_quartile_s)} to {_span(delay.third_quartile_s)}"
    if evaluation.events_known:
        yield (
            f"median from first fraud to alert, by {view.entity}",
            _span(delay.median_s.value),
            f"{middle}; {never}" if delay.median_s.value is not None else never,
        )
    ranks = ranked.average_precision
    of = "" if evaluation.events_known else f" of {level}"
    yield f"average precision{of}", format_ratio(ranks.value), interval(ranks)
    yield f"ROC AUC{of}", format_ratio(ranked.roc_auc.value), interval(ranked.roc_auc)
    at_few = format_percent(evaluation.false_positives)
    yield f"of frauds found at {at_few} false positives", format_percent(few.value), _percents(few)
    if not evaluation.events_known:
        return
    first, *others = view.precision_at_k
    further = ", ".join(f"{format_ratio(one.precision.value)} of {one.k}" for one in others)
    yield (
        f"precision of each day's top {first.k} by {view.entity}",
        format_ratio(first.precision.value),
        further,
    )


def _unlabelled_figures(summary: Summary) -> Iterator[tuple[str, str, str]]:
    evaluation = " judged" if summary.evaluation_span.events < summary.events else ""
    yield f"events{evaluation}", format_count(summary.evaluation_span.events), ""
    yield "alerts", format_count(summary.alerts_published), ""
    yield "incidents", format_count(summary.incidents_opened), ""
    for monitor, count in summary.evaluation_span.alerts_per_day.items():
        yield f"alerts a day, {monitor}", number(count), ""
    yield "dead letters", format_count(summary.dead_letters), ""
    yield "events per second", format_count(round(summary.events_per_s)), ""


def _summary_sentence(summary: Summary) -> str:
    span = "no event"
    if summary.first_event_time and summary.last_event_time:
        span = f"{summary.first_event_time[:10]} to {summary.last_event_time[:10]}"
    rendered = (
        f"Replay of {summary.name}: {format_count(summary.events)} events, {span}, through the stages that "
        "run live. "
    )
    evaluation = summary.evaluation
    if evaluation is None:
        bounds = (
            ("from", summary.evaluation_span.from_time),
            ("before", summary.evaluation_span.until_time),
        )
        of = " and ".join(f"{bound} {time[:10]}" for bound, time in bounds if time)
        rendered += (
            f"Judged {of}: {format_quantity(summary.evaluation_span.events, 'event')}. "
            if of
            else ""
        )
        return rendered + (summary.no_evaluation_reason or "")
    frauds = f"{format_count(evaluation.frauds)} of them confirmed as fraud"
    return rendered + (
        f"Judged from {evaluation.first_event_time[:10]} to {evaluation.last_event_time[:10]}: "
        f"{format_count(evaluation.events)} events, {frauds if evaluation.event_labels else 'none of them labelled'}."
    )


# -- traffic --------------------------------------------------------------------------------------


def _traffic(page: Page, summary: Summary) -> Html:
    traffic = summary.traffic
    return traffic_chart(page, traffic, alert_marks(traffic), [*_learned_only(summary)])


def _learned_only(summary: Summary) -> Iterator[ShadedSpan]:
    """The times before and behind those that are judged."""
    if summary.first_event_time is None or summary.last_event_time is None:
        return
    first_ms, last_ms = (
        parse_time_ms(summary.first_event_time),
        parse_time_ms(summary.last_event_time),
    )
    from_time, until_time = summary.evaluation_span.from_time, summary.evaluation_span.until_time
    if from_time is not None and parse_time_ms(from_time) > first_ms:
        yield ShadedSpan(
            first_ms, min(parse_time_ms(from_time), last_ms), "learned only", quiet=True
        )
    if until_time is not None and parse_time_ms(until_time) < last_ms:
        yield ShadedSpan(
            max(parse_time_ms(until_time), first_ms), last_ms, "learned only", quiet=True
        )


# -- what the labels say --------------------------------------------------------------------------


def _measured(page: Page, evaluation: Evaluation) -> None:
    views = evaluation.views
    curves = [_curves(page, views)] if evaluation.events_known else []
    page.add("curves", "How well it ranks", *curves, _levels(evaluation))
    if len(views) > 1:
        page.add("monitors", "By monitor", _views(evaluation))
    page.add("days", "By day", _days(views[0]))
    page.add("calibration", "Is a p-value what it says?", *_calibration(page, views[0]))


def _curves(page: Page, views: Sequence[View]) -> Html:
    called = [(_view_name(view), view) for view in views]
    charts = precision_recall_chart(page, called) + budget_chart(page, called)
    return Html(f'<div class="pair">{charts}</div>')


def precision_recall_chart(page: Page, views: Sequence[tuple[str, View]]) -> Html:
    """Precision against recall, whatever the threshold."""
    curves = [
        ChartLine(
            called,
            [point.recall for point in view.precision_recall],
            [point.precision for point in view.precision_recall],
        )
        for called, view in views
    ]
    return curves_chart(
        page,
        "precision-recall",
        "Precision against recall, over all scores",
        Axis("recall", share=True),
        Axis("precision", share=True),
        curves,
    )


def budget_chart(page: Page, views: Sequence[tuple[str, View]]) -> Html:
    """Recall by the events a day that somebody would have to look at."""
    curves = [
        ChartLine(
            called,
            [point.alerts_per_day for point in view.budget],
            [point.recall for point in view.budget],
        )
        for called, view in views
    ]
    return curves_chart(
        page,
        "budget",
        "Share of frauds found, by how many events a day are alerted on",
        Axis("events alerted on a day", log=True),
        Axis("recall", share=True),
        curves,
    )


def _levels(evaluation: Evaluation) -> Html:
    at = format_percent(evaluation.false_positives)
    columns = (
        *("Level", "Count", "Frauds", "ROC AUC", "Average precision"),
        *(f"Recall at {at} false positives", "Alerted", "With an alert", "Precision", "Recall"),
    )
    rows = (
        (
            said,
            format_count(one.count),
            format_count(one.frauds),
            measured(one.roc_auc),
            measured(one.average_precision),
            measured(one.recall_at_false_positives),
            format_count(one.alerted),
            format_count(one.published),
            measured(one.precision),
            measured(one.recall),
        )
        for said, one in ((said, evaluation.views[0].levels[one]) for one, said in LEVELS.items())
    )
    return table("All monitors together, by what is ranked; 95 % intervals", columns, rows)


def measured(figure: Estimate) -> Html:
    """A measure with its interval below it."""
    note = interval(figure)
    small = f"<small>{text(note)}</small>" if note else ""
    return Html(f"<span>{text(format_ratio(figure.value))}{small}</span>")


def _calibration(page: Page, view: View) -> Iterator[Html]:
    points = [one for one in view.calibration if one.observed.value]
    curves = [
        ChartLine("promised", [one.p for one in points], [one.p for one in points], reference=True),
        ChartLine(
            "observed",
            [one.p for one in points],
            [one.observed.value for one in points],
            [one.observed.low for one in points],
            [one.observed.high for one in points],
        ),
    ]
    yield paragraph(
        "The share of honest events whose p-value is at most p. Above the promise: more false "
        "alerts than the threshold says; below it: fewer."
    )
    yield curves_chart(
        page,
        "calibration",
        "Share of honest events with a p-value of at most p, against p",
        Axis("p", log=True),
        Axis("share of honest events", log=True),
        curves,
    )


def _scenarios(scenarios: Sequence[Scenario]) -> Html:
    columns = (
        *("Kind", "Frauds", "Caught", "Amount caught", "Amount missed", "Alerted", "Recall"),
        *("Entities alerted", "Median time to alert", "Average precision", "ROC AUC"),
    )
    rows = (
        (
            one.name or "not named",
            format_count(one.frauds),
            format_count(one.caught),
            number(one.amount_caught),
            number(one.amount_missed),
            format_count(one.alerted),
            measured(one.recall),
            f"{format_count(one.entities_alerted)} of {format_count(one.entities)}",
            _span(one.median_delay_s),
            format_ratio(one.average_precision),
            format_ratio(one.roc_auc),
        )
        for one in scenarios
    )
    return table("Kinds of fraud as the labels name them, most frauds first", columns, rows)


def _views(evaluation: Evaluation) -> Html:
    columns = (
        *("Monitor", "Entity", "Alerts", "Incidents", "Average precision", "ROC AUC"),
        *("Precision", "Recall", "Amount caught"),
    )
    rows = []
    for view in evaluation.views:
        ranked = view.levels[evaluation.level]
        rows.append(
            (
                _view_name(view),
                view.entity,
                format_count(view.alerts),
                format_count(view.incidents),
                measured(ranked.average_precision),
                measured(ranked.roc_auc),
                measured(ranked.precision),
                measured(ranked.recall),
                format_percent(view.amount.caught_share.value),
            )
        )
    return table(f"Each by its own score and its own alerts, of {evaluation.level}", columns, rows)


def _days(view: View) -> Html:
    columns = ("Day", "Events", "Frauds", "Caught", "With an alert", "Precision", "Recall")
    rows = (
        (
            one.day,
            *map(format_count, (one.events, one.frauds, one.caught, one.alerts)),
            format_ratio(one.precision),
            format_ratio(one.recall),
        )
        for one in view.days
    )
    return first_rows("Days of event time", columns, [*rows], "More days")


def _view_name(view: View) -> str:
    return "all together" if view.name == ALL_MONITORS else view.name


# -- what was missed ------------------------------------------------------------------------------


_SHORTFALLS: Final = {
    "held back": "nothing: held back, over budget",
    "budget": "nothing: the budget did not allow it then",
    "not scored": "no monitor evaluation them",
}


def _missed(evaluation: Evaluation) -> Iterator[Html]:
    missed = evaluation.missed
    if not missed.frauds:
        yield paragraph(
            "Every fraud was caught."
            if evaluation.frauds
            else "Which events were fraud is not known."
            if evaluation.labelled_entities
            else "There was no fraud to be missed."
        )
        return
    yield paragraph(
        f"{format_quantity(missed.frauds, 'fraud')} with {number(missed.amount)} behind them were not caught."
    )
    yield table(
        "By what the nearest monitor's score lacked for an alert",
        ("Lacking", "Frauds", "Amount"),
        (
            (
                _SHORTFALLS.get(one.name, one.name),
                bar(one.frauds / max(missed.frauds, 1), format_count(one.frauds)),
                number(one.amount),
            )
            for one in missed.bands
        ),
    )
    if missed.ordinary_features:
        yield first_rows(
            "How often a feature was silent (p ≥ 0.1 of its own), those first that the missed lack most",
            ("Feature", "Monitor", "Among the missed", "Among the caught"),
            [
                (
                    name(one.feature),
                    one.monitor,
                    bar(one.share_missed or 0.0, format_percent(one.share_missed)),
                    bar(one.share_caught or 0.0, format_percent(one.share_caught)),
                )
                for one in sorted(missed.ordinary_features, key=_recall_gap)
            ],
            "More features",
        )
    yield _missed_table("The dearest of them", missed.by_amount, "More of the dearest")
    nearest = "Those that came nearest to an alert"
    yield collapsible(nearest, _missed_table(nearest, missed.nearest, "More of them"), "more")


def _recall_gap(one: OrdinaryFeature) -> float:
    return (one.share_caught or 0.0) - (one.share_missed or 0.0)


def _missed_table(caption: str, frauds: Sequence[MissedFraud], more: str) -> Html:
    rows = [
        (
            name(one.event_id),
            at(one.event_time[:16].replace("T", " ")),
            one.scenario or "not named",
            number(one.amount),
            name(", ".join(f"{kind} {who}" for kind, who in one.entities.items())),
            _why(one),
        )
        for one in frauds
    ]
    columns = ("Event", "Time", "Kind", "Amount", "Entities", "Why")
    return first_rows(caption, columns, rows, more, [_monitor_reports(one) for one in frauds])


def _why(one: MissedFraud) -> str:
    if one.nearest is None or one.gap is None:
        return "no monitor judged it"
    held_back = [said.monitor for said in one.monitors if said.held_back]
    if held_back:
        return f"{held_back[0]} held its alert back: over budget"
    if one.gap > 0:
        nearest = next(report for report in one.monitors if report.monitor == one.nearest)
        return f"{_score_of_needed(nearest)} needed for an alert by {one.nearest}"
    return f"the budget of {one.nearest} did not allow an alert on that score"


def _score_of_needed(report: MonitorScore) -> str:
    """A score beside the least that alerts: "3.95 of 4"."""
    return f"{score(report.score)} of {score(report.min_alert_score)}"


def _monitor_reports(one: MissedFraud) -> Html:
    rendered = facts(
        (
            said.monitor,
            (
                f"score {_score_of_needed(said)}; "
                f"surprised: {', '.join(said.surprising) or 'nothing'}; "
                f"silent: {', '.join(said.ordinary) or 'nothing'}"
            ),
        )
        for said in one.monitors
        if said.score is not None
    )
    return collapsible("What each monitor said", rendered) if one.nearest else Html("")


# -- accounting -----------------------------------------------------------------------------------


def _records(summary: Summary) -> Iterator[Html]:
    wrong = [monitor for monitor, whether in summary.adds_up.items() if not whether]
    yield paragraph(
        f"The counts of {', '.join(wrong)} do not add up."
        if wrong
        else "Every record read became exactly one of these; repaired fields are counted beside them."
    )
    for title, counts in (("Input", summary.inputs), ("Monitor", summary.monitors)):
        rows = (
            (who, Html(f'<span class="long">{text(_counts(one))}</span>'))
            for who, one in counts.items()
        )
        yield table(f"{title}s", (title, "Counts"), rows)
    yield facts(
        (
            ("Configuration", summary.fingerprint),
            (
                "Time",
                f"{number(summary.seconds)} s, {format_count(round(summary.events_per_s))} events/s",
            ),
        )
    )


def _counts(counts: Counts) -> str:
    return ", ".join(
        f"{what.replace('_', ' ')} {format_count(n)}" for what, n in counts.items() if n
    )


def _percents(figure: Estimate) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{format_percent(figure.low)} to {format_percent(figure.high)}"


def _span(seconds: float | None) -> str:
    return UNDEFINED if seconds is None else duration(seconds * 1000)
