"""One configuration over the inputs of a replay: its stages, what they led to, what is written.

A replay has one, a comparison several. Reads nothing itself: it is handed records in the order of
their logs, and told how far in event time all of them have come.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from schemas.columns import EventBatch
from schemas.records import Records
from stream.alerting import RunInfo
from stream.chain import Chain, State
from stream.clock import now_text
from stream.config import Config, fingerprint
from stream.inputs.ranges import recorded_log
from stream.replay.jobs import Jobs
from stream.replay.labels import JoinedLabels
from stream.replay.last_words import labels_in, labels_of
from stream.replay.manifest import Origin
from stream.replay.recording import Recording, make_folder, refuse_foreign
from stream.replay.span import EVERYTHING, Span
from stream.replay.summary import Summary, Tally, summarize
from stream.shard import Emitted


class Run:
    """A configuration at work on recorded events, and the folder that holds what came of it.

    topics: by input, what its records call their topic; that of an internal log under the name of
    its reader. origin: what it all follows from. span: what is judged. jobs: where its shards live, if
    not in this process. Raises InputError for a
    folder that cannot be used, before anything is read.
    """

    def __init__(
        self,
        config: Config,
        out_dir: Path,
        topics: Mapping[str, str],
        origin: Origin,
        span: Span = EVERYTHING,
        jobs: Jobs | None = None,
    ) -> None:
        refuse_foreign(out_dir)
        make_folder(out_dir)
        self.config = config
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        recorded = {
            topic: log
            for name, topic in topics.items()
            if (log := recorded_log(config, name, topic))
        }
        known = {name: spec.topic for name, spec in config.inputs.items()}
        known |= {name: topic for name, topic in topics.items() if topic not in recorded}
        making = jobs.making(config, run, known) if jobs else None
        self._chain = Chain(config, run, known, recorded, making)
        self._tally = Tally(span)
        monitors = [monitor.name for monitor in config.monitors]
        self._recording = Recording(out_dir, monitors, span, origin)
        self._began = perf_counter()

    def __enter__(self) -> Self:
        self._recording.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._recording.__exit__(kind, error, trace)

    @property
    def work(self) -> Path:
        """The folder of what is needed only while the run lasts."""
        return self._recording.work

    def note(self, joined: JoinedLabels) -> None:
        """Take note of a label file that was made ready for this run."""
        self._tally.labels[joined.reading.name] = joined.counts
        self._tally.dead_letters += len(joined.dead_letters)
        self._recording.add([], joined.dead_letters)
        for labels in labels_in(joined.aside):
            self._recording.add_labels(labels)

    def begin(self, input_name: str, records: Records) -> Callable[[], EventBatch]:
        """Take the next records of a partition of an input; asked for in that order, the events
        that they are."""
        return partial(self._take, self._chain.begin(input_name, records))

    def _take(self, ended: Callable[[], Emitted]) -> EventBatch:
        emitted = ended()
        self._tally.add(emitted)
        self._recording.add(emitted.alerts, emitted.dead_letters)
        self._recording.add_labels(labels_of(emitted.events))
        return emitted.events

    def advance(self, until_ms: float) -> None:
        """Let go on what waits for earlier events: every input has come so far."""
        alerts, judged = self._chain.advance(until_ms)
        self._tally.add_alerts(alerts)
        self._recording.add(alerts, [], judged)

    def states(self) -> Iterator[State]:
        """What was learned, by partition of every log."""
        return self._chain.states()

    def finish(self) -> Summary:
        """Give every file its name; what the run led to."""
        seconds = perf_counter() - self._began
        summary = summarize(self.config, self._chain, self._tally, seconds)
        self._recording.finish(summary)
        return summary
