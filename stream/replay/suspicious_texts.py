"""Texts of tables that are probably mistakes: words such as NA read as values, and ids that were
converted to numbers.

Looks at distinct texts of each batch alone, and remembers a bounded number of ids. Names no value.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import EventBatch
from schemas.events import ENTITY_FIELDS

NO_VALUE: Final = pa.array(["NA", "NULL", "null", "nan", "NaN", "None"])
SHARE_MIN: Final = 0.01
IDS_MAX: Final = 10_000
"""Ids that are remembered of each field and form."""
IDS: Final = frozenset({*ENTITY_FIELDS, "labelled_event_id"})


class SuspiciousTexts:
    """Oddities in the texts of one input's tables."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()
        self._no_value: Counter[str] = Counter()
        self._words: dict[str, Counter[str]] = {}
        self._ids: dict[tuple[str, bool], set[str]] = {}

    def observe(self, events: EventBatch) -> None:
        """Look at the texts of events."""
        for name, column in events.text.items():
            found = pc.value_counts(column.drop_null())
            texts, counts = found.field(0), found.field(1)
            self._given[name] += len(column) - column.null_count
            words = pc.is_in(texts, NO_VALUE)
            if pc.any(words).as_py():
                of = zip(
                    texts.filter(words).to_pylist(), counts.filter(words).to_pylist(), strict=True
                )
                for word, count in of:
                    self._no_value[name] += count
                    self._words.setdefault(name, Counter())[word] += count
            if name in IDS:
                self._remember(name, texts)

    def _remember(self, name: str, texts: pa.StringArray) -> None:
        for is_float, pattern in ((True, r"^\d+\.0$"), (False, r"^\d+$")):
            known = self._ids.setdefault((name, is_float), set())
            if len(known) < IDS_MAX:
                alike = texts.filter(pc.match_substring_regex(texts, pattern))
                known.update(alike.to_pylist()[: IDS_MAX - len(known)])

    def notes(self, name: str) -> Iterator[str]:
        """The sentences. name: the input's."""
        for field, count in self._no_value.items():
            if count > SHARE_MIN * self._given[field]:
                words = ", ".join(word for word, _ in self._words[field].most_common(3))
                yield (
                    f"{name}: {count:,} of {self._given[field]:,} values of {field} are {words}; where "
                    f"that means none, expected inputs.{name}.null_values to list it (CSV), or nulls"
                )
        for field in sorted({field for field, _ in self._ids}):
            whole = self._ids.get((field, False), set())
            both = sum(one[:-2] in whole for one in self._ids.get((field, True), ()))
            if both:
                yield (
                    f"{name}: {both:,} ids of {field} occur with and without .0 at their end, as two "
                    "entities each; expected one form: write the column as texts or integers"
                )
