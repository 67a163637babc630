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
from stream.alerting import RunInfo
from stream.chain import Chain
from stream.clock import now_text
from stream.config import Config
from stream.errors import ConfigError
from stream.page.demo import Finding, Story, demo_page, first_alert
from stream.replay.incidents import WorstIncidents
from stream.replay.recording import make_folder
from stream.replay.traffic import TrafficCounter
from stream.shard import Emitted
from stream.simulator import Attack, Shop
from stream.words import moment, number, some, surprise

INPUT: Final = "shop"
BATCH_RECORDS: Final = 500
_ROWS_SHOWN: Final = 14
_STYLES: Final = {"low": "dim", "medium": "yellow", "high": "bold yellow", "critical": "bold red"}


@dataclass(slots=True)
class Outcome:
    """What a demo led to. findings: one for each attack, in the order of their beginning.

    counts: of every stage, by its name. seconds: of the fold, without the writing of the page.
    """

    page: Path
    alerts: list[Alert]
    findings: list[Finding]
    counts: dict[str, dict[str, int]]
    seconds: float


@dataclass(slots=True)
class _Watched:
    """What has come out of the shards so far, and what was true of what went in."""

    attack_of: dict[str, Attack] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    traffic: TrafficCounter = field(default_factory=TrafficCounter)
    incidents: WorstIncidents = field(default_factory=WorstIncidents)

    def add(self, emitted: Emitted, late: list[Alert]) -> list[Alert]:
        """Keep a batch's alerts, which are returned, and count its events. late: alerts of monitors
        that judge behind an internal log."""
        alerts = [*emitted.alerts, *late]
        self.alerts += alerts
        self.incidents.add(alerts)
        self.traffic.add(emitted.events.time_ms, emitted.events.type_code)
        return alerts


def run_demo(config: Config, out_dir: Path, events: int, seed: int, console: Console) -> Outcome:
    """Simulate, watch, show; write `index.html` and `alerts.ndjson` into out_dir.

    The configuration must have an input named "shop" in Eddy's own shape.
    """
    if INPUT not in config.inputs:
        raise ConfigError([f"inputs: expected one named {INPUT}, for the simulated shop's events"])
    make_folder(out_dir)
    shop = Shop(events, seed)
    started = perf_counter()
    chain = Chain(config, RunInfo("replay", f"demo-{seed}", now_text))
    watched = _Watched()
    _watch(shop, config.inputs[INPUT].topic, chain, watched, console)
    took_s = perf_counter() - started
    findings = [_finding(attack, watched) for attack in shop.attacks]
    target = out_dir / "index.html"
    outcome = Outcome(target, watched.alerts, findings, _totals(chain), took_s)
    bodies = (alert_record(alert).value + b"\n" for alert in watched.alerts)
    (out_dir / "alerts.ndjson").write_bytes(b"".join(bodies))
    target.write_text(demo_page(_story(outcome, watched, events, seed)), "utf-8")
    _summary(outcome, watched, console)
    return outcome


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
    chain: Chain, shop: Shop, topic: str, watched: _Watched
) -> Iterator[tuple[int, list[Alert]]]:
    """The records of each batch, and its alerts; at the end, those that still waited."""
    until_ms = -math.inf
    for records in _batches(shop, topic, watched.attack_of):
        emitted = chain.put(INPUT, records)
        until_ms = max(until_ms, float(emitted.events.time_ms.max(initial=-1)))
        late, _ = chain.advance(until_ms)
        yield len(records), watched.add(emitted, late)
    late, _ = chain.advance(math.inf)
    watched.alerts += late
    watched.incidents.add(late)
    yield 0, late


def _totals(chain: Chain) -> dict[str, dict[str, int]]:
    """The counters of each stage over all its shards."""
    totals: dict[str, Counter[str]] = {}
    for _, stages in chain.counts():
        for stage, counts in stages.items():
            totals.setdefault(stage, Counter()).update(counts)
    return {stage: dict(counts) for stage, counts in totals.items()}


def _watch(shop: Shop, topic: str, chain: Chain, watched: _Watched, console: Console) -> None:
    batches = _alerts(chain, shop, topic, watched)
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
            live.update(Group(_latest(watched.alerts), progress))


# -- in the terminal ------------------------------------------------------------------------------


def _line(alert: Alert) -> Text:
    """An alert in one plain line; never markup, since an entity's name is anybody's choice."""
    words = "; ".join(surprise(part) for part in alert.contributions[:2])
    return Text(
        f"{moment(alert.event_time_ms)}  {alert.severity:8} {alert.monitor:8} "
        f"{alert.entity.id:20} {alert.score:5.1f}  {words}"
    )


