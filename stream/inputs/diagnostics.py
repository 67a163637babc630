"""Detects likely mistakes in the mapping of a live worker's inputs.

They appear as log lines, metrics and reasons for not being ready; `stream.replay.notes` reports the
same of a replay. A problem names the position of an example record, and never shows the value of an
entity field or of a text that may be one.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import structlog

from schemas.codecs.decoded import path_text
from schemas.columns import EventBatch
from schemas.dead_letters import DeadLetter
from schemas.events import LABEL_TYPE
from schemas.labels import LABEL_FIELDS, is_known_verdict
from schemas.mapping import compile_mapping
from schemas.records import Records
from stream.clock import format_time_ms
from stream.config import Config, extracted_fields
from stream.config.topology import Log
from stream.inputs.partitioning import find_misplaced
from stream.pipeline.shard import ShardOutput
from stream.telemetry.collector import MetricsCollector

logger = structlog.stdlib.get_logger(__name__)

RECORDS_MIN: Final = 1_000
"""After so many events without a mapped field, or that a monitor does not score, there is a problem;
after so many dead letters in a row, the worker is not ready."""
SECONDS_SUSPECTED_BELOW_MS: Final = 365 * 86_400_000
"""Times before 1971 are most often seconds that were read as milliseconds."""
SECONDS_HINT: Final = (
    'where the times are seconds, expected fields.time = { path = "…", unit = "s" }'
)
MISPLACED_KEYS: Final = (
    "keyed_by is wrong: events are in another partition than the partitioner gives their key, so "
    "that each partition learns such an entity separately. Correct keyed_by or partitioner of the input, or remove "
    "both: then its monitors read internal topics"
)
InputProblemKind = Literal[
    "all_dead_letters",
    "field_absent",
    "times_in_seconds",
    "labels_unclear",
    "monitor_scores_nothing",
]


class InputProblem(NamedTuple):
    """A likely mistake. of: the input or the monitor. about: the field, "" where it is not about one."""

    of: str
    kind: InputProblemKind
    about: str
    text: str


@dataclass(slots=True)
class _InputSummary:
    """What is known of one input's records so far.

    absent: `mapped_fields` that no event had. dead_letters_in_a_row: how many of the last records,
    without another between them. example, unclear_example: positions of records.
    """

    absent: dict[str, str]
    events: int = 0
    example: str = ""
    last_ms: int | None = None
    unclear_labels: int = 0
    unclear_example: str = ""
    dead_letters: dict[str, int] = field(default_factory=dict)
    dead_letters_in_a_row: int = 0
    last_dead_letter: str = ""


class InputDiagnostics:
    """Observes everything that a worker processes. Not thread-safe."""

    def __init__(self, config: Config, metrics: MetricsCollector) -> None:
        self._config = config
        self._metrics = metrics
        self._inputs: dict[str, _InputSummary] = {}
        self._logged: set[tuple[str, str, str]] = set()
        self._repaired: set[tuple[str, str, str]] = set()
        self._misplaced_logged: set[tuple[str, int]] = set()

    def observe(self, read: Log, records: Records, output: ShardOutput) -> None:
        """Observe a batch of an input and its output; internal topics are ignored."""
        if read.internal:
            return
        summary = self._inputs.get(read.name)
        if summary is None:
            summary = self._inputs[read.name] = _InputSummary(
                mapped_fields(self._config, read.name)
            )
        for letter in output.dead_letters:
            if letter.event_kept:
                self._log_repair(read.name, letter)
        dead_letters = [one for one in output.dead_letters if not one.event_kept]
        self._count_dead_letters(read.name, summary, records, dead_letters)
        if len(output.events):
            _count_events(summary, output.events)
            self._check_keys(read.name, output.events)

    def _check_keys(self, name: str, events: EventBatch) -> None:
        """Count events in another partition than their key's; log the first of each partition."""
        found = find_misplaced(events, self._config.inputs[name])
        if not len(found.rows):
            return
        count, first = len(found.rows), int(found.rows[0])
        self._metrics.add("eddy_keys_misplaced", count)
        topic, partition = misplaced_in = events.sources[int(events.source[first])]
        if misplaced_in not in self._misplaced_logged:
            self._misplaced_logged.add(misplaced_in)
            logger.warning(
                MISPLACED_KEYS,
                topic=topic,
                partition=partition,
                offset=int(events.offset[first]),
                checked=found.checked,
                misplaced=count,
            )

    def _log_repair(self, name: str, letter: DeadLetter) -> None:
        """Log the first repair of each field and code; `eddy_field_repaired` counts them all."""
        headers = dict(letter.headers)
        of_event, code = headers["eddy-field"].decode(), headers["eddy-code"].decode()
        if (key := (name, of_event, code)) not in self._repaired:
            self._repaired.add(key)
            example = _example(letter, headers)
            logger.warning("field repaired", input=name, field=of_event, code=code, example=example)

    def _count_dead_letters(
        self, name: str, summary: _InputSummary, records: Records, dead_letters: list[DeadLetter]
    ) -> None:
        """Count dead letters; log the first of each code, the tenth, the hundredth and so on."""
        if not dead_letters:
            summary.dead_letters_in_a_row = 0
            return
        for letter in dead_letters:
            headers = dict(letter.headers)
            code = headers["eddy-code"].decode()
            count = summary.dead_letters[code] = summary.dead_letters.get(code, 0) + 1
            if count == 10 ** (len(str(count)) - 1):
                example = _example(letter, headers)
                logger.warning("dead letters", input=name, code=code, count=count, example=example)
        summary.last_dead_letter = _example(dead_letters[-1], dict(dead_letters[-1].headers))
        refused = {int(dict(letter.headers)["eddy-offset"]) for letter in dead_letters}
        at_end = 0
        for offset in reversed(records.offset.tolist()):
            if offset not in refused:
                break
            at_end += 1
        all_dead = at_end == len(records)
        summary.dead_letters_in_a_row = at_end + (summary.dead_letters_in_a_row if all_dead else 0)

    def problems(self, counts: Iterable[Mapping[str, Mapping[str, int]]]) -> list[InputProblem]:
        """The present problems; a new one is logged. counts: of every shard, by stage."""
        found = [
            one for name, summary in self._inputs.items() for one in self._of_input(name, summary)
        ]
        found += self._of_monitors(counts)
        for one in found:
            if one[:3] not in self._logged:
                self._logged.add(one[:3])
                logger.warning("input problem", name=one.of, problem=one.kind, detail=one.text)
        self._logged &= {one[:3] for one in found}  # one that comes back is logged again
        return found

    @staticmethod
    def reasons_not_ready(problems: Iterable[InputProblem]) -> list[str]:
        """A line for each problem that makes a worker not ready."""
        return [f"{one.of}: {one.text}" for one in problems if one.kind == "all_dead_letters"]

    def _of_input(self, name: str, summary: _InputSummary) -> list[InputProblem]:
        found: list[InputProblem] = []
        if summary.dead_letters_in_a_row >= RECORDS_MIN:
            text = f"the last {RECORDS_MIN:,} records were all dead letters, such as {summary.last_dead_letter}"
            found.append(InputProblem(name, "all_dead_letters", "", text))
        if summary.events >= RECORDS_MIN:
            for one, paths in summary.absent.items():
                text = (
                    f"none of {summary.events:,} events has {one}, mapped from {paths}, such as "
                    f"{summary.example}; {misspelling_hint(name, one)}"
                )
                found.append(InputProblem(name, "field_absent", one, text))
        if (
            summary.events >= RECORDS_MIN
            and summary.last_ms is not None
            and summary.last_ms < SECONDS_SUSPECTED_BELOW_MS
        ):
            text = (
                f"the latest of {summary.events:,} events is of {format_time_ms(summary.last_ms)}, such as "
                f"{summary.example}; {SECONDS_HINT}"
            )
            found.append(InputProblem(name, "times_in_seconds", "", text))
        if summary.unclear_labels:
            text = (
                f"{summary.unclear_labels:,} labels are neither fraud nor honest, such as "
                f"{summary.unclear_example}: nothing is learned from them; translate them by "
                f"inputs.{name}.fields.verdict"
            )
            found.append(InputProblem(name, "labels_unclear", "", text))
        return found

    def _of_monitors(self, counts: Iterable[Mapping[str, Mapping[str, int]]]) -> list[InputProblem]:
        scored: dict[str, int] = {}
        passed: dict[str, int] = {}
        for stages in counts:
            for stage, each in stages.items():
                scored[stage] = scored.get(stage, 0) + each.get("scored", 0) + each.get("sent", 0)
                passed[stage] = passed.get(stage, 0) + each.get("not_applicable", 0)
        return [
            InputProblem(
                monitor.name,
                "monitor_scores_nothing",
                "",
                f"monitor {monitor.name} scored none of {passed[monitor.name]:,} events: expected that "
                f"some have its entity, {monitor.entity}, and match its where",
            )
            for monitor in self._config.monitors
            if passed.get(monitor.name, 0) >= RECORDS_MIN and not scored[monitor.name]
        ]


