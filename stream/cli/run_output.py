"""The output of `eddy replay` about a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stream.formatting import escape_control_characters

if TYPE_CHECKING:
    from stream.evaluation.results import Evaluation
    from stream.replay import Summary

LABEL_COUNTS = {
    "with_entity": "name an entity themselves",
    "unknown_event": "of events that were not read",
    "event_without_entity": "of events without an entity that learns from labels",
    "unclear": "neither fraud nor honest, left out",
    "dead_letters": "unreadable",
    "before_event": "older than their event, used at the event's time",
    "after_last_event": "later than the last event: evaluated, not learned",
    "ambiguous": "of an id that several events have, joined to the first",
}
"""Counter of labels → what it counts."""


def print_summary(summary: "Summary", out: Path) -> None:
    """Print the results of a run, and warnings about possible mistakes."""
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if not summary.events:
        typer.echo("warning: no event was read; expected files with records that the mapping reads")
    typer.echo(repeated_event_warning(summary), nl=False)
    typer.echo(describe_time_split(summary))
    duplicates = sum(counts.get("duplicate", 0) for counts in summary.inputs.values())
    if duplicates:
        typer.echo(f"{duplicates:,} duplicates of a recent event, left out")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    for name, counts in summary.labels.items():
        typer.echo(f"{name}: {describe_labels(counts)}")
        if not counts["joined"] + counts["with_entity"] + counts["event_without_entity"]:
            typer.echo(
                f"warning: no label of {name} belongs to these events; expected the same event ids"
            )
    if summary.evaluation is not None:
        typer.echo(describe_evaluation(summary.evaluation))
    late = {name: n for name, counts in summary.monitors.items() if (n := counts.get("late", 0))}
    if late:
        counts_text = ", ".join(f"{count:,} by {name}" for name, count in late.items())
        typer.echo(f"events older than their entity's last event, scored as late: {counts_text}")
    for note in summary.notes:
        typer.echo(escape_control_characters(f"note: {note}"))


def describe_labels(counts: dict[str, int]) -> str:
    """The counters of a label file in one line."""
    joined = f"{counts['read']:,} labels, {counts['joined']:,} joined to their events"
    others = (f"{counts[name]:,} {text}" for name, text in LABEL_COUNTS.items() if counts[name])
    return ", ".join([joined, *others])


def repeated_event_warning(summary: "Summary") -> str:
    """A warning, a line, where an event may have been read from several topics; else ""."""
    monitors = {name for name, counts in summary.monitors.items() if "scored" in counts}
    internal = monitors - summary.adds_up.keys()  # their internal topics were replayed
    if not internal or len(internal) + len(summary.inputs) == 1:
        return ""
    return (
        "warning: an event that is in several of these topics is counted in each and has a row in "
        f"scores.parquet for each (internal: {', '.join(sorted(internal))}); alerts are not "
        "repeated\n"
    )


def describe_time_split(summary: "Summary") -> str:
    """Which events were evaluated, and the alerts on them."""
    span = summary.evaluation_span
    alerts = f"{summary.alerts_published:,} alerts in {summary.incidents_opened:,} incidents"
    if span.from_time is None and span.until_time is None:
        return alerts
    bounds = (("from", span.from_time), ("before", span.until_time))
    period = " and ".join(f"{word} {time}" for word, time in bounds if time)
    line = f"evaluated: {span.events:,} events {period}, {alerts}; all others were only learned"
    if span.events:
        return line
    return f"{line}\nwarning: no event is in the evaluated time; expected a time within the events"


def describe_evaluation(evaluation: "Evaluation") -> str:
    """The main measures in one line, with their intervals."""
    view, level = evaluation.views[0], evaluation.level
    ranked = view.levels[level]
    measures = (
        ("AUC", ranked.roc_auc),
        ("average precision", ranked.average_precision),
        (f"precision of {level} with an alert", ranked.precision),
        ("recall of alerted", ranked.recall),
        ("precision of incidents", view.levels["incidents"].precision),
        ("amount caught", view.amount.caught_share),
    )
    texts = [
        f"{name} {estimate.value:.3f}"
        + (f" ({estimate.low:.3f} to {estimate.high:.3f})" if estimate.low is not None else "")
        for name, estimate in measures
        if estimate.value is not None
    ]
    caught = ""
    if evaluation.events_known:
        caught = f", {evaluation.frauds - evaluation.missed.frauds:,} caught"
    return f"{ranked.frauds:,} frauds in {ranked.count:,} {level}{caught}: {', '.join(texts)}"
