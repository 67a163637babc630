"""`--jobs`: shards in processes of their own, and what goes to and fro between them and the replay.

A shard is a fold over its partition, wherever it lives. The replay hands out the next records of
several, and takes what came of them in the order in which it would have made them itself; so the
results are the same, byte for byte. Between processes travel Arrow and MessagePack, never a pickle.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket, socketpair
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa

from detectors.state import Arrays
from schemas.alerts import Alert
from schemas.codecs.internal_events import InternalEventCodec
from schemas.columns import I64, EventBatch
from schemas.records import Records
from stream import errors
from stream.clock import now_text
from stream.config import Config, Log, logs
from stream.errors import EddyError, JobLost
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import InternalShard, Shard, ShardFactory, ShardOutput
from stream.pipeline.stages import InternalRecord, Stage
from stream.pipeline.stages.watch import ScoreColumns, ScoreSelection

_TEXT: Final = pa.schema([("", pa.string())])
DONE, FAILED = b"+", b"-"
PATIENCE_S: Final = 10.0
"""How long a process that has closed its connection may take to end."""


# -- what travels ---------------------------------------------------------------------------------


class _Begin(msgspec.Struct, frozen=True, tag=True):
    """What the shards of a run are made of."""

    run: int
    config: Config
    run_id: str
    topics: dict[str, str]
    selection: ScoreSelection


class _Make(msgspec.Struct, frozen=True, tag=True):
    """A shard of a partition of one of the run's logs."""

    shard: int
    run: int
    log: str
    partition: int
    internal: bool


class _Process(msgspec.Struct, frozen=True, tag=True):
    """The next records of a shard. values: of records of bytes; table: of a columnar file."""

    shard: int
    topic: str
    partition: int
    offset: I64
    timestamp_ms: I64
    values: list[bytes | None] | None
    table: bytes | None
    headers: list[list[tuple[str, bytes | None]]] | None
    append_ms: I64 | None

    def records(self) -> Records:
        """The records as they were."""
        values = pa.ipc.open_stream(self.table).read_all() if self.table else self.values
        return Records(
            self.topic,
            self.partition,
            self.offset,
            self.timestamp_ms,
            values,
            self.headers,
            None if self.append_ms is None else self.append_ms >= 0,
        )


class _Judge(msgspec.Struct, frozen=True, tag=True):
    """The next events of a shard behind an internal log."""

    shard: int
    events: EventBatch


class _Verdict(msgspec.Struct, frozen=True):
    """What came of events that who asks has: an Emitted without them."""

    alerts: list[Alert]
    scores: dict[str, ScoreColumns]
    internal: list[InternalRecord]


class _Counts(msgspec.Struct, frozen=True, tag=True):
    """A shard's counters are wanted."""

    shard: int


class _Save(msgspec.Struct, frozen=True, tag=True):
    """A shard's state is wanted."""

    shard: int


Request = _Begin | _Make | _Process | _Judge | _Counts | _Save
Counts = dict[str, dict[str, int]]
_Error = tuple[str, str]
"""The error's name and message."""
_Read = Callable[[bytes], Any]


def _encoded(what: object) -> bytes:
    return msgspec.msgpack.encode(what, enc_hook=_to_plain)


