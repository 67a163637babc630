"""The demo: a simulated shop through the stages that run live, its alerts in the terminal and
then on a page.

Only what feeds the stages (an in-memory log) and what shows their results is the demo's own. Here
alone is an alert compared with the truth about the simulated attackers; no stage knows it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from schemas.alerts import Alert, alert_record
from schemas.records import Records
from stream.clock import now_text
from stream.config import Config
from stream.errors import ConfigError
from stream.formatting import format_contribution, format_number, format_quantity, format_time
from stream.pipeline.alerting import RunInfo
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.shard import ShardOutput
from stream.replay.incidents import TopIncidents
from stream.replay.run_files import make_folder
from stream.replay.traffic import TrafficCounter
from stream.report.demo import AttackResult, DemoFacts, first_alert_text, render_demo
from stream.simulator import Attack, Shop

INPUT: Final = "shop"
BATCH_RECORDS: Final = 500
_ROWS_SHOWN: Final = 14
_STYLES: Final = {"low": "dim", "medium": "yellow", "high": "bold yellow", "critical": "bold red"}


@dataclass(slots=True)
class DemoResult:
    """What a demo led to. findings: one for each attack, in the order of their beginning.

    counts: of every stage, by its name. seconds: of the fold, without the writing of the page.
    """

    page: Path
    alerts: list[Alert]
    attack_results: list[AttackResult]
    counts: dict[str, dict[str, int]]
    seconds: float


@dataclass(slots=True)
class _DemoRun:
    """What has come out of the shards so far, and what was true of what went in."""

    attack_of: dict[str, Attack] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    traffic: TrafficCounter = field(default_factory=TrafficCounter)
    incidents: TopIncidents = field(default_factory=TopIncidents)

    def add(self, output: ShardOutput, late: list[Alert]) -> list[Alert]:
        """Keep a batch's alerts, which are returned, and count its events. late: alerts of monitors
        that judge behind an internal log."""
        alerts = [*output.alerts, *late]
        self.alerts += alerts
        self.incidents.add(alerts)
        self.traffic.add(output.events.time_ms, output.events.type_code)
        return alerts


def run_demo(config: Config, out_dir: Path, events: int, seed: int, console: Console) -> DemoResult:
    """Simulate, watch, show; write `index.html` and `alerts.ndjson` into out_dir.

    The configuration must have an input named "shop" in Eddy's own shape.
    """
    if INPUT not in config.inputs:
        raise ConfigError([f"inputs: expected one named {INPUT}, for the simulated shop's events"])
    make_folder(out_dir)
    shop = Shop(events, seed)
    started = perf_counter()
    cluster = InMemoryCluster(config, RunInfo("replay", f"demo-{seed}", now_text))
    run = _DemoRun()
    _run_pipeline(shop, config.inputs[INPUT].topic, cluster, run, console)
    took_s = perf_counter() - started
    attack_results = [_attack_result(attack, run) for attack in shop.attacks]
    target = out_dir / "index.html"
    result = DemoResult(target, run.alerts, attack_results, _totals(cluster), took_s)
    bodies = (alert_record(alert).value + b"\n" for alert in run.alerts)
    (out_dir / "alerts.ndjson").write_bytes(b"".join(bodies))
    target.write_text(render_demo(_demo_facts(result, run, events, seed)), "utf-8")
    _summary(result, run, console)
    return result


# -- the in-memory log ----------------------------------------------------------------------------


def _batches(shop: Shop, topic: str, attack_of: dict[str, Attack]) -> Iterator[Records]:
    """The shop's events as records of one partition; attack_of learns the truth beside them."""
    events = shop.events()
    first = 0
    while batch := list(islice(events, BATCH_RECORDS)):
        attack_of.update({event["event_id"]: attack for event, attack in batch if attack})
        yield Records(
            topic=topic,
            partition=0,
            offset=np.arange(first, first + len(batch)),
            timestamp_ms=np.array([event["time"] for event, _ in batch], np.int64),
            values=[orjson.dumps(event) for event, _ in batch],
        )
        first += len(batch)


def _alerts(
    cluster: InMemoryCluster, shop: Shop, topic: str, run: _DemoRun
) -> Iterator[tuple[int, list[Alert]]]:
    """The records of each batch, and its alerts; at the end, those that still waited."""
    until_ms = -math.inf
    for records in _batches(shop, topic, run.attack_of):
        output = cluster.put(INPUT, records)
        until_ms = max(until_ms, float(output.events.time_ms.max(initial=-1)))
        late, _ = cluster.advance(until_ms)
        yield len(records), run.add(output, late)
    late, _ = cluster.advance(math.inf)
    run.alerts += late
    run.incidents.add(late)
    yield 0, late


def _totals(cluster: InMemoryCluster) -> dict[str, dict[str, int]]:
    """The counters of each stage over all its shards."""
    totals: dict[str, Counter[str]] = {}
    for _, stages in cluster.counts():
        for stage, counts in stages.items():
            totals.setdefault(stage, Counter()).update(counts)
    return {stage: dict(counts) for stage, counts in totals.items()}


