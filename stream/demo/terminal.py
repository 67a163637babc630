"""The demo in the terminal: alerts as they are raised, and a table of the attacks at the end.

Names of entities may be chosen by attackers, so no text is read as markup.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from schemas.alerts import Alert
from stream.formatting import format_contribution, format_time
from stream.report.demo import AttackResult, first_alert_text

ROWS_SHOWN: Final = 14
ENTITIES_SHOWN: Final = 3
STYLES: Final = {"low": "dim", "medium": "yellow", "high": "bold yellow", "critical": "bold red"}


def show_alerts(
    batches: Iterable[tuple[int, list[Alert]]],
    alerts: Sequence[Alert],
    events: int,
    console: Console,
) -> None:
    """Process the batches and show their alerts: a live table in a terminal, else one line each.

    batches: the number of events and the alerts of each. alerts: all alerts so far, which grows
    with the batches. events: of all batches.
    """
    if not console.is_terminal:
        for _, added in batches:
            for alert in added:
                console.print(_alert_line(alert), soft_wrap=True)
        return
    progress = Progress(
        TextColumn("events"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn()
    )
    task = progress.add_task("events", total=events)
    with Live(progress, console=console, refresh_per_second=8) as live:
        for count, _ in batches:
            progress.advance(task, count)
            live.update(Group(_latest_alerts(alerts), progress))


def print_summary(
    attack_results: Sequence[AttackResult], lines: Iterable[str], console: Console
) -> None:
    """Print a table of the attacks, then the lines."""
    console.print()
    if attack_results:
        table = Table(title="Simulated attacks", title_justify="left")
        for name in ("attack", "entity", "result", "first alert", "alerts on its events"):
            table.add_column(name, overflow="fold")
        for result in attack_results:
            table.add_row(*(Text(cell) for cell in _attack_cells(result)))
        console.print(table)
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _alert_line(alert: Alert) -> Text:
    return Text(
        f"{format_time(alert.event_time_ms)}  {alert.severity:8} {alert.monitor:8} "
        f"{alert.entity.id:20} {alert.score:5.1f}  {_reasons(alert)}"
    )


def _latest_alerts(alerts: Sequence[Alert]) -> Table:
    table = Table(expand=True, title=f"{len(alerts)} alerts", title_justify="left")
    for name in ("time", "severity", "monitor", "entity", "score"):
        table.add_column(name, no_wrap=True, justify="right" if name == "score" else "left")
    table.add_column("what was surprising", ratio=1, no_wrap=True, overflow="ellipsis")
    for alert in alerts[-ROWS_SHOWN:]:
        table.add_row(
            Text(format_time(alert.event_time_ms)),
            Text(alert.severity, STYLES[alert.severity]),
            Text(alert.monitor),
            Text(alert.entity.id),
            Text(f"{alert.score:.1f}"),
            Text(_reasons(alert)),
        )
    return table


def _reasons(alert: Alert) -> str:
    return "; ".join(format_contribution(part) for part in alert.contributions[:2])


def _attack_cells(result: AttackResult) -> Iterator[str]:
    yield from (result.name, result.entity, result.outcome)
    if not result.alerts:
        yield from ("", "none")
        return
    yield first_alert_text(result)
    entities = list(
        dict.fromkeys(f"{alert.entity.type} {alert.entity.id}" for alert in result.alerts)
    )
    hidden = len(entities) - ENTITIES_SHOWN
    named = ", ".join(entities[:ENTITIES_SHOWN])
    yield f"{len(result.alerts)} on {named}{f' and {hidden} more' if hidden > 0 else ''}"
