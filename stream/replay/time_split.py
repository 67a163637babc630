"""The time split of a replay: which events are evaluated. Models learn from all events."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from schemas.columns import I64, Bools
from schemas.events import LABEL_TYPE, TIME_MS_MAX
from stream.clock import format_time_ms
from stream.config import Config
from stream.errors import InputError
from stream.inputs import InputReader
from stream.pipeline.decoding import Decoder


class EvaluationSpan(NamedTuple):
    """The time range of evaluated events: from_ms up to, but excluding, until_ms; None is no bound."""

    from_ms: int | None = None
    until_ms: int | None = None

    def contains(self, time_ms: I64) -> Bools:
        """bool[n]: whether events of these times are evaluated."""
        inside = np.ones(len(time_ms), np.bool_)
        if self.from_ms is not None:
            inside &= time_ms >= self.from_ms
        if self.until_ms is not None:
            inside &= time_ms < self.until_ms
        return inside


UNBOUNDED: Final = EvaluationSpan()


class TimeSplit(NamedTuple):
    """The requested split: from warm_up_s after the first event or from from_ms on, and before until_ms."""

    warm_up_s: float | None = None
    from_ms: int | None = None
    until_ms: int | None = None

    def check(self) -> None:
        """Raise InputError for options that contradict each other."""
        if self.warm_up_s is not None and self.from_ms is not None:
            raise InputError(
                "--warm-up and --score-from both set where the evaluation begins; expected one of them"
            )
        _check_order(EvaluationSpan(self.from_ms, self.until_ms))

    def span(self, config: Config, readers: Sequence[InputReader]) -> EvaluationSpan:
        """The evaluated time for these inputs. Raises InputError."""
        self.check()
        if self.warm_up_s is None:
            return EvaluationSpan(self.from_ms, self.until_ms)
        first_times = [ms for reader in readers if (ms := _first_ms(config, reader)) is not None]
        if not first_times:
            return EvaluationSpan(None, self.until_ms)
        span = EvaluationSpan(
            min(min(first_times) + round(1000 * self.warm_up_s), TIME_MS_MAX), self.until_ms
        )
        _check_order(span)
        return span


NO_SPLIT: Final = TimeSplit()


def _check_order(span: EvaluationSpan) -> None:
    if span.from_ms is not None and span.until_ms is not None and span.until_ms <= span.from_ms:
        raise InputError(
            f"the evaluation would begin at {format_time_ms(span.from_ms)} and end at {format_time_ms(span.until_ms)}; "
            "expected --score-until after that"
        )


def _first_ms(config: Config, reader: InputReader) -> int | None:
    """The earliest time of an event in an input's first batch; None where it has none."""
    decoder = Decoder(config.inputs[reader.name], config.limits, [])
    for parts in reader:
        events = [decoder.read(records).events for records in parts]
        times = [one.time_ms[one.type_code != LABEL_TYPE] for one in events]
        if any(map(len, times)):
            return int(np.concatenate(times).min())
    return None