def _run_pipeline(
    shop: Shop, topic: str, cluster: InMemoryCluster, run: _DemoRun, console: Console
) -> None:
    batches = _alerts(cluster, shop, topic, run)
    if not console.is_terminal:
        for _, alerts in batches:
            for alert in alerts:
                console.print(_line(alert), soft_wrap=True)
        return
    progress = Progress(
        TextColumn("events"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn()
    )
    task = progress.add_task("events", total=shop.count)
    with Live(progress, console=console, refresh_per_second=8) as live:
        for count, _ in batches:
            progress.advance(task, count)
            live.update(Group(_latest(run.alerts), progress))


# -- in the terminal ------------------------------------------------------------------------------


def _line(alert: Alert) -> Text:
    """An alert in one plain line; never markup, since an entity's name is anybody's choice."""
    words = "; ".join(format_contribution(part) for part in alert.contributions[:2])
    return Text(
        f"{format_time(alert.event_time_ms)}  {alert.severity:8} {alert.monitor:8} "
        f"{alert.entity.id:20} {alert.score:5.1f}  {words}"
    )


def _latest(alerts: Sequence[Alert]) -> Table:
    table = Table(expand=True, title=f"{len(alerts)} alerts", title_justify="left")
    for name in ("time", "severity", "monitor", "entity", "score"):
        table.add_column(name, no_wrap=True, justify="right" if name == "score" else "left")
    table.add_column("what was surprising", ratio=1, no_wrap=True, overflow="ellipsis")
    for alert in alerts[-_ROWS_SHOWN:]:
        words = "; ".join(format_contribution(part) for part in alert.contributions[:2])
        table.add_row(
            Text(format_time(alert.event_time_ms)),
            Text(alert.severity, _STYLES[alert.severity]),
            *(Text(alert.monitor), Text(alert.entity.id), Text(f"{alert.score:.1f}"), Text(words)),
        )
    return table


def _summary(result: DemoResult, run: _DemoRun, console: Console) -> None:
    table = Table(title="Simulated attacks", title_justify="left")
    for name in ("attack", "who", "verdict", "first alert", "alerts on its events"):
        table.add_column(name, overflow="fold")
    for attack_result in result.attack_results:
        table.add_row(*(Text(cell) for cell in _table_row(attack_result)))
    console.print()
    if result.attack_results:
        console.print(table)
    for line in _summary_lines(result, run):
        console.print(Text(line), soft_wrap=True)


def _table_row(attack_result: AttackResult) -> Iterator[str]:
    yield from (attack_result.name, attack_result.entity)
    if not attack_result.alerts:
        yield from ("missed", "", "none")
        return
    yield "named" if attack_result.naming_alerts else "noticed"
    yield first_alert_text(attack_result)
    entities = dict.fromkeys(f"{one.entity.type} {one.entity.id}" for one in attack_result.alerts)
    more = f" and {len(entities) - 3} more" if len(entities) > 3 else ""
    yield f"{len(attack_result.alerts)} on {', '.join(list(entities)[:3])}{more}"


def _summary_lines(result: DemoResult, run: _DemoRun) -> Iterator[str]:
    for stage, counts in result.counts.items():
        yield f"{stage}: " + ", ".join(
            f"{name} {format_number(n)}" for name, n in counts.items() if n
        )
    on_attacks = len(_alerts_on_attacks(run))
    named = sum(bool(attack_result.naming_alerts) for attack_result in result.attack_results)
    yield (
        f"{len(result.alerts)} alerts: {on_attacks} on events of attackers, "
        f"{len(result.alerts) - on_attacks} on others; "
        f"{named} of {len(result.attack_results)} attackers named"
    )
    yield f"{result.seconds:.1f} s; the page is {result.page}"


# -- against the truth ----------------------------------------------------------------------------


def _alerts_on_attacks(run: _DemoRun) -> list[Alert]:
    """The alerts on events of attackers."""
    return [alert for alert in run.alerts if _attacks_of(alert, run)]


def _attacks_of(alert: Alert, run: _DemoRun) -> list[Attack]:
    """The attacks that the alert's events belong to."""
    found = (run.attack_of.get(one.event_id) for one in alert.evidence)
    return [attack for attack in found if attack]


def _attack_result(attack: Attack, run: _DemoRun) -> AttackResult:
    """The alerts on the attack's events, or on its entity in another attack's: a stolen card that
    was named while it was tested is not named again when it is used."""
    who = (attack.entity_type, attack.entity_id)
    on_attacks = _alerts_on_attacks(run)
    naming_alerts = [alert for alert in on_attacks if (alert.entity.type, alert.entity.id) == who]
    return AttackResult(
        name=attack.name,
        description=attack.description,
        entity=" ".join(who),
        first_ms=attack.first_ms,
        last_ms=attack.last_ms,
        alerts=[
            one for one in on_attacks if one in naming_alerts or attack in _attacks_of(one, run)
        ],
        naming_alerts=naming_alerts,
    )


# -- on the page ----------------------------------------------------------------------------------


def _demo_facts(result: DemoResult, run: _DemoRun, events: int, seed: int) -> DemoFacts:
    found = sum(bool(attack_result.alerts) for attack_result in result.attack_results)
    figures: list[tuple[str, Any]] = [
        (format_number(events), "events"),
        (format_number(len(result.alerts)), "alerts"),
        (format_number(run.incidents.opened), "incidents"),
        (f"{found} of {len(result.attack_results)}", "attacks found"),
        (f"{len(_alerts_on_attacks(run))} of {len(result.alerts)}", "alerts on attackers"),
        (format_number(events / result.seconds), "events per second, compiling included"),
    ]
    lead = (
        f"{format_number(events)} events of a simulated shop (seed {seed}) through the stages that run live. The "
        "models started empty and learned from this stream alone."
    )
    return DemoFacts(
        title=(
            f"{found} of {len(result.attack_results)} simulated attacks found by "
            f"{format_quantity(len(result.alerts), 'alert')}"
        ),
        lead=lead,
        figures=figures,
        traffic=run.traffic.traffic(),
        alerts=result.alerts,
        attack_results=result.attack_results,
        incidents=run.incidents.top(),
        incidents_opened=run.incidents.opened,
    )
