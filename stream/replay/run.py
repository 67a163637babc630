"""One configuration over the inputs of a replay: its stages, what they led to, what is written.

A replay has one, a comparison several. Reads nothing itself: it is handed records in the order of
their logs, and told how far in event time all of them have come.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from types import TracebackType
from typing import Self

from detectors.hashing import hash_key
from schemas.columns import EventBatch
from schemas.records import Records
from stream.alerting import RunInfo, Teller
from stream.chain import Chain
from stream.clock import now_text
from stream.config import Config, fingerprint
from stream.decoding import SharedDecoder
from stream.replay.incidents import with_outcomes
from stream.replay.judged import judged
from stream.replay.labels import JoinedLabels
from stream.replay.last_words import labels_in, labels_of
from stream.replay.recording import INCIDENTS, OWN, Recording, make_folder, refuse_foreign
from stream.replay.span import EVERYTHING, Span
from stream.replay.summary import Summary, Tally, summarize


class Run:
    """A configuration at work on recorded events, and the folder that holds what came of it.

    name: what the page calls it. span: what is judged. decoders: by input, what decodes it for
    several runs at once. features: whether the features of every event are written down, too.
    Raises InputError for a folder that cannot be used, before anything is read.
    """

    def __init__(
        self,
        config: Config,
        out_dir: Path,
        name: str,
        span: Span = EVERYTHING,
        decoders: Mapping[str, SharedDecoder] | None = None,
        *,
        features: bool = False,
    ) -> None:
        refuse_foreign(out_dir, OWN)
        make_folder(out_dir)
        self.config = config
        self._name = name
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        topics = {name: name for name in config.inputs}
        self._decoders = decoders or {}
        self._chain = Chain(config, run, topics, decoders, told_wanted=features, every=True)
        self._tally = Tally(span)
        teller = Teller(hash_key(config.secret), frozenset(config.reveal), run)
        self._recording = Recording(out_dir, config, teller, span, features=features)
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

    @property
    def work(self) -> Path:
        """The folder of what is needed only while the run lasts."""
        return self._recording.work

    def note(self, joined: JoinedLabels) -> None:
        """Take note of a label file that was made ready for this run."""
        self._tally.labels[joined.reading.name] = joined.counts
        self._tally.dead_letters += len(joined.dead_letters)
        self._recording.add([], joined.dead_letters)
        for labels in labels_in(joined.of_nobody):
            self._recording.add_labels(labels)

    def put(self, input_name: str, records: Records) -> EventBatch:
        """Take the next records of a partition of an input; the events that they are."""
        if input_name in self._decoders:
            self._decoders[input_name].read(records)
        began = process_time()
        emitted = self._chain.put(input_name, records)
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

    def finish(self) -> Summary:
        """Give every file its name; what the run led to."""
        self._recording.close()
        verdict = judged(self.config, self._recording)
        seconds = perf_counter() - self._began
        summary = summarize(self._name, self.config, self._chain, self._tally, verdict, seconds)
        path = self._recording.part(INCIDENTS)
        summary = replace(summary, incidents=with_outcomes(summary.incidents, path))
        self._recording.finish(summary)
        return summary
