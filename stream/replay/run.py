"""One configuration over the inputs of a replay: its stages, what they led to, what is written.

A replay has one, a comparison several. Reads nothing itself: it is handed records in the order of
their logs, and told how far in event time all of them have come.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from types import TracebackType
from typing import Self

from detectors.hashing import hash_key
from schemas.columns import EventBatch
from schemas.records import Records
from stream.alerting import RunInfo, Teller
from stream.chain import Chain, State
from stream.clock import now_text
from stream.config import Config, fingerprint
from stream.decoding import SharedDecoder
from stream.inputs import Reading
from stream.inputs.ranges import recorded_log
from stream.replay.jobs import Jobs
from stream.replay.judged import judged
from stream.replay.labels import join
from stream.replay.last_words import labels_in, labels_of
from stream.replay.manifest import Origin
from stream.replay.recording import OWN, Recording, make_folder, refuse_foreign
from stream.replay.span import EVERYTHING, Span
from stream.replay.summary import Summary, Tally, summarize
from stream.shard import Emitted, Shards
from stream.stages.watch import Wanted


class Run:
    """A configuration at work on recorded events, and the folder that holds what came of it.

    name: what the page calls it. topics: by input, what its records call their topic; that of an
    internal log under the name of its reader. origin: what it all follows from. span: what is
    judged. decoders: by input, what decodes it for several runs at once. jobs: where its shards
    live, if not in this process. Raises InputError for a folder that cannot be used, before
    anything is read.
    """

    def __init__(
        self,
        config: Config,
        out_dir: Path,
        name: str,
        topics: Mapping[str, str],
        origin: Origin,
        span: Span = EVERYTHING,
        decoders: Mapping[str, SharedDecoder] | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        refuse_foreign(out_dir, OWN)
        make_folder(out_dir)
        self.config = config
        self._name = name
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        recorded = {
            topic: log
            for reader, topic in topics.items()
            if (log := recorded_log(config, reader, topic))
        }
        known = {one: spec.topic for one, spec in config.inputs.items()}
        known |= {one: topic for one, topic in topics.items() if topic not in recorded}
        wanted = Wanted(scores=True, told=origin.features)
        self._decoders = decoders or {}
        shards = (
            jobs.making(config, run, known, wanted)
            if jobs
            else Shards(config, run, known, decoders, wanted)
        )
        self._chain = Chain(config, run, known, wanted, recorded, shards)
        self._tally = Tally(span)
        teller = Teller(hash_key(config.secret), frozenset(config.reveal), run)
        self._recording = Recording(out_dir, config, teller, span, origin)
        self._began = perf_counter()
        self.cpu_s = 0.0
        """What the run has cost this process so far, less what it shares with others."""

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

    def labels_from(
        self, labels: Sequence[Reading], events: Callable[[], Sequence[Reading]]
    ) -> list[Reading]:
        """Files of labels as the run is to read them: joined to the events, which are read anew for
        each. Raises InputError for what cannot be read, ExtraMissing without DuckDB."""
        return [self._joined(one, events()) for one in labels]

    def _joined(self, labels: Reading, events: Sequence[Reading]) -> Reading:
        joined = join(self.config, labels, events, self._recording.work)
        self._tally.labels[labels.name] = joined.counts
        self._tally.dead_letters += len(joined.dead_letters)
        self._recording.add([], joined.dead_letters)
        for heard in labels_in(joined.aside):
            self._recording.add_labels(heard)
        return joined.reading

    def begin(self, input_name: str, records: Records) -> Callable[[], EventBatch]:
        """Take the next records of a partition of an input; asked for in that order, the events
        that they are."""
        return partial(self._take, input_name, records, self._chain.begin(input_name, records))

    def _take(self, input_name: str, records: Records, ended: Callable[[], Emitted]) -> EventBatch:
        if input_name in self._decoders:
            self._decoders[input_name].read(records)
        began = process_time()
        emitted = ended()
        self._tally.add(emitted)
        self._recording.add(emitted.alerts, emitted.dead_letters)
        self._recording.add_labels(labels_of(emitted.events))
        self.cpu_s += process_time() - began
        return emitted.events

    def advance(self, until_ms: float) -> None:
        """Let go on what waits for earlier events: every input has come so far."""
        began = process_time()
        alerts, judged = self._chain.advance(until_ms)
        self._tally.add_alerts(alerts)
        self._recording.add(alerts, [], judged)
        self.cpu_s += process_time() - began

    def state_bytes(self) -> int:
        """What all its shards hold now."""
        return self._chain.state_bytes()

    def states(self) -> Iterator[State]:
        """What was learned, by partition of every log."""
        return self._chain.states()

    def finish(self) -> Summary:
        """Give every file its name; what the run led to."""
        self._recording.close()
        self._tally.add_shards(self.config, self._chain)
        del self._chain  # judging needs memory of its own
        verdict = judged(self.config, self._recording)
        self._tally.labels_heard = self._recording.labels_heard
        seconds = perf_counter() - self._began
        opened = self._recording.incidents_opened()
        summary = summarize(self._name, self.config, self._tally, opened, verdict, seconds)
        self._recording.finish(summary)
        return summary
