"""A run's page: what it led to, and with labels how right it was, what it missed and why.

Every number on it is in the run's `summary.json`; nothing is computed here but the way it is
written.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stream.clock import ms_of
from stream.config import ALL
from stream.judging.figures import (
    FeatureSilence,
    Figure,
    Judgement,
    Level,
    Missed,
    MonitorSaid,
    Scenario,
    View,
)
from stream.page.charts import Axis, Line, Window, alert_marks, curves_chart, traffic_chart
from stream.page.parts import (
    Html,
    Page,
    at,
    bar,
    document,
    facts,
    figures,
    first_rows,
    fold,
    incidents_table,
    name,
    paragraph,
    table,
    text,
)
from stream.replay.summary import Counts, Summary
from stream.words import NOTHING, duration, number, percent, rate, score, some, whole

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
COUNTED_EACH: Final = (
    "Alerts and incidents of every monitor, and of assess, are counted each: one event may have "
    "several."
)


def run_page(summary: Summary) -> str:
    """The whole HTML file; it loads nothing from anywhere."""
    page, judged = Page(), summary.judged
    head = [Html(f"<h1>{text(summary.verdict)}</h1>"), paragraph(_lead(summary))]
    head.append(figures(headline(judged) if judged else _plain(summary)))
    head.append(facts([*(DEFINITIONS if judged else ()), ("Counting", COUNTED_EACH)]))
    page.add("traffic", "Traffic and alerts", _traffic(page, summary))
    if judged and any(scenario.name for scenario in judged.views[0].scenarios):
        page.add("scenarios", "By kind of fraud", _scenarios(judged.views[0].scenarios))
    incidents = paragraph("No incident was opened in the time that is judged.")
    if summary.incidents:
        incidents = incidents_table(summary.incidents, summary.incidents_opened)
    page.add("incidents", "Incidents", incidents)
    if judged:
        page.add("missed", "What was missed, and why", *_missed(judged))
        _measured(page, judged)
    page.add("records", "What became of the records", *_records(summary))
    return document(page, f"Eddy: {summary.name}", Html("".join(head)), FOOTER)


def interval(figure: Figure) -> str:
    """The bootstrap interval of a measure between 0 and 1 in words, "" where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{rate(figure.low)} to {rate(figure.high)}"


def headline(judged: Judgement) -> Iterator[tuple[str, str, str]]:
    """The figures that are read first, with their intervals."""
    view, level = judged.views[0], judged.level
    ranked, incidents, delay = view.levels[level], view.levels["incidents"], view.delay
    share, few = view.amount.caught_share, ranked.recall_at_false_positives
    if judged.events_known:
        yield "of the frauds' amount caught", percent(share.value), _percents(share)
    else:
        said = f"{whole(ranked.frauds_alerted)} of {whole(ranked.frauds)}"
        yield "of the fraudulent entities alerted", percent(ranked.recall.value), said
    yield (
        "of incidents are fraud",
        percent(incidents.precision.value),
        f"{whole(incidents.count)} incidents, {number(view.incident_alerts.value)} alerts each",
    )
    yield (
        f"of {level} with an alert are fraud",
        percent(ranked.precision.value),
        _percents(ranked.precision),
    )
    never = f"{percent(delay.never.value)} of {whole(delay.entities)} never had one"
    middle = f"middle half {_span(delay.first_quartile_s)} to {_span(delay.third_quartile_s)}"
    if judged.events_known:
        yield (
            f"median from first fraud to alert, by {view.entity}",
            _span(delay.median_s.value),
            f"{middle}; {never}" if delay.median_s.value is not None else never,
        )
    ranks = ranked.average_precision
    of = "" if judged.events_known else f" of {level}"
    yield f"average precision{of}", rate(ranks.value), interval(ranks)
    yield f"ROC AUC{of}", rate(ranked.roc_auc.value), interval(ranked.roc_auc)
    at_few = percent(judged.false_positives)
    yield f"of frauds found at {at_few} false positives", percent(few.value), _percents(few)
    if not judged.events_known:
        return
    first, *others = view.precision_at_k
    further = ", ".join(f"{rate(one.precision.value)} of {one.k}" for one in others)
    yield (
        f"precision of each day's top {first.k} by {view.entity}",
        rate(first.precision.value),
        further,
    )


def _plain(summary: Summary) -> Iterator[tuple[str, str, str]]:
    judged = " judged" if summary.span.events < summary.events else ""
    yield f"events{judged}", whole(summary.span.events), ""
    yield "alerts", whole(summary.alerts_published), ""
    yield "incidents", whole(summary.incidents_opened), ""
    for monitor, count in summary.span.alerts_per_day.items():
        yield f"alerts a day, {monitor}", number(count), ""
    yield "dead letters", whole(summary.dead_letters), ""
    yield "events per second", whole(round(summary.events_per_s)), ""


