"""A run of the demo: simulate, process, compare with the attacks, write the results."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
import orjson
from rich.console import Console

from schemas.alerts import Alert, alert_record
from schemas.records import Records
from stream.clock import now_text
from stream.config import Config
from stream.demo.terminal import print_summary, show_alerts
from stream.errors import ConfigError
from stream.formatting import format_number, format_quantity
from stream.pipeline.alerting import RunInfo
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.shard import ShardOutput
from stream.replay.incidents import TopIncidents
from stream.replay.run_files import make_folder
from stream.replay.traffic import TrafficCounter
from stream.report.demo import AttackResult, DemoFacts, render_demo
from stream.simulator import Attack, Shop

INPUT: Final = "shop"
BATCH_RECORDS: Final = 500


@dataclass(slots=True)
class DemoResult:
    """The result of a demo.

    attack_results: one for each attack, in the order in which they begin. alerts_on_attacks: alerts
    on events of attackers. counts: counters by stage. seconds: processing time, without the page.
    """

    page: Path
    alerts: list[Alert]
    attack_results: list[AttackResult]
    alerts_on_attacks: int
    counts: dict[str, dict[str, int]]
    seconds: float


@dataclass(slots=True)
class _Collected:
    """The alerts and counts of a demo so far. attack_of: event id → the attack it belongs to."""

    attack_of: dict[str, Attack] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    traffic: TrafficCounter = field(default_factory=TrafficCounter)
    incidents: TopIncidents = field(default_factory=TopIncidents)

    def add(self, output: ShardOutput, from_internal_topics: list[Alert]) -> list[Alert]:
        """Add a batch's output and the alerts of monitors on internal topics; return all alerts."""
        alerts = [*output.alerts, *from_internal_topics]
        self.alerts += alerts
        self.incidents.add(alerts)
        self.traffic.add(output.events.time_ms, output.events.type_code)
        return alerts

    def alerts_on_attacks(self) -> list[Alert]:
        """The alerts on events of attackers."""
        return [alert for alert in self.alerts if self.attacks_of(alert)]

    def attacks_of(self, alert: Alert) -> list[Attack]:
        """The attacks to which the alert's events belong."""
        attacks = (self.attack_of.get(event.event_id) for event in alert.evidence)
        return [attack for attack in attacks if attack]


def run_demo(config: Config, out_dir: Path, events: int, seed: int, console: Console) -> DemoResult:
    """Simulate a shop, process its events and show the alerts; write `index.html` and
    `alerts.ndjson` into `out_dir`.

    The configuration must have an input named "shop" without a mapping.
    """
    if INPUT not in config.inputs:
        raise ConfigError([f"inputs: expected one named {INPUT}, for the simulated shop's events"])
    make_folder(out_dir)
    shop = Shop(events, seed)
    started = perf_counter()
    cluster = InMemoryCluster(config, RunInfo("replay", f"demo-{seed}", now_text))
    collected = _Collected()
    batches = _alerts(cluster, shop, config.inputs[INPUT].topic, collected)
    show_alerts(batches, collected.alerts, shop.count, console)
    result = DemoResult(
        out_dir / "index.html",
        collected.alerts,
        [_attack_result(attack, collected) for attack in shop.attacks],
        len(collected.alerts_on_attacks()),
        _total_counts(cluster),
        perf_counter() - started,
    )
    bodies = (alert_record(alert).value + b"\n" for alert in result.alerts)
    (out_dir / "alerts.ndjson").write_bytes(b"".join(bodies))
    result.page.write_text(render_demo(_demo_facts(result, collected, events, seed)), "utf-8")
    print_summary(result.attack_results, _summary_lines(result), console)
    return result


def _batches(shop: Shop, topic: str, attack_of: dict[str, Attack]) -> Iterator[Records]:
    """The shop's events as records of one partition; their attacks are added to `attack_of`."""
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
    cluster: InMemoryCluster, shop: Shop, topic: str, collected: _Collected
) -> Iterator[tuple[int, list[Alert]]]:
    """The number of records of each batch and its alerts; last, the alerts still pending."""
    until_ms = -math.inf
    for records in _batches(shop, topic, collected.attack_of):
        output = cluster.process_and_enqueue(INPUT, records)
        until_ms = max(until_ms, float(output.events.time_ms.max(initial=-1)))
        from_internal_topics = cluster.advance(until_ms).alerts
        yield len(records), collected.add(output, from_internal_topics)
    pending = cluster.advance(math.inf).alerts
    collected.alerts += pending
    collected.incidents.add(pending)
    yield 0, pending


def _total_counts(cluster: InMemoryCluster) -> dict[str, dict[str, int]]:
    """The counters of each stage, summed over its shards."""
    totals: dict[str, Counter[str]] = {}
    for _, stages in cluster.counts():
        for stage, counts in stages.items():
            totals.setdefault(stage, Counter()).update(counts)
    return {stage: dict(counts) for stage, counts in totals.items()}


def _attack_result(attack: Attack, collected: _Collected) -> AttackResult:
    """The result of an attack: the alerts on its events, and alerts on its entity in other attacks. A
    stolen card that had an alert while it was tested has no new alert when it is used."""
    entity = (attack.entity_type, attack.entity_id)
    alerts = collected.alerts_on_attacks()
    naming = [alert for alert in alerts if (alert.entity.type, alert.entity.id) == entity]
    return AttackResult(
        name=attack.name,
        description=attack.description,
        entity=" ".join(entity),
        first_ms=attack.first_ms,
        last_ms=attack.last_ms,
        alerts=[
            alert for alert in alerts if alert in naming or attack in collected.attacks_of(alert)
        ],
        naming_alerts=naming,
    )


def _summary_lines(result: DemoResult) -> Iterator[str]:
    for stage, counts in result.counts.items():
        counted = (f"{name} {format_number(n)}" for name, n in counts.items() if n)
        yield f"{stage}: {', '.join(counted)}"
    named = sum(bool(attack.naming_alerts) for attack in result.attack_results)
    yield (
        f"{len(result.alerts)} alerts: {result.alerts_on_attacks} on events of attackers, "
        f"{len(result.alerts) - result.alerts_on_attacks} on others; "
        f"{named} of {len(result.attack_results)} attackers named"
    )
    yield f"{result.seconds:.1f} s; the page is {result.page}"


def _demo_facts(result: DemoResult, collected: _Collected, events: int, seed: int) -> DemoFacts:
    noticed = sum(bool(attack.alerts) for attack in result.attack_results)
    return DemoFacts(
        title=(
            f"{noticed} of {len(result.attack_results)} simulated attacks found by "
            f"{format_quantity(len(result.alerts), 'alert')}"
        ),
        lead=(
            f"{format_number(events)} events of a simulated shop (seed {seed}) through the stages "
            "that run live. The models started empty and learned from this stream alone."
        ),
        figures=[
            (format_number(events), "events"),
            (format_number(len(result.alerts)), "alerts"),
            (format_number(collected.incidents.opened), "incidents"),
            (f"{noticed} of {len(result.attack_results)}", "attacks found"),
            (f"{result.alerts_on_attacks} of {len(result.alerts)}", "alerts on attackers"),
            (format_number(events / result.seconds), "events per second, compiling included"),
        ],
        traffic=collected.traffic.traffic(),
        alerts=result.alerts,
        attack_results=result.attack_results,
        incidents=collected.incidents.top(),
        incidents_opened=collected.incidents.opened,
    )
