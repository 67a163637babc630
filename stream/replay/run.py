"""One configuration over the inputs of a replay: its stages, what they led to, what is written.

A replay has one, a comparison several. Reads nothing itself: it is handed records in the order of
their logs, and told how far in event time all of them have come.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from types import TracebackType
from typing import NamedTuple, Self

from detectors.hashing import hash_key
from schemas.columns import I64
from schemas.records import Records
from stream.alerting import Identity, RunInfo, Teller
from stream.chain import Advanced, Chain, State
from stream.clock import now_text
from stream.config import Config, fingerprint
from stream.decoding import SharedDecoder
from stream.errors import InputError
from stream.replay import manifest
from stream.replay.jobs import Jobs
from stream.replay.judged import judged
from stream.replay.labels import JoinedLabels, without_unclear
from stream.replay.last_words import labels_in, labels_of
from stream.replay.manifest import Origin
from stream.replay.notes import Notes
from stream.replay.opening import Input, Named, found
from stream.replay.recording import OWN, Recording, make_folder, refuse_foreign
from stream.replay.span import Span, Split
from stream.replay.summary import Summary, Tally, summarize
from stream.shard import Emitted, Shards
from stream.stages.watch import Wanted


def _nothing() -> Advanced:
    return [], []


class Asked(NamedTuple):
    """A run that is asked for: what it follows from, its inputs found, and where it goes.

    name: what the page calls it. features: whether those are written down, too.
    """

    name: str
    config: Config
    out_dir: Path
    events: list[Input]
    labels: list[Input]
    split: Split
    features: bool = False

    def origin(self) -> Origin:
        """What all that comes of it follows from; reads every local file."""
        events, labels = ([one.source() for one in some] for some in (self.events, self.labels))
        return manifest.origin(self.config, events, labels, self.split, self.features)

    def sources(self) -> list[Input]:
        """The events' but for internal topics."""
        return [one for one in self.events if one.log is None]


def asked_for(
    name: str,
    config: Config,
    out_dir: Path,
    inputs: Named,
    labels: Named,
    split: Split,
    opened: ExitStack,
    *,
    features: bool = False,
) -> Asked:
    """What is asked for, its inputs found. opened: closes them. Raises InputError for inputs that
    cannot be used, or do not go together."""
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    events, known = (found(config, some, opened) for some in (inputs, labels))
    asked = Asked(name, config, out_dir, events, known, split, features)
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
    internal = len(asked.sources()) < len(events) or any(one.log for one in known)
    if internal and labels:
        raise InputError(
            "--labels: an internal topic does not hold the events that labels are joined to, and "
            "has its own labels among its events; expected inputs"
        )
    if internal and split.warm_up_s is not None:
        raise InputError(
            "--warm-up: an internal topic does not say when its events began; expected --score-from"
        )
    return asked


class Run:
    """A configuration at work on recorded events, and the folder that holds what came of it.

    origin: what it all follows from. span: what is judged. decoders: by input, what decodes it for
    several runs at once. jobs: where its shards live, if not in this process. Raises InputError for
    a folder that cannot be used, before anything is read.
    """

    def __init__(
        self,
        asked: Asked,
        origin: Origin,
        span: Span,
        decoders: Mapping[str, SharedDecoder] | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        refuse_foreign(asked.out_dir, OWN)
        make_folder(asked.out_dir)
        self.asked = asked
        self.config = config = asked.config
        run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
        recorded = {one.topic: one.log for one in asked.events if one.log}
        topics = {one: spec.topic for one, spec in config.inputs.items()}
        topics |= {one.name: one.topic for one in asked.events if not one.log}
        topics |= {one.name: one.name for one in asked.labels}  # joined, they are a file's
        wanted = Wanted(scores=True, told=origin.features)
        self._decoders = decoders or {}
        shards = (
            jobs.making(config, run, topics, wanted)
            if jobs
            else Shards(config, run, topics, decoders, wanted)
        )
        self._chain = Chain(config, run, topics, wanted, recorded, shards)
        self._advancing: Callable[[], Advanced] = _nothing
        self._tally = Tally(span)
        self._notes = Notes(config)
        identity = Identity(config.group, config.mode)
        teller = Teller(hash_key(config.secret), frozenset(config.reveal), run, identity)
        self._recording = Recording(asked.out_dir, config, teller, span, origin)
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
        """A folder for what is needed only while it runs."""
        return self._recording.work

    def take_joined(self, name: str, joined: JoinedLabels) -> None:
        """Take what became of an input of labels, but for those that it will read."""
        self._tally.labels[name] = joined.counts
        self._tally.dead_letters += joined.counts["dead_letters"]
        self._notes.take_verdicts(name, joined.unclear)
        self._notes.take_letters(joined.dead_letters)
        self._recording.add([], joined.dead_letters)
        for heard in labels_in(joined.aside):
            self._recording.add_labels(heard)

    def begin(self, input_name: str, records: Records) -> Callable[[], Emitted]:
        """Take the next records of a partition of an input; asked for in that order, what came of
        them, which `hold` is to be told."""
        return partial(self._take, input_name, records, self._chain.begin(input_name, records))

    def _take(self, input_name: str, records: Records, ended: Callable[[], Emitted]) -> Emitted:
        if input_name in self._decoders:
            self._decoders[input_name].read(records)
        with self._counted():
            emitted = ended()
            self._tally.add(emitted)
            self._recording.add(emitted.alerts, emitted.dead_letters)
            clear, unclear = without_unclear(emitted.events)
            of_table = not isinstance(records.values, list)
            self._notes.take(input_name, emitted, of_table=of_table)
            self._notes.take_verdicts(input_name, unclear)
            self._recording.add_labels(
                labels_of(emitted.events.take(clear) if unclear else emitted.events)
            )
        return emitted

    def hold(self, records: Records, emitted: Emitted, due_ms: I64) -> None:
        """Let what came of records wait until it is due. due_ms: int64[n] of its events."""
        with self._counted():
            self._chain.hold(records, emitted, due_ms)

    def advance(self, until_ms: float) -> None:
        """Let go on what waits for earlier events: every input has come so far. What comes of it is
        asked for when the next records have been sent, so that shards elsewhere are never without
        work."""
        self.settle()
        with self._counted():
            self._advancing = self._chain.begin_advance(until_ms)

    def settle(self) -> None:
        """Write down what came of all that was let go on."""
        with self._counted():
            alerts, judged = self._advancing()
            self._advancing = _nothing
            self._tally.add_alerts(alerts)
            self._recording.add(alerts, [], judged)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """What is done within costs the run."""
        began = process_time()
        yield
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
        self._tally.notes = list(self._notes.told(self._tally))
        seconds = perf_counter() - self._began
        opened = self._recording.incidents_opened()
        summary = summarize(self.asked.name, self.config, self._tally, opened, verdict, seconds)
        self._recording.finish(summary)
        return summary
