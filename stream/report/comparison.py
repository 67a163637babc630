"""The page of a comparison: the verdict first, then what it rests on.

Every number on it is in `comparison.json`; nothing is computed here but the way it is written.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stream.evaluation.comparison import (
    CaughtByOne,
    ComparedRun,
    Comparison,
    Difference,
    Overlap,
    Pair,
)
from stream.evaluation.results import Estimate, Scenario
from stream.formatting import (
    UNDEFINED,
    format_bytes,
    format_count,
    format_difference,
    format_percent,
    format_ratio,
    format_value,
    number,
)
from stream.report.charts import Axis, ChartLine, curves_chart
from stream.report.elements import (
    Html,
    Page,
    at,
    collapsible,
    document,
    facts,
    figures,
    name,
    paragraph,
    pill,
    table,
    text,
)
from stream.report.run import (
    COUNTING_NOTE,
    DEFINITIONS,
    budget_chart,
    measured,
    precision_recall_chart,
)

_OVERLAP_NAMES: Final = {
    "events": "Events with an alert",
    "entities": "Entities with an alert",
    "incidents": "Incidents",
    "amount": "Amount of the events with an alert",
    "frauds": "Frauds with an alert",
    "fraud entities": "Entities with an alert and a fraud",
    "fraud amount": "Amount of the frauds with an alert",
}
_FOOTER: Final = (
    "Times are UTC. A score is −log10 of the p-value: 4 means one honest event in ten thousand. "
    "Intervals of 95 % are of a bootstrap whose blocks are days, the same days for both; where fewer "
    "than eight of them hold any of what is measured there is none. The same numbers, and more of "
    "each, are in comparison.json beside this file."
)


def render_comparison(comparison: Comparison) -> str:
    """The whole HTML file; it loads nothing from anywhere, and leads to the runs' own pages."""
    page = Page()
    title = f"Comparison of {', '.join(side.name for side in comparison.runs)}"
    said = " ".join(
        f'{text(pair.conclusion)}. <span class="cost">{text(pair.alert_volume)}.</span>'
        for pair in comparison.pairs
    )
    head = [Html(f"<h1>{said}</h1>")]
    head += (_because(pair, alone=len(comparison.pairs) == 1) for pair in comparison.pairs)
    head.append(paragraph(_summary_sentence(comparison)))
    page.add("runs", "The runs", *_runs(comparison.runs))
    if comparison.no_evaluation_reason is None:
        page.add("differences", "What the difference is", *map(_differences, comparison.pairs))
        page.add("curves", "How well each ranks", _curves(page, comparison.runs))
    page.add("overlap", "What both have, what only one has", *_overlaps(comparison.pairs))
    views = [side.view for side in comparison.runs if side.view]
    if any(scenario.name for view in views for scenario in view.scenarios):
        page.add("scenarios", "By kind of fraud", _scenarios(comparison.runs))
    page.add("drift", "How far the scores have moved", *_drift(page, comparison.pairs))
    page.add("settings", "Where the configurations differ", *_settings(comparison))
    return document(page, f"Eddy: {title}", Html("".join(head)), _FOOTER)


def _because(pair: Pair, *, alone: bool) -> Html:
    said = pair.reason[:1].upper() + pair.reason[1:]
    return paragraph(f"{said}." if alone else f"{pair.other}: {said}.", "because")


def _summary_sentence(comparison: Comparison) -> str:
    *names, last = [side.name for side in comparison.runs]
    span = ""
    if comparison.first_event_time and comparison.last_event_time:
        span = f", {comparison.first_event_time[:10]} to {comparison.last_event_time[:10]}"
    bounds = (("from", comparison.evaluated_from), ("before", comparison.evaluated_until))
    judged = " and ".join(f"{bound} {time[:10]}" for bound, time in bounds if time)
    rendered = f"{', '.join(names)} and {last} over the same events in one pass{span}"
    rendered += f", judged {judged}. " if judged else ". "
    if comparison.no_evaluation_reason is None:
        return f"{rendered}{comparison.runs[0].name} is what the others are held against."
    return f"{rendered}{comparison.no_evaluation_reason} What follows says what differs, not what is right."


