"""One configuration over the inputs of a replay: its stages, what they led to, what is written.

A replay has one, a comparison several. Reads nothing itself: it is handed records in the order of
their logs, and told how far in event time all of them have come.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from types import TracebackType
from typing import Final, NamedTuple, Self

from detectors.numeric.hashing import hash_key
from schemas.columns import I64
from schemas.records import Records
from stream.clock import now_text
from stream.config import Config, fingerprint
from stream.errors import InputError
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.cluster import Advanced, InMemoryCluster, PartitionState
from stream.pipeline.decoding import SharedDecoder
from stream.pipeline.scores import ScoreSelection
from stream.pipeline.shard import ShardFactory, ShardOutput
from stream.replay import manifest
from stream.replay.evaluation import evaluate_run
from stream.replay.final_labels import labels_among, read_labels
from stream.replay.inputs import Input, InputLocations, find_inputs
from stream.replay.label_verdicts import split_unclear
from stream.replay.labels import JoinedLabels
from stream.replay.manifest import Provenance
from stream.replay.notes import ReplayNotes
from stream.replay.run_files import OWN_FILES, RunFiles, make_folder, require_replay_folder
from stream.replay.summary import Summary, Tally, summarize
from stream.replay.time_split import EvaluationSpan, TimeSplit

NOTHING: Final = Advanced([], [], [])


class RunRequest(NamedTuple):
    """A run that is asked for: what it follows from, its inputs found, and where it goes.

    name: what the page calls it. features: whether those are written down, too.
    """

    name: str
    config: Config
    out_dir: Path
    events: list[Input]
    labels: list[Input]
    split: TimeSplit
    features: bool = False

    def provenance(self) -> Provenance:
        """What all that comes of it follows from; reads every local file."""
        events, labels = ([one.source() for one in some] for some in (self.events, self.labels))
        return manifest.provenance(self.config, events, labels, self.split, self.features)

    def sources(self) -> list[Input]:
        """The events' but for internal topics."""
        return [one for one in self.events if one.log is None]


def run_request(
    name: str,
    config: Config,
    out_dir: Path,
    inputs: InputLocations,
    labels: InputLocations,
    split: TimeSplit,
    opened: ExitStack,
    *,
    features: bool = False,
) -> RunRequest:
    """What is asked for, its inputs found. opened: closes them. Raises InputError for inputs that
    cannot be used, or do not go together."""
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    events, known = (find_inputs(config, some, opened) for some in (inputs, labels))
    request = RunRequest(name, config, out_dir, events, known, split, features)
    topics: dict[str, str] = {}
    for one in (*events, *known):
        topic = one.topic if one in events else one.name
        if topic in topics:
            raise InputError(
                f"{one.name}: its records, and those of {topics[topic]}, are of {topic}, and would "
                "be mistaken for each other; expected each topic once, and no name for events and "
                "labels both"
            )
        topics[topic] = one.name
    internal = len(request.sources()) < len(events) or any(one.log for one in known)
    if internal and labels:
        raise InputError(
            "--labels: an internal topic does not hold the events that labels are joined to, and "
            "has its own labels among its events; expected inputs"
        )
    if internal and split.warm_up_s is not None:
        raise InputError(
            "--warm-up: an internal topic does not say when its events began; expected --score-from"
        )
    return request


class ReplayRun:
    """A configuration at work on recorded events, and the folder that holds what came of it.

    origin: what it all follows from. span: what is evaluated. decoders: by input, what decodes it for
    several runs at once. Raises InputError for
    a folder that cannot be used, before anything is read.
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
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        recorded = {one.topic: one.log for one in request.events if one.log}
        topics = {one: spec.topic for one, spec in config.inputs.items()}
        topics |= {one.name: one.topic for one in request.events if not one.log}
        topics |= {one.name: one.name for one in request.labels}  # joined, they are a file's
        selection = ScoreSelection(scores=True, feature_values=provenance.features)
        self._decoders = decoders or {}
        shards = ShardFactory(config, run, topics, decoders, selection)
        self._cluster = InMemoryCluster(config, run, topics, selection, recorded, shards)
        self._advanced = NOTHING
        self._tally = Tally(span)
        self._notes = ReplayNotes(config)
        identity = Identity(config.group, config.mode)
        alert_builder = AlertBuilder(
            hash_key(config.secret), frozenset(config.reveal), run, identity
        )
        self._files = RunFiles(request.out_dir, config, alert_builder, span, provenance)
        self._started_at = perf_counter()
        self.cpu_s = 0.0
        """What the run has cost this process so far, less what it shares with others."""

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
        """A folder for what is needed only while it runs."""
        return self._files.work_dir

    def add_joined_labels(self, name: str, joined: JoinedLabels) -> None:
        """Take what became of an input of labels, but for those that it will read."""
        self._tally.labels[name] = joined.counts
        self._tally.dead_letters += joined.counts["dead_letters"]
        self._notes.add_unclear_verdicts(name, joined.unclear)
        self._notes.add_dead_letters(joined.dead_letters)
        self._files.add([], joined.dead_letters)
        for heard in read_labels(joined.evaluation_only):
            self._files.add_labels(heard)

    def process(self, input_name: str, records: Records) -> ShardOutput:
        """Take the next records of a partition of an input; the output is to be enqueued."""
        if input_name in self._decoders:
            self._decoders[input_name].read(records)
        with self._cpu_measured():
            output = self._cluster.process(input_name, records)
            self._tally.add(output)
            self._files.add(output.alerts, output.dead_letters)
            clear, unclear = split_unclear(output.events)
            of_table = not isinstance(records.values, list)
            self._notes.add_batch(input_name, output, of_table=of_table)
            self._notes.add_unclear_verdicts(input_name, unclear)
            self._files.add_labels(
                labels_among(output.events.take(clear) if unclear else output.events)
            )
        return output

    def enqueue(self, records: Records, output: ShardOutput, due_ms: I64) -> None:
        """Let the output for records wait until it is due. due_ms: int64[n] of its events."""
        with self._cpu_measured():
            self._cluster.enqueue(records, output, due_ms)

    def advance(self, until_ms: float) -> None:
        """Process what waited for earlier events: every input has come so far. The output is written
        at the next call, after that of the next records, or by `settle`."""
        self.settle()
        with self._cpu_measured():
            self._advanced = self._cluster.advance(until_ms)

    def settle(self) -> None:
        """Write the output of the last advance."""
        with self._cpu_measured():
            advanced, self._advanced = self._advanced, NOTHING
            self._tally.add_alerts(advanced.alerts)
            self._files.add(advanced.alerts, [], advanced.scored)

    @contextmanager
    def _cpu_measured(self) -> Iterator[None]:
        """What is done within costs the run."""
        began = process_time()
        yield
        self.cpu_s += process_time() - began

    def state_bytes(self) -> int:
        """What all its shards hold now."""
        return self._cluster.state_bytes()

    def states(self) -> Iterator[PartitionState]:
        """What was learned, by partition of every log."""
        return self._cluster.states()

    def finish(self) -> Summary:
        """Give every file its name; what the run led to."""
        self._files.close()
        self._tally.add_shards(self.config, self._cluster)
        del self._cluster  # evaluation needs memory of its own
        evaluation = evaluate_run(self.config, self._files)
        self._tally.labels_accepted = self._files.labels_accepted
        self._tally.notes = list(self._notes.sentences(self._tally))
        seconds = perf_counter() - self._started_at
        opened = self._files.incidents_opened()
        summary = summarize(
            self.request.name, self.config, self._tally, opened, evaluation, seconds
        )
        self._files.finish(summary)
        return summary
