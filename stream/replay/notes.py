"""Notes on the inputs of a replay, a sentence each: signs of a wrong mapping, or of settings without
effect, which could otherwise be mistaken for a result.
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
from stream.config.stage_graph import nodes
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
    """Dead letters of an input with the same code. message, offset, hint: of the first one."""

    count: int
    message: str
    offset: str
    hint: str


@dataclass(slots=True)
class _PartitionCheck:
    """Events of an input whose partition was checked. misplaced: those in a wrong partition. example: the
    position of the first of them."""

    checked: int = 0
    misplaced: int = 0
    example: str = ""


class ReplayNotes:
    """Collects signs of mistakes while a run reads its inputs, and writes the notes at the end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._absent: dict[str, set[str]] = {}
        self._unclear_verdicts: dict[str, Counter[str | None]] = {}
        self._dead_letters: dict[tuple[str, str], _DeadLetterCount] = {}
        self._texts: dict[str, SuspiciousTexts] = {}
        self._repaired: dict[str, dict[str, str]] = {}
        """Topic → counter of a repair → the first example."""
        self._partition_checks: dict[str, _PartitionCheck] = {}

    def add_batch(self, name: str, output: ShardOutput, *, from_table: bool = False) -> None:
        """Observe the output of a batch of an input or an internal log. from_table: the batch was read
        from a columnar file."""
        if from_table:
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

    def add_unclear_verdicts(self, name: str, verdicts: Counter[str | None]) -> None:
        """Count labels of an input that are neither fraud nor honest."""
        if verdicts:
            count_verdicts(self._unclear_verdicts.setdefault(name, Counter()), verdicts)

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
        """The most common reason for dead letters of each input, with an example."""
        for topic in dict.fromkeys(topic for topic, _ in self._dead_letters):
            by_code = {
                code: count for (name, code), count in self._dead_letters.items() if name == topic
            }
            code = max(by_code, key=lambda code: by_code[code].count)
            commonest = by_code[code]
            total = sum(letters.count for letters in by_code.values())
            hint = commonest.hint
            spec, counts = self._config.inputs.get(topic), tally.inputs.get(topic, Counter())
            is_json = spec is not None and codec_spec(spec.codec).json_objects
            if code == "malformed" and is_json and not counts["passed"]:
                hint = hint or "; expected one JSON object a line: a CSV must be named .csv"
            yield (
                f"{topic}: {total:,} dead letters, {commonest.count:,} of them {code}, such as record "
                f"{commonest.offset}: {commonest.message}{hint}"
            )

    def _repair_notes(self, tally: Tally) -> Iterator[str]:
        """The most common repair in each input, with an example."""
        for topic, examples in self._repaired.items():
            input_names = (
                name for name, spec in self._config.inputs.items() if topic in (name, spec.topic)
            )
            counts = Counter[str]()
            for name in input_names:
                counts += tally.inputs.get(name, Counter()) + Counter(tally.labels.get(name, {}))
            repairs = {name: counts[name] for name in examples}
            commonest = max(repairs, key=repairs.__getitem__)
            yield (
                f"{topic}: {sum(repairs.values()):,} bad values of fields, {repairs[commonest]:,} of them "
                f"{commonest.partition('/')[2]}, such as {examples[commonest]}; their events are kept"
            )

    def _absent_field_notes(self) -> Iterator[str]:
        """Mapped fields that no event has."""
        for name, absent in self._absent.items():
            for field, paths in mapped_fields(self._config, name).items():
                if field in absent:
                    yield f"{name}: no event has {field}, mapped from {paths}; {misspelling_hint(name, field)}"

    def _partition_notes(self) -> Iterator[str]:
        """Inputs with a wrong keyed_by or partitioner."""
        for name, check in self._partition_checks.items():
            if check.misplaced:
                spec = self._config.inputs[name]
                yield (
                    f"{name}: {check.misplaced:,} of {check.checked:,} events checked are in another "
                    f"partition than {spec.partitioner} of {spec.keyed_by} gives, such as "
                    f"{check.example}: one entity is learned as several; correct inputs.{name}.keyed_by "
                    "or partitioner, or remove both"
                )

    def _time_notes(self, tally: Tally) -> Iterator[str]:
        """Event times in seconds that were read as milliseconds."""
        if tally.last_ms is not None and tally.last_ms < SECONDS_SUSPECTED_BELOW_MS:
            yield (f"the latest event is of {format_time_ms(tally.last_ms)}; {SECONDS_HINT}")

    def _monitor_notes(self, tally: Tally) -> Iterator[str]:
        """Monitors that had events and scored none."""
        for monitor in self._config.monitors:
            counts = tally.monitors.get(monitor.name, Counter())
            if counts["scored"] or not counts["not_applicable"]:
                continue
            no_entity = all(monitor.entity in self._absent.get(name, ()) for name in monitor.inputs)
            why = (
                f"no event has its entity, {monitor.entity}"
                if no_entity
                else "no event has its entity and matches its where"
            )
            yield f"monitor {monitor.name} scored none of {counts['not_applicable']:,} events: {why}"

    def _verdict_notes(self) -> Iterator[str]:
        """Labels without a clear verdict."""
        for name, verdicts in self._unclear_verdicts.items():
            yield (
                f"{name}: {verdicts.total():,} labels are neither fraud nor honest: "
                f"{most_common_verdicts(verdicts)}; no model learns from them, and their events "
                f"are evaluated as honest, like all events without a label; translate them by "
                f"inputs.{name}.fields.verdict"
            )

    def _learning_notes(self, tally: Tally) -> Iterator[str]:
        """Whether assess used the model learned from labels."""
        if self._config.assess is None or self._config.assess.learning is None:
            return
        counts = Counter[str]()
        for node in nodes(self._config):
            if node.combines_reports:
                counts = tally.monitors.get(node.name, counts)
        if counts["learning_active"]:
            yield "learning was active at the end: assess used the model learned from labels"
            return
        frauds, honest = counts["learning_frauds"], counts["learning_honest"]
        why = (
            f"{frauds:,} frauds and {honest:,} honest events were scored recently before their labels "
            f"became known; a partition needs {EVALUATED_MIN:.0f} of each"
            if min(frauds, honest) < EVALUATED_MIN
            else "its predictions of labels were no better than those of the monitors alone"
        )
        yield f"learning was not active at the end, so assess scored as without labels: {why}"