def _count_events(summary: _InputSummary, events: EventBatch) -> None:
    if not summary.example:
        summary.example = record_position(events, 0)
    summary.events += len(events)
    for name in present_fields(events, summary.absent.keys()):
        del summary.absent[name]
    behaviour = events.type_code != LABEL_TYPE
    if behaviour.any():
        last_ms = int(events.time_ms[behaviour].max())
        summary.last_ms = last_ms if summary.last_ms is None else max(summary.last_ms, last_ms)
    if not behaviour.all() and "verdict" in events.text:
        unclear_labels = np.flatnonzero(~behaviour & ~is_known_verdict(events.text["verdict"]))
        if len(unclear_labels) and not summary.unclear_example:
            summary.unclear_example = record_position(events, int(unclear_labels[0]))
        summary.unclear_labels += len(unclear_labels)


def _example(letter: DeadLetter, headers: Mapping[str, bytes]) -> str:
    """The position and the fault of a dead letter, which shows no value of an entity field."""
    topic, partition, offset = (
        headers[name].decode() for name in ("eddy-topic", "eddy-partition", "eddy-offset")
    )
    message = headers["eddy-message"].decode("utf-8", "replace")
    return f"{topic}[{partition}] at offset {offset}: {message}{registry_hint(letter)}"


# -- shared with the notes of a replay ------------------------------------------------------------


