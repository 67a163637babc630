"""The summary of a run: counters that add up, alerts a day, the range of event times, the evaluation."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from schemas.alerts import Alert
from schemas.columns import EventBatch
from schemas.events import LABEL_TYPE
from stream.clock import format_time_ms
from stream.config import Config, fingerprint
from stream.config.stage_graph import nodes, scoring_nodes
from stream.evaluation.conclusions import no_evaluation_reason, run_headline
from stream.evaluation.results import Evaluation
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.shard import ShardOutput
from stream.replay.incidents import Incident, OpenedIncidents
from stream.replay.time_split import UNBOUNDED, EvaluationSpan
from stream.replay.traffic import Traffic, TrafficCounter

DAY_MS: Final = 86_400_000

Counts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEvents:
    """The evaluated events, and the alerts on them.

    from_time, until_time: they are from from_time on and before until_time; null where there is no bound.
    events: their number. alerts: monitor → alerts on them. alerts_per_day: monitor → alerts per day
    between the first and the last evaluated event; null if that time is empty.
    """

    from_time: str | None
    until_time: str | None
    events: int
    alerts: Counts
    alerts_per_day: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The results of a replay; `summary.json` holds the same.

    name: the group of the configuration; in a comparison, the name of its file.
    inputs: input → counters of the route stage, summed over partitions. monitors: monitor → counters of
    its watch stage, and "assess" → counters of assess. adds_up: monitor → whether read = scored + not applicable + labels +
    duplicate + tombstone + dead letters; without monitors whose internal topic was replayed. alerts:
    monitor → alerts at any time. evaluation_span: the evaluated time, with its events and alerts.
    alerts_published, incidents_opened: the number of alerts and of incidents in the evaluated time;
    incidents: those of them with the highest scores. labels:
    input → counts of a label file. labels_accepted: labels with a verdict, from files and from the
    events. evaluation: measures against the labels, null without labels; no_evaluation_reason: why it
    is null. notes: warnings about the inputs, a sentence each. headline: the result in one sentence.
    Times are ISO 8601, null if there was no event.
    """

    name: str
    headline: str
    no_evaluation_reason: str | None
    notes: list[str]
    fingerprint: str
    inputs: dict[str, Counts]
    monitors: dict[str, Counts]
    adds_up: dict[str, bool]
    events: int
    alerts: Counts
    alerts_published: int
    incidents_opened: int
    evaluation_span: EvaluatedEvents
    dead_letters: int
    labels: dict[str, Counts]
    labels_accepted: int
    first_event_time: str | None
    last_event_time: str | None
    seconds: float
    events_per_s: float
    traffic: Traffic
    incidents: list[Incident]
    evaluation: Evaluation | None


@dataclass(slots=True)
class Tally:
    """Counts over all batches, then over all shards. evaluated_events, evaluated_alerts: those in the
    span. inputs, monitors, adds_up: as in a summary."""

    span: EvaluationSpan = UNBOUNDED
    events: int = 0
    evaluated_events: int = 0
    dead_letters: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    evaluated_alerts: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counts] = field(default_factory=dict)
    labels_accepted: int = 0
    notes: list[str] = field(default_factory=list)
    first_ms: int | None = None
    last_ms: int | None = None
    traffic: TrafficCounter = field(default_factory=TrafficCounter)
    inputs: dict[str, Counter[str]] = field(default_factory=dict)
    monitors: dict[str, Counter[str]] = field(default_factory=dict)
    adds_up: dict[str, bool] = field(default_factory=dict)

    def add(self, output: ShardOutput) -> None:
        """Count one batch."""
        self.dead_letters += sum(not letter.event_kept for letter in output.dead_letters)
        self.add_alerts(output.alerts)
        if (events := output.event_columns) is not None:
            self._add_events(events)

    def _add_events(self, events: EventBatch) -> None:
        """Count events without labels, which often become known long after their events."""
        behaviour = events.type_code != LABEL_TYPE
        times = events.time_ms[behaviour]
        self.events += len(times)
        self.evaluated_events += int(np.count_nonzero(self.span.contains(times)))
        self.traffic.add(times, events.type_code[behaviour])
        if len(times):
            earlier = [ms for ms in (self.first_ms, self.last_ms) if ms is not None]
            self.first_ms = min([int(times.min()), *earlier])
            self.last_ms = max([int(times.max()), *earlier])

    def add_alerts(self, alerts: list[Alert]) -> None:
        """Count alerts."""
        self.alerts.update(alert.monitor for alert in alerts)
        in_span = self.span.contains(np.array([alert.event_time_ms for alert in alerts], np.int64))
        self.evaluated_alerts.update(alerts[i].monitor for i in np.flatnonzero(in_span).tolist())
        self.traffic.add_alerts(alerts)

    def add_shards(self, config: Config, cluster: InMemoryCluster) -> None:
        """Add the counters of every shard, at the end."""
        input_stages = {node.name for node in nodes(config) if node.reads_inputs}
        for log, stages in cluster.counts():
            for stage, counts in stages.items():
                totals, key = (
                    (self.inputs, log.name) if stage in input_stages else (self.monitors, stage)
                )
                totals.setdefault(key, Counter()).update(counts)
        no_counts = Counter[str]()
        for monitor in config.monitors:
            if monitor.name not in cluster.recorded_names:  # its events were counted in another run
                routed = (self.inputs.get(name, no_counts) for name in monitor.inputs)
                self.adds_up[monitor.name] = _adds_up(
                    self.monitors.get(monitor.name, no_counts), sum(routed, no_counts)
                )


