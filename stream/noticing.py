"""Oddities in the inputs of a live worker, as log lines, readings and reasons not to be ready.

The same as a replay's notes (`stream.replay.notes`, which shares the functions), from the records
since the worker started. An oddity has the position of an example record, and never the value of an
entity field or of a text that may be one.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import structlog

from detectors.monitor import LABEL
from detectors.verdicts import is_clear
from schemas.codecs.decoded import shown
from schemas.columns import EventBatch
from schemas.dead_letters import DeadLetter
from schemas.mapping import compile_mapping
from schemas.records import Records
from stream.clock import text_of
from stream.config import LABEL_FIELDS, Config, Log, fields_wanted
from stream.inputs.partitioning import misplaced
from stream.metrics import Board
from stream.shard import Emitted

log = structlog.stdlib.get_logger(__name__)

ENOUGH: Final = 1_000
"""Events without a field, or that a monitor does not score, until that is odd; records in a row that
are all dead letters, until the worker is not ready."""
SECONDS_MS: Final = 365 * 86_400_000
"""Events before 1971 are most often seconds that were taken for milliseconds."""
IF_SECONDS: Final = 'where the times are seconds, expected fields.time = { path = "…", unit = "s" }'
NOT_KEYED: Final = (
    "keyed_by is not true: events are in another partition than the partitioner gives their key, so "
    "that one entity is learned as several. Correct keyed_by or partitioner of the input, or remove "
    "both: then its monitors read internal topics"
)
Kind = Literal[
    "all_dead_letters",
    "field_absent",
    "times_in_seconds",
    "verdicts_untranslated",
    "monitor_scores_nothing",
]


class Oddity(NamedTuple):
    """One oddity. of: the input, or the monitor. about: the field, where there is one for each."""

    of: str
    kind: Kind
    about: str
    text: str


@dataclass(slots=True)
class _Seen:
    """The records of one input so far. absent: `mapped_fields` that no event had. letters_in_a_row:
    how many of the last records were all dead letters."""

    absent: dict[str, str]
    events: int = 0
    example: str = ""
    last_ms: int | None = None
    unclear: int = 0
    unclear_example: str = ""
    letters: dict[str, int] = field(default_factory=dict)
    letters_in_a_row: int = 0
    last_letter: str = ""


class Noticing:
    """Looks at all that a worker processes. Not for more than one thread."""

    def __init__(self, config: Config, board: Board) -> None:
        self._config = config
        self._board = board
        self._inputs: dict[str, _Seen] = {}
        self._logged: set[tuple[str, str, str]] = set()
        self._repaired: set[tuple[str, str, str]] = set()
        self._not_keyed: set[tuple[str, int]] = set()

    def take(self, read: Log, records: Records, emitted: Emitted) -> None:
        """Look at a batch and its output; in an internal topic nothing is odd."""
        if read.internal:
            return
        seen = self._inputs.get(read.name)
        if seen is None:
            seen = self._inputs[read.name] = _Seen(mapped_fields(self._config, read.name))
        for letter in emitted.dead_letters:
            if letter.event_kept:
                self._take_repair(read.name, letter)
        letters = [one for one in emitted.dead_letters if not one.event_kept]
        self._take_letters(read.name, seen, records, letters)
        if len(emitted.events):
            _take_events(seen, emitted.events)
            self._check_keys(read.name, emitted.events)

    def _check_keys(self, name: str, events: EventBatch) -> None:
        """Count events that are not in the partition of their key; log the first of a partition."""
        found = misplaced(events, self._config.inputs[name])
        if not len(found.rows):
            return
        count, first = len(found.rows), int(found.rows[0])
        self._board.add("eddy_keys_misplaced", count)
        topic, partition = where = events.sources[int(events.source[first])]
        if where not in self._not_keyed:
            self._not_keyed.add(where)
            log.warning(
                NOT_KEYED,
                topic=topic,
                partition=partition,
                offset=int(events.offset[first]),
                checked=found.checked,
                misplaced=count,
            )

    def _take_repair(self, name: str, letter: DeadLetter) -> None:
        """Log the first example of a field and code; `eddy_field_repaired` counts them all."""
        headers = dict(letter.headers)
        of_event, code = headers["eddy-field"].decode(), headers["eddy-code"].decode()
        if (key := (name, of_event, code)) not in self._repaired:
            self._repaired.add(key)
            example = _example(letter, headers)
            log.warning("field repaired", input=name, field=of_event, code=code, example=example)

    def _take_letters(
        self, name: str, seen: _Seen, records: Records, letters: list[DeadLetter]
    ) -> None:
        """Count dead letters, and log the first of each code, the tenth, the hundredth and so on."""
        if not letters:
            seen.letters_in_a_row = 0
            return
        for letter in letters:
            headers = dict(letter.headers)
            code = headers["eddy-code"].decode()
            count = seen.letters[code] = seen.letters.get(code, 0) + 1
            if count == 10 ** (len(str(count)) - 1):
                example = _example(letter, headers)
                log.warning("dead letters", input=name, code=code, count=count, example=example)
        seen.last_letter = _example(letters[-1], dict(letters[-1].headers))
        refused = {int(dict(letter.headers)["eddy-offset"]) for letter in letters}
        at_end = 0
        for offset in reversed(records.offset.tolist()):
            if offset not in refused:
                break
            at_end += 1
        whole = at_end == len(records)
        seen.letters_in_a_row = at_end + (seen.letters_in_a_row if whole else 0)

    def oddities(self, counts: Iterable[Mapping[str, Mapping[str, int]]]) -> list[Oddity]:
        """The oddities so far; each is logged once. counts: of every shard, by stage."""
        found = [one for name, seen in self._inputs.items() for one in self._of_input(name, seen)]
        found += self._of_monitors(counts)
        for one in found:
            if one[:3] not in self._logged:
                self._logged.add(one[:3])
                log.warning("odd input", of=one.of, oddity=one.kind, detail=one.text)
        self._logged &= {one[:3] for one in found}  # one that ends and comes back is logged again
        return found

    @staticmethod
    def not_ready(oddities: Iterable[Oddity]) -> list[str]:
        """Those of the oddities that make a worker not ready, a line each."""
        return [f"{one.of}: {one.text}" for one in oddities if one.kind == "all_dead_letters"]

    def _of_input(self, name: str, seen: _Seen) -> list[Oddity]:
        found: list[Oddity] = []
        if seen.letters_in_a_row >= ENOUGH:
            text = f"the last {ENOUGH:,} records were all dead letters, such as {seen.last_letter}"
            found.append(Oddity(name, "all_dead_letters", "", text))
        if seen.events >= ENOUGH:
            for one, paths in seen.absent.items():
                text = (
                    f"none of {seen.events:,} events has {one}, mapped from {paths}, such as "
                    f"{seen.example}; {if_misspelt(name, one)}"
                )
                found.append(Oddity(name, "field_absent", one, text))
        if seen.events >= ENOUGH and seen.last_ms is not None and seen.last_ms < SECONDS_MS:
            text = (
                f"the latest of {seen.events:,} events is of {text_of(seen.last_ms)}, such as "
                f"{seen.example}; {IF_SECONDS}"
            )
            found.append(Oddity(name, "times_in_seconds", "", text))
        if seen.unclear:
            text = (
                f"{seen.unclear:,} labels are neither fraud nor honest, such as "
                f"{seen.unclear_example}: nothing is learned from them; translate them by "
                f"inputs.{name}.fields.verdict"
            )
            found.append(Oddity(name, "verdicts_untranslated", "", text))
        return found

    def _of_monitors(self, counts: Iterable[Mapping[str, Mapping[str, int]]]) -> list[Oddity]:
        scored: dict[str, int] = {}
        passed: dict[str, int] = {}
        for stages in counts:
            for stage, each in stages.items():
                scored[stage] = scored.get(stage, 0) + each.get("scored", 0) + each.get("sent", 0)
                passed[stage] = passed.get(stage, 0) + each.get("not_applicable", 0)
        return [
            Oddity(
                monitor.name,
                "monitor_scores_nothing",
                "",
                f"monitor {monitor.name} scored none of {passed[monitor.name]:,} events: expected that "
                f"some have its entity, {monitor.entity}, and match its where",
            )
            for monitor in self._config.monitors
            if passed.get(monitor.name, 0) >= ENOUGH and not scored[monitor.name]
        ]


def _take_events(seen: _Seen, events: EventBatch) -> None:
    if not seen.example:
        seen.example = position(events, 0)
    seen.events += len(events)
    for name in filled(events, seen.absent.keys()):
        del seen.absent[name]
    behaviour = events.type_code != LABEL
    if behaviour.any():
        last_ms = int(events.time_ms[behaviour].max())
        seen.last_ms = last_ms if seen.last_ms is None else max(seen.last_ms, last_ms)
    if not behaviour.all() and "verdict" in events.text:
        unclear = np.flatnonzero(~behaviour & ~is_clear(events.text["verdict"]))
        if len(unclear) and not seen.unclear_example:
            seen.unclear_example = position(events, int(unclear[0]))
        seen.unclear += len(unclear)


def _example(letter: DeadLetter, headers: Mapping[str, bytes]) -> str:
    """The position of a dead letter's record, and its fault, which holds no entity field's value."""
    where, partition, offset = (
        headers[name].decode() for name in ("eddy-topic", "eddy-partition", "eddy-offset")
    )
    message = headers["eddy-message"].decode("utf-8", "replace")
    return f"{where}[{partition}] at offset {offset}: {message}{registry_hint(letter)}"


# -- shared with the notes of a replay ------------------------------------------------------------


def mapped_fields(config: Config, name: str) -> dict[str, str]:
    """The fields that an input maps by name and that its records should have, each with its paths.
    None of labels, which may name an event alone."""
    spec = config.inputs[name]
    if spec.type == "label" or not spec.fields:
        return {}
    names = sorted({*fields_wanted(config, name)} & {*spec.fields} - {*LABEL_FIELDS})
    mapped = compile_mapping(spec.codec, spec.type, spec.fields, names).fields
    return {one: " or ".join(map(shown, mapped[one].paths)) for one in names if mapped[one].paths}


def if_misspelt(name: str, field_name: str) -> str:
    """The remedy for a mapped field that no event has."""
    where = f"inputs.{name}.fields.{field_name}"
    return f"expected that {where} names a field of the records, as it is spelled there"


def filled(events: EventBatch, names: AbstractSet[str]) -> set[str]:
    """The fields among `names` that any of the events has."""
    text = {n for n in names & events.text.keys() if events.text[n].null_count < len(events)}
    return text | {n for n in names & events.number.keys() if not np.isnan(events.number[n]).all()}


def position(events: EventBatch, row: int) -> str:
    """The position of an event's record."""
    topic, partition = events.sources[int(events.source[row])]
    return f"{topic}[{partition}] at offset {int(events.offset[row])}"


def registry_hint(letter: DeadLetter) -> str:
    """The likely cause, where a malformed record looks as if a schema registry's client wrote it."""
    if dict(letter.headers)["eddy-code"] == b"malformed" and letter.value[:1] == b"\0":
        return "; it begins with a zero byte, as values written with a schema registry do"
    return ""