# -- the runs -------------------------------------------------------------------------------------


def _runs(sides: Sequence[ComparedRun]) -> Iterator[Html]:
    labelled = ("Average precision", "Precision", "Recall", "Amount caught")
    columns = ["Run", "Alerts", "Incidents", "Events", "Dead letters", "CPU time", "State"]
    judged = all(side.view for side in sides)
    columns[1:1] = labelled if judged else ()
    yield table("Each run by itself", columns, ([*_run(side)] for side in sides))
    if judged:
        yield facts(DEFINITIONS)
    yield paragraph(
        f"Alerts, incidents and events are those of the time that is judged. {COUNTING_NOTE} CPU time "
        "leaves out reading and decoding, which all runs share. State is what a checkpoint at the end "
        "would hold."
    )


def _run(side: ComparedRun) -> Iterator[str]:
    yield Html(f'<a href="{text(side.folder)}/index.html">{text(side.name)}</a>')
    if side.view:
        events = side.view.levels["events"]
        yield from map(measured, (events.average_precision, events.precision, events.recall))
        yield format_percent(side.view.amount.caught_share.value)
    yield from map(format_count, (side.alerts, side.incidents, side.events, side.dead_letters))
    yield f"{number(side.cpu_s)} s"
    yield format_bytes(side.state_bytes)


def _differences(pair: Pair) -> Html:
    columns = ("Measure", pair.first, pair.other, "Difference", "95 % interval", "Verdict")
    return table(
        f"{pair.other} held against {pair.first}, on the same events",
        columns,
        (
            (
                one.measure,
                format_ratio(one.first),
                format_ratio(one.other),
                format_difference(one.difference.value),
                _interval(one.difference),
                _better_side(one, pair),
            )
            for one in pair.differences
        ),
    )


def _interval(difference: Estimate) -> str:
    if difference.low is None or difference.high is None:
        return UNDEFINED
    return f"{format_difference(difference.low)} to {format_difference(difference.high)}"


def _better_side(one: Difference, pair: Pair) -> Html:
    if not one.sign:
        return pill("cannot be told", "same")
    return pill(f"{pair.other if one.sign > 0 else pair.first} is better", "better")


def _curves(page: Page, sides: Sequence[ComparedRun]) -> Html:
    views = [(side.name, side.view) for side in sides if side.view]
    charts = budget_chart(page, views) + precision_recall_chart(page, views)
    return Html(f'<div class="pair">{charts}</div>')


def _scenarios(sides: Sequence[ComparedRun]) -> Html:
    by_side = [
        {one.name: one for one in side.view.scenarios} if side.view else {} for side in sides
    ]
    names = dict.fromkeys(kind for scenarios in by_side for kind in scenarios)
    columns = ["Kind", "Frauds"]
    for side in sides:
        columns += [f"Recall, {side.name}", f"Amount caught, {side.name}"]
    rows = []
    for kind in names:
        found = [scenarios.get(kind) for scenarios in by_side]
        frauds = next(one.frauds for one in found if one)
        cells = (cell for one in found for cell in _caught(one))
        rows.append((kind or "not named", format_count(frauds), *cells))
    return table("Kinds of fraud as the labels name them", columns, rows)


def _caught(scenario: Scenario | None) -> tuple[str, str]:
    if scenario is None:
        return UNDEFINED, UNDEFINED
    return measured(scenario.recall), number(scenario.amount_caught)


# -- overlap --------------------------------------------------------------------------------------


def _overlaps(pairs: Sequence[Pair]) -> Iterator[Html]:
    for pair in pairs:
        yield table(
            f"Alerts of {pair.first} and {pair.other}",
            ("What", "Both", f"Only {pair.first}", f"Only {pair.other}", "In proportion"),
            (
                (
                    _OVERLAP_NAMES[one.what],
                    *(format_count(round(n)) for n in (one.both, one.first_only, one.other_only)),
                    _proportion(one),
                )
                for one in pair.overlaps
            ),
        )
        yield Html(
            '<p class="key"><span class="both">both</span> '
            f'<span class="first">only {text(pair.first)}</span> '
            f'<span class="other">only {text(pair.other)}</span></p>'
        )
        for who, frauds in (
            (pair.first, pair.caught_by_first_only),
            (pair.other, pair.caught_by_other_only),
        ):
            if frauds:
                said = f"The dearest frauds with an alert of {who} alone"
                yield collapsible(said, _frauds_table(said, pair, frauds))


