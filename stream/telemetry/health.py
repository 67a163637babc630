"""The worker's HTTP server: /metrics, /healthz and /readyz.

It reads only the metrics and the health that the worker's thread has published. Its resources are
bounded: one thread, `CONNECTIONS_MAX` connections, `REQUEST_S` each. When all connections are used,
the oldest is closed for a new one. The maintained WSGI servers stop accepting instead, so that idle
clients would hide a live worker.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from threading import Thread
from typing import Final

import structlog

from stream.errors import ConfigError
from stream.telemetry.collector import CONTENT_TYPE, MetricsCollector
from stream.telemetry.metrics import WorkerState

logger = structlog.stdlib.get_logger(__name__)

BEAT_OVERDUE_S: Final = 120.0
"""A worker that has not beaten for so long hangs.

It beats once a turn of its loop, and while it loads and writes checkpoints. While it waits for a
broker it beats before every pause between two tries, so that at most one call and one pause lie
between two beats (`stream.kafka.client_errors`: CALL_TIMEOUT_S, RETRY_PAUSE_MAX_S). Compiling the
kernels at the first batch takes less than a minute.
"""

BROKER_SILENT_S: Final = 30.0
"""A worker that no broker has answered for so long is not ready."""

CONNECTIONS_MAX: Final = 32
REQUEST_S: Final = 5.0
"""The longest time from accepting a connection to its last byte."""
REQUEST_BYTES_MAX: Final = 8 * 1024
BACKLOG_MAX: Final = 1_024
"""Connections that the kernel queues until they are accepted; they use no file descriptor."""
ACCEPT_RETRY_S: Final = 0.5
LOG_INTERVAL_S: Final = 60.0
_PLAIN: Final = "text/plain; charset=utf-8"

Response = tuple[int, str, bytes]
"""Status, content type and body."""


class WorkerHealth:
    """The health of a worker: its state, its last beat, the last answer of a broker, and other reasons
    for not being ready."""

    def __init__(self) -> None:
        self.state: WorkerState = "joining"
        self.unready_reasons: tuple[str, ...] = ()
        self._beat_at = self._broker_answered_at = time.monotonic()

    def beat(self, state: WorkerState | None = None) -> None:
        """Record that the worker is alive, in a new state or the same."""
        self._beat_at = time.monotonic()
        self.state = state or self.state

    def broker_answered(self) -> None:
        """Record that a broker has answered."""
        self._broker_answered_at = time.monotonic()

    def since_beat_s(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._beat_at

    def is_broker_silent(self) -> bool:
        """Whether no broker has answered for `BROKER_SILENT_S`; the ends of logs are unknown then."""
        return self._since_broker_answered_s() >= BROKER_SILENT_S

    def _since_broker_answered_s(self) -> float:
        return time.monotonic() - self._broker_answered_at

    def reasons_not_ready(self) -> list[str]:
        """Why the worker is not ready; empty where it is."""
        reasons: list[str] = [] if self.state == "live" else [self.state]
        if self.is_broker_silent():
            reasons.append(f"no broker has answered for {self._since_broker_answered_s():.0f} s")
        return [*reasons, *self.unready_reasons]


def respond(path: str, metrics: MetricsCollector, health: WorkerHealth) -> Response:
    """Make the response for a path."""
    match path:
        case "/metrics":
            if health.is_broker_silent():  # the worker's thread may be waiting for the broker
                metrics.drop("eddy_lag")
            return 200, CONTENT_TYPE, metrics.exposition()
        case "/healthz":
            since_beat_s = health.since_beat_s()
            status = 200 if since_beat_s < BEAT_OVERDUE_S else 503
            return status, _PLAIN, f"the last beat was {since_beat_s:.1f} s ago\n".encode()
        case "/readyz":
            reasons = health.reasons_not_ready()
            body = "".join(f"{reason}\n" for reason in reasons or ["live"])
            return 503 if reasons else 200, _PLAIN, body.encode()
        case _:
            return 404, _PLAIN, b"expected /metrics, /healthz or /readyz\n"


@contextmanager
def serve_health(
    address: tuple[str, int], metrics: MetricsCollector, health: WorkerHealth
) -> Iterator[str]:
    """Serve at a host and port (0: any free one) while the context lasts; yield host:port.

    Raises ConfigError where that is not possible.
    """
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.create_server(address, family=family, backlog=BACKLOG_MAX)
    except (OSError, ValueError) as error:  # a ValueError where the host is not a valid name
        raise ConfigError(
            [f"worker.http_port: got {address[1]} on {address[0]}; expected a free port: {error}"]
        ) from error
    server = _Server(listener, lambda path: respond(path, metrics, health))
    served_at = f"{address[0]}:{listener.getsockname()[1]}"
    logger.info("serving /metrics, /healthz, /readyz", address=served_at)
    try:
        yield served_at
    finally:
        server.stop()


class _Server:
    """Answers GET and HEAD requests, one per connection, in its own thread."""

    def __init__(self, listener: socket.socket, respond: Callable[[str], Response]) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._make_response = respond
        self._loop = asyncio.new_event_loop()
        self._open: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._accepting = self._loop.create_task(self._accept())
        self._logged_at = -LOG_INTERVAL_S
        self._thread = Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close every connection, and return when the port is free."""
        self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join()

    def _run(self) -> None:
        with closing(self._loop), closing(self._listener), suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)

    async def _accept(self) -> None:
        try:
            while True:
                try:
                    client, _ = await self._loop.sock_accept(self._listener)
                except OSError as error:  # no file descriptor is left
                    self._log_failure(error)
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                while len(self._open) >= CONNECTIONS_MAX:
                    oldest = next(iter(self._open))
                    del self._open[oldest]
                    oldest.cancel()
                task = self._loop.create_task(self._exchange(client))
                self._open[task] = None
                task.add_done_callback(lambda done: self._open.pop(done, None))
                await asyncio.sleep(0)  # lets cancelled tasks close their connections
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _exchange(self, client: socket.socket) -> None:
        with closing(client):
            try:
                async with asyncio.timeout(REQUEST_S):
                    reader, writer = await asyncio.open_connection(
                        sock=client, limit=REQUEST_BYTES_MAX
                    )
                    with closing(writer.transport):
                        writer.write(self._response(await reader.readuntil(b"\r\n\r\n")))
                        await writer.drain()
                        writer.close()
                        await writer.wait_closed()
            except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                return

    def _log_failure(self, error: OSError) -> None:
        """Log the failure at most once a minute, since accepting is retried twice a second."""
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            logger.warning("the health server cannot accept a connection", error=str(error))

    def _response(self, head: bytes) -> bytes:
        method, path = _request(head)
        status, content_type, body = 405, _PLAIN, b"expected GET or HEAD\n"
        if method in {"GET", "HEAD"}:
            status, content_type, body = self._make_response(path)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "\r\n"]).encode() + (b"" if method == "HEAD" else body)


def _request(head: bytes) -> tuple[str, str]:
    """Method, and path without the query; two empty texts if it is not an HTTP request."""
    parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return "", ""
    return parts[0], parts[1].partition("?")[0]