def mapped_fields(config: Config, name: str) -> dict[str, str]:
    """The fields that an input maps and its records should have, each with its paths. Empty for an
    input of labels, which may name only an event."""
    spec = config.inputs[name]
    if spec.type == "label" or not spec.fields:
        return {}
    names = sorted({*extracted_fields(config, name)} & {*spec.fields} - {*LABEL_FIELDS})
    mapped = compile_mapping(spec.layout, spec.type, spec.fields, names).fields
    return {
        one: " or ".join(map(path_text, mapped[one].paths)) for one in names if mapped[one].paths
    }


def misspelling_hint(name: str, field_name: str) -> str:
    """The remedy for a mapped field that no event has."""
    key = f"inputs.{name}.fields.{field_name}"
    return f"expected {key} to name a field of the records, spelled as there"


def present_fields(events: EventBatch, names: AbstractSet[str]) -> set[str]:
    """The fields among `names` that at least one event has."""
    text = {n for n in names & events.text.keys() if events.text[n].null_count < len(events)}
    return text | {n for n in names & events.number.keys() if not np.isnan(events.number[n]).all()}


def record_position(events: EventBatch, row: int) -> str:
    """The position of an event's record."""
    topic, partition = events.sources[int(events.source[row])]
    return f"{topic}[{partition}] at offset {int(events.offset[row])}"


def registry_hint(letter: DeadLetter) -> str:
    """A hint, if a malformed record looks as if a client of a schema registry wrote it."""
    if dict(letter.headers)["eddy-code"] == b"malformed" and letter.value[:1] == b"\0":
        return "; it begins with a zero byte, like values written with a schema registry"
    return ""