@cache
def _decoder(kind: Any) -> "msgspec.msgpack.Decoder[Any]":
    """What reads answers of a kind; made where they are asked for, never by the threads that wait
    for them: msgspec crashes where two learn of a type at once."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_of_plain)


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        whole = np.ascontiguousarray(value)
        return value.dtype.str, list(value.shape), whole.reshape(-1).view(np.uint8).data
    if isinstance(value, pa.StringArray):  # its kind is known there: no schema travels with it
        return pa.RecordBatch.from_arrays([value], schema=_TEXT).serialize().to_pybytes()
    if isinstance(value, str):  # of the environment
        return str(value)
    raise TypeError(f"no way to send a {type(value).__name__} to another process")


def _of_plain(_kind: Any, value: Any) -> Any:
    if isinstance(value, bytes):
        return pa.ipc.read_record_batch(pa.py_buffer(value), _TEXT).column(0)
    dtype, shape, body = value
    # in memory of its own: kernels are compiled anew for what may not be written
    return np.frombuffer(bytearray(body), np.dtype(dtype)).reshape(shape)


def _stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


# -- in the replay's process ----------------------------------------------------------------------


class Jobs:
    """So many processes that hold shards, each new shard in the next one."""

    def __init__(self, count: int) -> None:
        ends = [socketpair() for _ in range(count)]
        theirs = [their.fileno() for _, their in ends]
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            [sys.executable, "-c", f"import {__name__} as it; it.serve_all({theirs})"],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # a terminal's Ctrl-C is for who asks, whose end is this one's too
        )
        for _, their in ends:
            their.close()
        self._crew = [_Job(ours, self._process) for ours, _ in ends]
        self._runs = self._shards = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):  # they hold nothing that is to be kept
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for job in self._crew:
            job.close()

    def making(
        self, config: Config, run: RunInfo, topics: Mapping[str, str], selection: ScoreSelection
    ) -> "RemoteShardFactory":
        """Makes the shards of a configuration in these processes."""
        number, self._runs = self._runs, self._runs + 1
        alone = msgspec.structs.replace(config, kafka={})  # what reaches no broker needs no login
        for job in self._crew:
            job.ask(_Begin(number, alone, run.run_id, dict(topics), selection), None)
        return RemoteShardFactory(ShardFactory(config, run, topics), number, self.next_place)

    def next_place(self) -> tuple["_Job", int]:
        """Where the next shard goes, and its number."""
        number, self._shards = self._shards, self._shards + 1
        return self._crew[number % len(self._crew)], number


class _Job:
    """One process; what it is asked it answers in that order. A thread waits for it, so that
    neither side writes while nobody reads. parent: what it was forked from."""

    def __init__(self, ours: socket, parent: "subprocess.Popen[bytes]") -> None:
        self._parent = parent
        self._connection = Connection(ours.detach())
        self._thread = ThreadPoolExecutor(1)

    def ask(self, request: Request, kind: Any) -> "Future[Any]":
        """What it answers, of that kind. Raises what went wrong there."""
        read, read_error = (_decoder(one).decode for one in (kind, _Error))
        return self._thread.submit(self._asked, _encoded(request), read, read_error)

    def _asked(self, body: bytes, read: _Read, read_error: _Read) -> Any:
        try:
            self._connection.send_bytes(body)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            code = self._parent.wait(PATIENCE_S)
            raise JobLost(f"a process of --jobs ended with exit code {code}") from error
        if answer[:1] == DONE:
            return read(answer[1:])
        name, message = read_error(answer[1:])
        known = getattr(errors, name, None)
        if isinstance(known, type) and issubclass(known, EddyError):
            raise known(message)
        raise RuntimeError(message)

    def close(self) -> None:
        """Hear no more of it."""
        self._thread.shutdown(cancel_futures=True)
        self._connection.close()


Place = Callable[[], tuple[_Job, int]]


class RemoteShardFactory:
    """Makes the shards of a configuration in other processes; as `ShardFactory` for a chain."""

    def __init__(self, own: ShardFactory, run: int, place: Place) -> None:
        self._own = own
        self._run = run
        self._place = place

    def source(self, input_name: str, partition: int = 0) -> Shard:
        """The shard of a partition of an input."""
        job, number = self._place()
        return _SourceElsewhere(job, _Make(number, self._run, input_name, partition, False))

    def internal(self, log: Log, partition: int = 0) -> InternalShard:
        """The shard of a partition of an internal log."""
        job, number = self._place()
        make = _Make(number, self._run, log.name, partition, True)
        return _InternalElsewhere(self._own.codec(log), job, make)


class _Elsewhere(Shard):
    """A shard in another process."""

    def _make(self, job: _Job, make: _Make) -> None:
        self._job = job
        self._number = make.shard
        job.ask(make, None)

    def counts(self) -> Counts:
        """Its counters."""
        found: Counts = self._job.ask(_Counts(self._number), Counts).result()
        return found

    def save(self) -> Arrays:
        """A copy of its state."""
        found: Arrays = self._job.ask(_Save(self._number), dict[str, np.ndarray]).result()
        return found

    def _stages(self) -> dict[str, Stage[Any, Any]]:
        raise NotImplementedError("its stages are in another process")


class _SourceElsewhere(_Elsewhere):
    """The shard of a partition of an input, in another process."""

    def __init__(self, job: _Job, make: _Make) -> None:
        self._make(job, make)

    def process(self, records: Records) -> ShardOutput:
        """Take the next records of the log."""
        return self.begin(records)()

    def begin(self, records: Records) -> Callable[[], ShardOutput]:
        """Send records; what came of them."""
        listed = isinstance(records.values, list)
        request = _Process(
            self._number,
            records.topic,
            records.partition,
            records.offset,
            records.timestamp_ms,
            records.values if listed else None,
            None if listed else _stream_of(records.values),
            None if records.headers is None else [list(one) for one in records.headers],
            records.append_ms,
        )
        return self._job.ask(request, ShardOutput).result


class _InternalElsewhere(_Elsewhere, InternalShard):
    """The shard of a partition of an internal log, in another process; messages are read here."""

    def __init__(self, codec: InternalEventCodec, job: _Job, make: _Make) -> None:
        super().__init__(codec)
        self._make(job, make)

    def process_events(self, events: EventBatch) -> ShardOutput:
        """Let the stage take the events."""
        return self.begin_events(events)()

    def begin_events(self, events: EventBatch) -> Callable[[], ShardOutput]:
        """Send events; what came of them."""
        asked = self._job.ask(_Judge(self._number, events), _Verdict)

        def ended() -> ShardOutput:
            found: _Verdict = asked.result()
            return ShardOutput(events, found.alerts, [], found.scores, found.internal)

        return ended


# -- in the other processes -----------------------------------------------------------------------


class _Bench:
    """The shards of this process, by number."""

    def __init__(self) -> None:
        self._makers: dict[int, ShardFactory] = {}
        self._logs: dict[int, dict[tuple[str, bool], Log]] = {}
        self._shards: dict[int, Shard] = {}

    def answer(self, request: Request) -> object:
        """What is asked."""
        if isinstance(request, _Begin):
            run = RunInfo("replay", request.run_id, now_text)
            self._makers[request.run] = ShardFactory(
                request.config, run, request.topics, selection=request.selection
            )
            known = logs(request.config)
            self._logs[request.run] = {(log.name, log.internal): log for log in known}
            return None
        if isinstance(request, _Make):
            log = self._logs[request.run][request.log, request.internal]
            maker = self._makers[request.run]
            self._shards[request.shard] = maker.make(log, request.partition)
            return None
        shard = self._shards[request.shard]
        if isinstance(request, _Process):
            return shard.process(request.records())
        if isinstance(request, _Judge):
            assert isinstance(shard, InternalShard)
            judged = shard.process_events(request.events)
            return _Verdict(judged.alerts, judged.scores, judged.internal)
        return shard.save() if isinstance(request, _Save) else shard.counts()


def serve_all(descriptors: list[int]) -> None:
    """Answer on each of the sockets in a process of its own, forked when all is loaded, as long as
    somebody asks. The first that does not end well ends this one, by the same exit code."""
    import stream.runtime.preload  # noqa: F401 - seconds, and no thread

    for descriptor in descriptors:
        if not os.fork():
            for other in set(descriptors) - {descriptor}:  # their ends are to be seen
                os.close(other)
            serve(descriptor)
            os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
    for _ in descriptors:
        _, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        if code:
            sys.exit(code if code > 0 else 128 - code)


def serve(descriptor: int) -> None:
    """Answer on that socket until nobody asks any more."""
    connection, bench = Connection(descriptor), _Bench()
    while True:
        try:
            request = _decoder(Request).decode(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = DONE + _encoded(bench.answer(request))
        except EddyError as error:
            answer = FAILED + _encoded((type(error).__name__, error.message))
        except Exception:  # noqa: BLE001  # it is told to who asked, and raised there
            answer = FAILED + _encoded(("", traceback.format_exc()))
        connection.send_bytes(answer)
