"""A run: one configuration processes the records of a replay and writes its files.

A replay has one run, a comparison several. A run reads no input itself: `driver` calls it with records
in the order of event time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from types import TracebackType
from typing import Self

from detectors.numeric.hashing import hash_key
from schemas.columns import I64
from schemas.records import Records
from stream.clock import now_text
from stream.config import fingerprint
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.cluster import InMemoryCluster, PartitionState
from stream.pipeline.decoding import SharedDecoder
from stream.pipeline.scores import ScoreSelection
from stream.pipeline.shard import ShardFactory, ShardOutput
from stream.replay.final_labels import labels_among, read_labels
from stream.replay.finish_tables import evaluate_run
from stream.replay.label_verdicts import split_unclear
from stream.replay.labels import JoinedLabels
from stream.replay.manifest import Provenance
from stream.replay.notes import ReplayNotes
from stream.replay.request import RunRequest
from stream.replay.run_files import OWN_FILES, RunFiles, make_folder, require_replay_folder
from stream.replay.summary import Summary, Tally, summarize
from stream.replay.time_split import EvaluationSpan

Render = Callable[[Summary], str]
"""Makes the page of a run, HTML."""


class ReplayRun:
    """The shards of one configuration, and the folder of its results.

    provenance: everything that determines the results. span: the events to evaluate. decoders: input →
    the decoder that several runs share. cpu_s: the CPU time of the run, shared decoding excluded.
    Raises InputError, before anything is read, for a folder that cannot be used.
    """

    def __init__(
        self,
        request: RunRequest,
        provenance: Provenance,
        span: EvaluationSpan,
        decoders: Mapping[str, SharedDecoder] | None = None,
    ) -> None:
        require_replay_folder(request.out_dir, OWN_FILES)
        make_folder(request.out_dir)
        self.request = request
        self.config = config = request.config
        self.cpu_s = 0.0
        self._started_at = perf_counter()
        self._decoders = decoders or {}
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        selection = ScoreSelection(scores=True, feature_values=request.writes_features)
        self._cluster = _cluster(request, run, selection, self._decoders)
        self._tally = Tally(span)
        self._notes = ReplayNotes(config)
        alert_builder = AlertBuilder(
            hash_key(config.secret),
            frozenset(config.reveal),
            run,
            Identity(config.group, config.mode),
        )
        self._files = RunFiles(request.out_dir, config, alert_builder, span, provenance)

    def __enter__(self) -> Self:
        self._files.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    @property
    def work_dir(self) -> Path:
        """A folder for temporary files of the run."""
        return self._files.work_dir

    def add_joined_labels(self, name: str, joined: JoinedLabels) -> None:
        """Record a label file's counts and the labels that no model learns from."""
        self._tally.labels[name] = joined.counts
        self._tally.dead_letters += joined.counts["dead_letters"]
        self._notes.add_unclear_verdicts(name, joined.unclear_verdicts)
        self._notes.add_dead_letters(joined.dead_letters)
        self._files.add([], joined.dead_letters)
        for labels in read_labels(joined.evaluation_only):
            self._files.add_labels(labels)

    def process(self, input_name: str, records: Records) -> ShardOutput:
        """Process the next records of a partition of an input, and write their output."""
        if input_name in self._decoders:
            # decode before the measurement: the shared decoder then returns this batch again
            self._decoders[input_name].read(records)
        with self._cpu_measured():
            output = self._cluster.process(input_name, records)
            self._tally.add(output)
            self._files.add(output.alerts, output.dead_letters)
            from_table = not isinstance(records.values, list)
            self._notes.add_batch(input_name, output, from_table=from_table)
            if (events := output.event_columns) is not None:
                clear_rows, unclear_verdicts = split_unclear(events)
                self._notes.add_unclear_verdicts(input_name, unclear_verdicts)
                clear_events = events.take(clear_rows) if unclear_verdicts else events
                self._files.add_labels(labels_among(clear_events))
        return output

    def enqueue(self, records: Records, output: ShardOutput, due_ms: I64) -> None:
        """Queue the output for the internal stages. due_ms: int64[n], when each event is due."""
        with self._cpu_measured():
            self._cluster.enqueue(records, output, due_ms)

    def advance(self, until_ms: float) -> None:
        """Process the queued events that are due before until_ms in the internal stages, and write their
        output. until_ms: an event time that every log has reached."""
        with self._cpu_measured():
            advanced = self._cluster.advance(until_ms)
            self._tally.add_alerts(advanced.alerts)
            self._files.add(advanced.alerts, [], advanced.scored)

    @contextmanager
    def _cpu_measured(self) -> Iterator[None]:
        """Count the CPU time of the block."""
        started_s = process_time()
        yield
        self.cpu_s += process_time() - started_s

    def state_bytes(self) -> int:
        """The size of the state of all shards."""
        return self._cluster.state_bytes()

    def states(self) -> Iterator[PartitionState]:
        """The learned state, by partition of every log."""
        return self._cluster.states()

    def finish(self, render: Render | None) -> Summary:
        """Write the tables, evaluate them, and publish all files under their names."""
        self._files.close()
        self._tally.add_shards(self.config, self._cluster)
        del self._cluster  # the evaluation needs its memory
        evaluation = evaluate_run(self.config, self._files)
        self._tally.labels_accepted = self._files.labels_accepted
        self._tally.notes = list(self._notes.sentences(self._tally))
        incidents = self._files.incidents_opened()
        seconds = perf_counter() - self._started_at
        name = self.request.name
        summary = summarize(name, self.config, self._tally, incidents, evaluation, seconds)
        self._files.finish(summary, render(summary) if render else None)
        return summary


def _cluster(
    request: RunRequest,
    run: RunInfo,
    selection: ScoreSelection,
    decoders: Mapping[str, SharedDecoder],
) -> InMemoryCluster:
    """The shards of a run. The topic of a record is that of its input; for labels it is the input's name."""
    config = request.config
    recorded = {source.topic: source.log for source in request.event_inputs if source.log}
    topics = {name: spec.topic for name, spec in config.inputs.items()}
    topics |= {source.name: source.topic for source in request.event_inputs if not source.log}
    topics |= {source.name: source.name for source in request.label_inputs}
    shards = ShardFactory(config, run, topics, decoders, selection)
    return InMemoryCluster(config, run, topics, selection, recorded, shards)
