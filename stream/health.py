"""One small HTTP server beside the worker: /metrics, /healthz and /readyz.

It only reads what the worker's thread has left on the board; it never asks a shard or a client.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final

import structlog

from stream.errors import ConfigError
from stream.metrics import CONTENT_TYPE, Board, State

log = structlog.stdlib.get_logger(__name__)

ALIVE_S: Final = 120.0
"""A loop that has not turned for so long hangs.

While a broker is waited for the pulse beats after every call and before every pause, so that the
longest silence is a call and a pause (`stream.kafka.failures`: CALL_S, PAUSE_S), whatever
transaction.timeout.ms is; it beats while checkpoints are loaded and written, too; compiling the
kernels at the first batch takes less than a minute.
"""


class Pulse:
    """What the loop says of itself: when it last turned, and what it is doing."""

    def __init__(self) -> None:
        self.state: State = "joining"
        self._at = time.monotonic()

    def beat(self, state: State | None = None) -> None:
        """The loop has turned, in that state, or in the one it was in."""
        self._at = time.monotonic()
        self.state = state or self.state

    def silent_s(self) -> float:
        """Seconds since the loop last turned."""
        return time.monotonic() - self._at


def answer(path: str, board: Board, pulse: Pulse) -> tuple[int, str, bytes]:
    """Status, content type and body for a path."""
    plain = "text/plain; charset=utf-8"
    match path:
        case "/metrics":
            return 200, CONTENT_TYPE, board.exposition()
        case "/healthz":
            silent_s = pulse.silent_s()
            status = 200 if silent_s < ALIVE_S else 503
            return status, plain, f"the loop turned {silent_s:.1f} s ago\n".encode()
        case "/readyz":
            status = 200 if pulse.state == "live" else 503
            return status, plain, f"{pulse.state}\n".encode()
        case _:
            return 404, plain, b"there are /metrics, /healthz and /readyz\n"


@contextmanager
def serving(address: tuple[str, int], board: Board, pulse: Pulse) -> Iterator[str]:
    """Serve at that host and port (0: any free one) while the context lasts; yields host:port.

    Raises ConfigError where nobody may listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content_type, body = answer(self.path.partition("?")[0], board, pulse)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Scrapes are not worth a line each."""

    try:
        server = ThreadingHTTPServer(address, Handler)
    except OSError as error:
        raise ConfigError(
            [f"worker.http_port: got {address[1]} on {address[0]}; expected a free one: {error}"]
        ) from error
    thread = Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    where = f"{address[0]}:{server.server_address[1]}"
    log.info("serving /metrics, /healthz, /readyz", address=where)
    try:
        yield where
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