def _lead(summary: Summary) -> str:
    span = "no event"
    if summary.first_event_time and summary.last_event_time:
        span = f"{summary.first_event_time[:10]} to {summary.last_event_time[:10]}"
    told = (
        f"Replay of {summary.name}: {whole(summary.events)} events, {span}, through the stages that "
        "run live. "
    )
    judged = summary.judged
    if judged is None:
        bounds = (("from", summary.span.from_time), ("before", summary.span.until_time))
        of = " and ".join(f"{bound} {time[:10]}" for bound, time in bounds if time)
        told += f"Judged {of}: {some(summary.span.events, 'event')}. " if of else ""
        return told + (summary.unjudged or "")
    frauds = f"{whole(judged.frauds)} of them confirmed as fraud"
    return told + (
        f"Judged from {judged.first_event_time[:10]} to {judged.last_event_time[:10]}: "
        f"{whole(judged.events)} events, {frauds if judged.labelled else 'none of them labelled'}."
    )


# -- traffic --------------------------------------------------------------------------------------


def _traffic(page: Page, summary: Summary) -> Html:
    traffic = summary.traffic
    return traffic_chart(page, traffic, alert_marks(traffic), [*_learned_only(summary)])


def _learned_only(summary: Summary) -> Iterator[Window]:
    """The times before and behind those that are judged."""
    if summary.first_event_time is None or summary.last_event_time is None:
        return
    first_ms, last_ms = ms_of(summary.first_event_time), ms_of(summary.last_event_time)
    from_time, until_time = summary.span.from_time, summary.span.until_time
    if from_time is not None and ms_of(from_time) > first_ms:
        yield Window(first_ms, min(ms_of(from_time), last_ms), "learned only", quiet=True)
    if until_time is not None and ms_of(until_time) < last_ms:
        yield Window(max(ms_of(until_time), first_ms), last_ms, "learned only", quiet=True)


# -- what the labels say --------------------------------------------------------------------------


def _measured(page: Page, judged: Judgement) -> None:
    views = judged.views
    curves = [_curves(page, views)] if judged.events_known else []
    page.add("curves", "How well it ranks", *curves, _levels(judged))
    if len(views) > 1:
        page.add("monitors", "By monitor", _views(judged))
    page.add("days", "By day", _days(views[0]))
    page.add("calibration", "Is a p-value what it says?", *_calibration(page, views[0]))


def _curves(page: Page, views: Sequence[View]) -> Html:
    called = [(_called(view), view) for view in views]
    charts = precision_recall_chart(page, called) + budget_chart(page, called)
    return Html(f'<div class="pair">{charts}</div>')