def summarize(
    name: str,
    config: Config,
    tally: Tally,
    opened: OpenedIncidents,
    evaluation: Evaluation | None,
    seconds: float,
) -> Summary:
    """The summary of a run, from its tally, incidents and evaluation."""
    names = [node.name for node in scoring_nodes(config)]
    alerts = {name: tally.evaluated_alerts[name] for name in names}
    labels_accepted = tally.labels_accepted
    labels_read = max(sum(counts["read"] for counts in tally.labels.values()), labels_accepted)
    return Summary(
        name=name,
        headline=run_headline(evaluation, tally.evaluated_alerts.total(), opened.total),
        no_evaluation_reason=None
        if evaluation
        else no_evaluation_reason(labels_read, labels_accepted),
        notes=tally.notes,
        fingerprint=fingerprint(config),
        inputs={name: dict(counts) for name, counts in tally.inputs.items()},
        monitors={name: dict(counts) for name, counts in tally.monitors.items()},
        adds_up=tally.adds_up,
        events=tally.events,
        alerts={name: tally.alerts[name] for name in names},
        alerts_published=tally.evaluated_alerts.total(),
        incidents_opened=opened.total,
        evaluation_span=EvaluatedEvents(
            from_time=_iso(tally.span.from_ms),
            until_time=_iso(tally.span.until_ms),
            events=tally.evaluated_events,
            alerts=alerts,
            alerts_per_day={name: _per_day(count, tally) for name, count in alerts.items()},
        ),
        dead_letters=tally.dead_letters,
        labels=tally.labels,
        labels_accepted=labels_accepted,
        first_event_time=_iso(tally.first_ms),
        last_event_time=_iso(tally.last_ms),
        seconds=round(seconds, 3),
        events_per_s=round(tally.events / seconds, 1),
        traffic=tally.traffic.traffic(),
        incidents=opened.incidents,
        evaluation=evaluation,
    )


def _per_day(alerts: int, tally: Tally) -> float | None:
    if tally.first_ms is None or tally.last_ms is None:
        return None
    span = tally.span
    first_ms = max(tally.first_ms, tally.first_ms if span.from_ms is None else span.from_ms)
    last_ms = min(tally.last_ms, tally.last_ms if span.until_ms is None else span.until_ms)
    return alerts * DAY_MS / (last_ms - first_ms) if last_ms > first_ms else None


def _adds_up(watched: Counter[str], routed: Counter[str]) -> bool:
    """Guarantee 3: every record read has exactly one outcome."""
    dead_letters = sum(n for name, n in routed.items() if name.startswith("dead_letter_"))
    not_passed = routed["duplicate"] + routed["tombstone"] + dead_letters
    passed = watched["scored"] + watched["not_applicable"] + watched["labels"]
    return routed["read"] == passed + not_passed


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else format_time_ms(time_ms)