def _proportion(one: Overlap) -> Html:
    """The three parts side by side; the numbers beside it say the same."""
    parts = (("both", one.both), ("first", one.first_only), ("other", one.other_only))
    inner = "".join(
        f'<span class="{kind}" style="flex-grow:{count:g}"></span>'
        for kind, count in parts
        if count
    )
    return Html(f'<span class="parts-of" aria-hidden="true">{inner}</span>')


def _frauds_table(caption: str, pair: Pair, frauds: Sequence[CaughtByOne]) -> Html:
    columns = ("Event", "Time", "Kind", "Amount", f"Score, {pair.first}", f"Score, {pair.other}")
    rows = (
        (
            name(one.event_id),
            at(one.event_time[:16].replace("T", " ")),
            one.scenario or "not named",
            number(one.amount),
            f"{one.first_score:.1f}",
            f"{one.other_score:.1f}",
        )
        for one in frauds
    )
    return table(caption, columns, rows)


# -- drift ----------------------------------------------------------------------------------------


def _drift(page: Page, pairs: Sequence[Pair]) -> Iterator[Html]:
    for index, pair in enumerate(pairs):
        drift = pair.drift
        yield Html(f"<h3>{text(pair.first)} and {text(pair.other)}</h3>")
        yield figures(
            (
                ("rank correlation of the scores", format_value(drift.rank_correlation), ""),
                ("alerts in common", format_percent(drift.alerts_in_common), ""),
                ("population stability index", format_value(drift.population_stability), ""),
                ("events scored by both", format_count(drift.events), ""),
            )
        )
        yield paragraph(
            "A rank correlation of 1 means the same order of events. A stability index below 0.1 is"
            " held for no change of the scores' distribution, above 0.25 for a large one."
        )
        charts = _periods_chart(page, pair, index) + _bands_chart(page, pair, index)
        yield Html(f'<div class="pair">{charts}</div>')


def _periods_chart(page: Page, pair: Pair, index: int) -> Html:
    drift = pair.drift
    at = [one.from_day for one in drift.periods]
    each = "day" if drift.period_days == 1 else f"{drift.period_days} days"
    return curves_chart(
        page,
        f"periods-{index}",
        f"Events with an alert, each {each}, of {pair.first}, of {pair.other} and of both",
        Axis(f"{each} from", dates=True),
        Axis("events with an alert"),
        [
            ChartLine(pair.first, at, [one.first for one in drift.periods]),
            ChartLine(pair.other, at, [one.other for one in drift.periods]),
            ChartLine("both", at, [one.both for one in drift.periods]),
        ],
    )


def _bands_chart(page: Page, pair: Pair, index: int) -> Html:
    bands = pair.drift.bands
    at = [one.score_from for one in bands]
    return curves_chart(
        page,
        f"bands-{index}",
        f"Share of events with at least a score, {pair.first} and {pair.other}",
        Axis("score of at least"),
        Axis("share of events", log=True),
        [
            ChartLine(pair.first, at, [one.first or None for one in bands]),
            ChartLine(pair.other, at, [one.other or None for one in bands]),
        ],
    )


# -- settings -------------------------------------------------------------------------------------


def _settings(comparison: Comparison) -> Iterator[Html]:
    if not comparison.settings:
        yield paragraph("They are the same in everything that steers what is learned.")
        return
    yield table(
        "Settings that steer what is learned",
        ("Setting", *(side.name for side in comparison.runs)),
        (
            (name(one.key), *(name(value or UNDEFINED) for value in one.values))
            for one in comparison.settings
        ),
    )
    if comparison.settings_differing > len(comparison.settings):
        yield paragraph(
            f"They differ in {format_count(comparison.settings_differing)} settings; these are the first."
        )