def precision_recall_chart(page: Page, views: Sequence[tuple[str, View]]) -> Html:
    """Precision against recall, whatever the threshold."""
    lines = [
        Line(
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
        lines,
    )


def budget_chart(page: Page, views: Sequence[tuple[str, View]]) -> Html:
    """Recall by the events a day that somebody would have to look at."""
    lines = [
        Line(
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
        lines,
    )


def _levels(judged: Judgement) -> Html:
    at = percent(judged.false_positives)
    columns = (
        *("Level", "Count", "Frauds", "ROC AUC", "Average precision"),
        *(f"Recall at {at} false positives", "Alerted", "With an alert", "Precision", "Recall"),
    )
    rows = (
        (
            said,
            whole(one.count),
            whole(one.frauds),
            measured(one.roc_auc),
            measured(one.average_precision),
            measured(one.recall_at_false_positives),
            whole(one.alerted),
            whole(one.published),
            measured(one.precision),
            measured(one.recall),
        )
        for said, one in ((said, judged.views[0].levels[one]) for one, said in LEVELS.items())
    )
    return table("All monitors together, by what is ranked; 95 % intervals", columns, rows)


def measured(figure: Figure) -> Html:
    """A measure with its interval below it."""
    note = interval(figure)
    small = f"<small>{text(note)}</small>" if note else ""
    return Html(f"<span>{text(rate(figure.value))}{small}</span>")


def _calibration(page: Page, view: View) -> Iterator[Html]:
    points = [one for one in view.calibration if one.observed.value]
    lines = [
        Line("promised", [one.p for one in points], [one.p for one in points], reference=True),
        Line(
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
        lines,
    )


def _scenarios(scenarios: Sequence[Scenario]) -> Html:
    columns = (
        *("Kind", "Frauds", "Caught", "Amount caught", "Amount missed", "Alerted", "Recall"),
        *("Entities alerted", "Median time to alert", "Average precision", "ROC AUC"),
    )
    rows = (
        (
            one.name or "not named",
            whole(one.frauds),
            whole(one.caught),
            number(one.amount_caught),
            number(one.amount_missed),
            whole(one.alerted),
            measured(one.recall),
            f"{whole(one.entities_alerted)} of {whole(one.entities)}",
            _span(one.median_delay_s),
            rate(one.average_precision),
            rate(one.roc_auc),
        )
        for one in scenarios
    )
    return table("Kinds of fraud as the labels name them, most frauds first", columns, rows)


def _views(judged: Judgement) -> Html:
    columns = (
        *("Monitor", "Entity", "Alerts", "Incidents", "Average precision", "ROC AUC"),
        *("Precision", "Recall", "Amount caught"),
    )
    rows = []
    for view in judged.views:
        ranked = view.levels[judged.level]
        rows.append(
            (
                _called(view),
                view.entity,
                whole(view.alerts),
                whole(view.incidents),
                measured(ranked.average_precision),
                measured(ranked.roc_auc),
                measured(ranked.precision),
                measured(ranked.recall),
                percent(view.amount.caught_share.value),
            )
        )
    return table(f"Each by its own score and its own alerts, of {judged.level}", columns, rows)


def _days(view: View) -> Html:
    columns = ("Day", "Events", "Frauds", "Caught", "With an alert", "Precision", "Recall")
    rows = (
        (
            one.day,
            *map(whole, (one.events, one.frauds, one.caught, one.alerts)),
            rate(one.precision),
            rate(one.recall),
        )
        for one in view.days
    )
    return first_rows("Days of event time", columns, [*rows], "More days")


def _called(view: View) -> str:
    return "all together" if view.name == ALL else view.name


# -- what was missed ------------------------------------------------------------------------------


_LACKING: Final = {
    "held back": "nothing: held back, over budget",
    "budget": "nothing: the budget did not allow it then",
    "not scored": "no monitor judged them",
}


def _missed(judged: Judgement) -> Iterator[Html]:
    missed = judged.missed
    if not missed.frauds:
        yield paragraph(
            "Every fraud was caught."
            if judged.frauds
            else "Which events were fraud is not known."
            if judged.named
            else "There was no fraud to be missed."
        )
        return
    yield paragraph(
        f"{some(missed.frauds, 'fraud')} with {number(missed.amount)} behind them were not caught."
    )
    yield table(
        "By what the nearest monitor's score lacked for an alert",
        ("Lacking", "Frauds", "Amount"),
        (
            (
                _LACKING.get(one.name, one.name),
                bar(one.frauds / max(missed.frauds, 1), whole(one.frauds)),
                number(one.amount),
            )
            for one in missed.bands
        ),
    )
    if missed.silence:
        yield first_rows(
            "How often a feature was silent (p ≥ 0.1 of its own), those first that the missed lack most",
            ("Feature", "Monitor", "Among the missed", "Among the caught"),
            [
                (
                    name(one.feature),
                    one.monitor,
                    bar(one.silent_missed or 0.0, percent(one.silent_missed)),
                    bar(one.silent_caught or 0.0, percent(one.silent_caught)),
                )
                for one in sorted(missed.silence, key=_lacking)
            ],
            "More features",
        )
    yield _missed_table("The dearest of them", missed.by_amount, "More of the dearest")
    nearest = "Those that came nearest to an alert"
    yield fold(nearest, _missed_table(nearest, missed.nearest, "More of them"), "more")


def _lacking(one: FeatureSilence) -> float:
    return (one.silent_caught or 0.0) - (one.silent_missed or 0.0)


def _missed_table(caption: str, frauds: Sequence[Missed], more: str) -> Html:
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
    return first_rows(caption, columns, rows, more, [_said(one) for one in frauds])


def _why(one: Missed) -> str:
    if one.nearest is None or one.gap is None:
        return "no monitor judged it"
    held_back = [said.monitor for said in one.said if said.held_back]
    if held_back:
        return f"{held_back[0]} held its alert back: over budget"
    if one.gap > 0:
        nearest = next(report for report in one.said if report.monitor == one.nearest)
        return f"{_of_needed(nearest)} needed for an alert by {one.nearest}"
    return f"the budget of {one.nearest} did not allow an alert on that score"


def _of_needed(report: MonitorSaid) -> str:
    """A score beside the least that alerts: "3.95 of 4"."""
    return f"{score(report.score)} of {score(report.needed)}"


def _said(one: Missed) -> Html:
    told = facts(
        (
            said.monitor,
            (
                f"score {_of_needed(said)}; "
                f"surprised: {', '.join(said.surprised) or 'nothing'}; "
                f"silent: {', '.join(said.silent) or 'nothing'}"
            ),
        )
        for said in one.said
        if said.score is not None
    )
    return fold("What each monitor said", told) if one.nearest else Html("")


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
            ("Time", f"{number(summary.seconds)} s, {whole(round(summary.events_per_s))} events/s"),
        )
    )


def _counts(counts: Counts) -> str:
    return ", ".join(f"{what.replace('_', ' ')} {whole(n)}" for what, n in counts.items() if n)


def _percents(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{percent(figure.low)} to {percent(figure.high)}"


def _span(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds * 1000)
