"""Texts of tables that are probably mistakes: words such as NA read as values, and ids that were
converted to numbers.

Looks only at the distinct texts of each batch, and remembers a bounded number of ids. Notes show no
value except words such as NA.
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
"""Ids remembered for each field, with and without `.0` at the end."""
IDS: Final = frozenset({*ENTITY_FIELDS, "labelled_event_id"})


class SuspiciousTexts:
    """Counts suspicious texts in the tables of one input."""

    def __init__(self) -> None:
        self._present: Counter[str] = Counter()
        self._no_value: Counter[str] = Counter()
        self._words: dict[str, Counter[str]] = {}
        self._ids: dict[tuple[str, bool], set[str]] = {}

    def observe(self, events: EventBatch) -> None:
        """Count the texts of events."""
        for name, column in events.text.items():
            counted = pc.value_counts(column.drop_null())
            texts, counts = counted.field(0), counted.field(1)
            self._present[name] += len(column) - column.null_count
            is_word = pc.is_in(texts, NO_VALUE)
            if pc.any(is_word).as_py():
                words = texts.filter(is_word).to_pylist()
                for word, count in zip(words, counts.filter(is_word).to_pylist(), strict=True):
                    self._no_value[name] += count
                    self._words.setdefault(name, Counter())[word] += count
            if name in IDS:
                self._remember(name, texts)

    def _remember(self, name: str, texts: pa.StringArray) -> None:
        for is_float, pattern in ((True, r"^\d+\.0$"), (False, r"^\d+$")):
            ids = self._ids.setdefault((name, is_float), set())
            if len(ids) < IDS_MAX:
                matching = texts.filter(pc.match_substring_regex(texts, pattern))
                ids.update(matching.to_pylist()[: IDS_MAX - len(ids)])

    def notes(self, name: str) -> Iterator[str]:
        """The notes, a sentence each. name: of the input."""
        for field, count in self._no_value.items():
            if count > SHARE_MIN * self._present[field]:
                words = ", ".join(word for word, _ in self._words[field].most_common(3))
                yield (
                    f"{name}: {count:,} of {self._present[field]:,} values of {field} are {words}; if "
                    f"they mean no value, expected inputs.{name}.null_values to list it (CSV), or nulls"
                )
        for field in sorted({field for field, _ in self._ids}):
            integers = self._ids.get((field, False), set())
            floats = self._ids.get((field, True), set())
            both = sum(text.removesuffix(".0") in integers for text in floats)
            if both:
                yield (
                    f"{name}: {both:,} ids of {field} occur with and without .0 at their end, as two "
                    "entities each; expected one form: write the column as texts or integers"
                )