def _latest(alerts: Sequence[Alert]) -> Table:
    table = Table(expand=True, title=f"{len(alerts)} alerts", title_justify="left")
    for name in ("time", "severity", "monitor", "entity", "score"):
        table.add_column(name, no_wrap=True, justify="right" if name == "score" else "left")
    table.add_column("what was surprising", ratio=1, no_wrap=True, overflow="ellipsis")
    for alert in alerts[-_ROWS_SHOWN:]:
        words = "; ".join(surprise(part) for part in alert.contributions[:2])
        table.add_row(
            Text(moment(alert.event_time_ms)),
            Text(alert.severity, _STYLES[alert.severity]),
            *(Text(alert.monitor), Text(alert.entity.id), Text(f"{alert.score:.1f}"), Text(words)),
        )
    return table


def _summary(outcome: Outcome, watched: _Watched, console: Console) -> None:
    table = Table(title="Simulated attacks", title_justify="left")
    for name in ("attack", "who", "verdict", "first alert", "alerts on its events"):
        table.add_column(name, overflow="fold")
    for finding in outcome.findings:
        table.add_row(*(Text(cell) for cell in _told(finding)))
    console.print()
    if outcome.findings:
        console.print(table)
    for line in _counted(outcome, watched):
        console.print(Text(line), soft_wrap=True)


def _told(finding: Finding) -> Iterator[str]:
    yield from (finding.name, finding.entity)
    if not finding.alerts:
        yield from ("missed", "", "none")
        return
    yield "named" if finding.naming else "noticed"
    yield first_alert(finding)
    entities = dict.fromkeys(f"{one.entity.type} {one.entity.id}" for one in finding.alerts)
    more = f" and {len(entities) - 3} more" if len(entities) > 3 else ""
    yield f"{len(finding.alerts)} on {', '.join(list(entities)[:3])}{more}"


def _counted(outcome: Outcome, watched: _Watched) -> Iterator[str]:
    for stage, counts in outcome.counts.items():
        yield f"{stage}: " + ", ".join(f"{name} {number(n)}" for name, n in counts.items() if n)
    hits = len(_hits(watched))
    named = sum(bool(finding.naming) for finding in outcome.findings)
    yield (
        f"{len(outcome.alerts)} alerts: {hits} on events of attackers, "
        f"{len(outcome.alerts) - hits} on others; "
        f"{named} of {len(outcome.findings)} attackers named"
    )
    yield f"{outcome.seconds:.1f} s; the page is {outcome.page}"


# -- against the truth ----------------------------------------------------------------------------


def _hits(watched: _Watched) -> list[Alert]:
    """The alerts on events of attackers."""
    return [alert for alert in watched.alerts if _attacks_of(alert, watched)]


def _attacks_of(alert: Alert, watched: _Watched) -> list[Attack]:
    """The attacks that the alert's events belong to."""
    found = (watched.attack_of.get(one.event_id) for one in alert.evidence)
    return [attack for attack in found if attack]


def _finding(attack: Attack, watched: _Watched) -> Finding:
    """The alerts on the attack's events, or on its entity in another attack's: a stolen card that
    was named while it was tested is not named again when it is used."""
    who = (attack.entity_type, attack.entity_id)
    hits = _hits(watched)
    naming = [alert for alert in hits if (alert.entity.type, alert.entity.id) == who]
    return Finding(
        name=attack.name,
        what=attack.what,
        entity=" ".join(who),
        first_ms=attack.first_ms,
        last_ms=attack.last_ms,
        alerts=[one for one in hits if one in naming or attack in _attacks_of(one, watched)],
        naming=naming,
    )


# -- on the page ----------------------------------------------------------------------------------


def _story(outcome: Outcome, watched: _Watched, events: int, seed: int) -> Story:
    found = sum(bool(finding.alerts) for finding in outcome.findings)
    figures: list[tuple[str, Any]] = [
        (number(events), "events"),
        (number(len(outcome.alerts)), "alerts"),
        (number(watched.incidents.opened), "incidents"),
        (f"{found} of {len(outcome.findings)}", "attacks found"),
        (f"{len(_hits(watched))} of {len(outcome.alerts)}", "alerts on attackers"),
        (number(events / outcome.seconds), "events per second, compiling included"),
    ]
    lead = (
        f"{number(events)} events of a simulated shop (seed {seed}) through the stages that run live. The "
        "models started empty and learned from this stream alone."
    )
    return Story(
        title=(
            f"{found} of {len(outcome.findings)} simulated attacks found by "
            f"{some(len(outcome.alerts), 'alert')}"
        ),
        lead=lead,
        figures=figures,
        traffic=watched.traffic.traffic(),
        alerts=outcome.alerts,
        findings=outcome.findings,
        incidents=watched.incidents.worst(),
        incidents_opened=watched.incidents.opened,
    )
