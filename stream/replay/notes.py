"""Notes of a replay, one sentence each: signs that a mapping is wrong or that a part of the
configuration has no effect.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from detectors.fusion.model_state import EVALUATED_MIN
from schemas.codecs import codec_spec
from schemas.columns import EventBatch
from schemas.dead_letters import DeadLetter
from stream.clock import format_time_ms
from stream.config import Config, extracted_fields
from stream.config.stages import nodes
from stream.inputs.diagnostics import (
    SECONDS_HINT,
    SECONDS_SUSPECTED_BELOW_MS,
    mapped_fields,
    misspelling_hint,
    present_fields,
    record_position,
    registry_hint,
)
from stream.inputs.partitioning import find_misplaced
from stream.pipeline.counters import repair_key
from stream.pipeline.shard import ShardOutput
from stream.replay.label_verdicts import count_verdicts, most_common_verdicts
from stream.replay.summary import Tally
from stream.replay.suspicious_texts import SuspiciousTexts


@dataclass(slots=True)
class _DeadLetterCount:
    """Dead letters of an input with the same code; the first is the example."""

    count: int
    message: str
    offset: str
    hint: str


@dataclass(slots=True)
class _PartitionCheck:
    """Events of an input that were checked for their partition; the first that is in another one is
    the example."""

    checked: int = 0
    misplaced: int = 0
    example: str = ""


class ReplayNotes:
    """Collects what the notes need while a run reads, and writes the notes at the end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._absent: dict[str, set[str]] = {}
        self._unclear: dict[str, Counter[str | None]] = {}
        self._dead_letters: dict[tuple[str, str], _DeadLetterCount] = {}
        self._texts: dict[str, SuspiciousTexts] = {}
        self._repaired: dict[str, dict[str, str]] = {}
        """By topic and counter of a repair: the first example."""
        self._partition_checks: dict[str, _PartitionCheck] = {}

    def add_batch(self, name: str, output: ShardOutput, *, of_table: bool = False) -> None:
        """Add the output for a batch of an input or of an internal log. of_table: the batch comes from a
        columnar file."""
        if of_table:
            self._texts.setdefault(name, SuspiciousTexts()).observe(output.events)
        self.add_dead_letters(output.dead_letters)
        if name in self._config.inputs and len(output.events):
            if name not in self._absent:
                self._absent[name] = set(extracted_fields(self._config, name))
            self._absent[name] -= present_fields(output.events, self._absent[name])
            self._check_partitions(name, output.events)

    def _check_partitions(self, name: str, events: EventBatch) -> None:
        misplaced = find_misplaced(events, self._config.inputs[name])
        check = self._partition_checks.setdefault(name, _PartitionCheck())
        check.checked += misplaced.checked
        if len(misplaced.rows) and not check.misplaced:
            check.example = record_position(events, int(misplaced.rows[0]))
        check.misplaced += len(misplaced.rows)

    def add_unclear_verdicts(self, name: str, unclear: Counter[str | None]) -> None:
        """Count labels of an input that say neither fraud nor honest."""
        if unclear:
            count_verdicts(self._unclear.setdefault(name, Counter()), unclear)

    def add_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Count dead letters by their input and code, and remember the first examples of repairs."""
        for letter in dead_letters:
            headers = dict(letter.headers)
            topic, code = headers["eddy-topic"].decode(), headers["eddy-code"].decode()
            message, offset = headers["eddy-message"].decode(), headers["eddy-offset"].decode()
            if letter.event_kept:
                name = repair_key(headers["eddy-field"].decode(), code)
                self._repaired.setdefault(topic, {}).setdefault(name, f"record {offset}: {message}")
                continue
            if (topic, code) not in self._dead_letters:
                self._dead_letters[topic, code] = _DeadLetterCount(
                    0, message, offset, registry_hint(letter)
                )
            self._dead_letters[topic, code].count += 1

    def sentences(self, tally: Tally) -> Iterator[str]:
        """All notes, with their counts."""
        yield from chain(
            self._dead_letter_notes(tally),
            self._repair_notes(tally),
            self._absent_field_notes(),
            self._partition_notes(),
            self._time_notes(tally),
            self._monitor_notes(tally),
            self._verdict_notes(),
            self._learning_notes(tally),
            *(texts.notes(name) for name, texts in self._texts.items()),
        )

    def _dead_letter_notes(self, tally: Tally) -> Iterator[str]:
        """For each input, the most common error with an example."""
        for topic in dict.fromkeys(topic for topic, _ in self._dead_letters):
            of_topic = {
                code: counted
                for (name, code), counted in self._dead_letters.items()
                if name == topic
            }
            code, most = max(of_topic.items(), key=lambda item: item[1].count)
            total = sum(counted.count for counted in of_topic.values())
            hint = most.hint
            spec, counts = self._config.inputs.get(topic), tally.inputs.get(topic, Counter())
            objects = spec is not None and codec_spec(spec.codec).json_objects
            if code == "malformed" and objects and not counts["passed"]:
                hint = hint or "; expected one JSON object a line: a CSV must be named .csv"
            yield (
                f"{topic}: {total:,} dead letters, {most.count:,} of them {code}, such as record "
                f"{most.offset}: {most.message}{hint}"
            )

    def _repair_notes(self, tally: Tally) -> Iterator[str]:
        """For each input, the most common repair with an example."""
        for topic, examples in self._repaired.items():
            names = (n for n, spec in self._config.inputs.items() if topic in (n, spec.topic))
            counts = Counter[str]()
            for name in names:
                counts += tally.inputs.get(name, Counter()) + Counter(tally.labels.get(name, {}))
            of_topic = {name: counts[name] for name in examples}
            most = max(examples, key=of_topic.__getitem__)
            yield (
                f"{topic}: {sum(of_topic.values()):,} bad values of fields, {of_topic[most]:,} of "
                f"them {most.partition('/')[2]}, such as {examples[most]}; their events are kept"
            )

    def _absent_field_notes(self) -> Iterator[str]:
        """Mapped fields that no event has."""
        for name, absent in self._absent.items():
            for field, paths in mapped_fields(self._config, name).items():
                if field in absent:
                    yield f"{name}: no event has {field}, mapped from {paths}; {misspelling_hint(name, field)}"

    def _partition_notes(self) -> Iterator[str]:
        """Inputs whose events are not in the partition that keyed_by gives."""
        for name, check in self._partition_checks.items():
            if check.misplaced:
                spec = self._config.inputs[name]
                yield (
                    f"{name}: {check.misplaced:,} of {check.checked:,} events checked are in another "
                    f"partition than {spec.partitioner} of {spec.keyed_by} gives, such as "
                    f"{check.example}: each partition learns such an entity separately; correct inputs.{name}.keyed_by "
                    "or partitioner, or remove both"
                )

    def _time_notes(self, tally: Tally) -> Iterator[str]:
        """Times that are probably seconds, read as milliseconds."""
        if tally.last_ms is not None and tally.last_ms < SECONDS_SUSPECTED_BELOW_MS:
            yield (f"the latest event is of {format_time_ms(tally.last_ms)}; {SECONDS_HINT}")

    def _monitor_notes(self, tally: Tally) -> Iterator[str]:
        """Monitors that received events and scored none."""
        for monitor in self._config.monitors:
            counts = tally.monitors.get(monitor.name, Counter())
            if counts["scored"] or not counts["not_applicable"]:
                continue
            no_entity = all(monitor.entity in self._absent.get(name, ()) for name in monitor.inputs)
            reason = (
                f"no event has its entity, {monitor.entity}"
                if no_entity
                else "none matches its where"
            )
            yield f"monitor {monitor.name} scored none of {counts['not_applicable']:,} events: {reason}"

    def _verdict_notes(self) -> Iterator[str]:
        """Labels whose verdict is neither fraud nor honest."""
        for name, unclear in self._unclear.items():
            yield (
                f"{name}: {unclear.total():,} labels say neither fraud nor honest: "
                f"{most_common_verdicts(unclear)}. They are ignored, so their events are evaluated as honest, as events "
                f"without a label are; translate these verdicts in inputs.{name}.fields.verdict"
            )

    def _learning_notes(self, tally: Tally) -> Iterator[str]:
        """Whether assess used the model learned from labels at the end and, if not, why."""
        if self._config.assess is None or self._config.assess.learning is None:
            return
        counts = Counter[str]()
        for node in nodes(self._config):
            if node.combines:
                counts = tally.monitors.get(node.name, counts)
        if counts["learning_active"]:
            yield "assess: the model learned from labels was in use at the end"
            return
        frauds, honest = counts["learning_frauds"], counts["learning_honest"]
        reason = (
            f"it was recently evaluated on {frauds:,} frauds and {honest:,} honest events, and each "
            f"partition needs {EVALUATED_MIN:.0f} of both"
            if min(frauds, honest) < EVALUATED_MIN
            else "it predicted labels no better than the harmonic mean of the reports"
        )
        yield f"assess: the model learned from labels was not in use at the end: {reason}"
