"""The health server: bounded, and answering whatever its clients do."""

import http.client
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from stream.errors import ConfigError
from stream.telemetry import health
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import CONNECTIONS_MAX, WorkerHealth, serve_health

IDLE = 900


@pytest.fixture
def where() -> Iterator[tuple[str, int]]:
    """The address of a server of a live worker."""
    worker_health = WorkerHealth()
    worker_health.beat("live")
    with serve_health(("127.0.0.1", 0), MetricsCollector(), worker_health) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough file descriptors for the clients of these tests."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def asked(where: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of a response."""
    with closing(http.client.HTTPConnection(*where, timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()


def is_closed(client: socket.socket) -> bool:
    """Whether the server closes the connection without a response."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("sent", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nX: "])
def test_idle_connections_neither_hide_the_worker_nor_cost_threads(
    where: tuple[str, int], sent: bytes
) -> None:
    """With 900 clients that never finish a request there is one thread, and requests are
    answered."""
    threads = threading.active_count()
    with ExitStack() as clients:
        for _ in range(IDLE):
            client = clients.enter_context(socket.create_connection(where, timeout=10))
            client.sendall(sent)
        assert threading.active_count() == threads
        assert asked(where, "/healthz")[0] == 200
        assert asked(where, "/readyz") == (200, b"live\n")
        assert b"eddy_commits_total" in asked(where, "/metrics")[1]
    assert asked(where, "/healthz")[0] == 200


@pytest.mark.usefixtures("descriptors")
def test_the_oldest_connection_makes_room_for_a_new_one(where: tuple[str, int]) -> None:
    """One connection too many closes the first; the others stay open."""
    with ExitStack() as clients:
        opened = [
            clients.enter_context(socket.create_connection(where, timeout=10))
            for _ in range(CONNECTIONS_MAX + 1)
        ]
        assert is_closed(opened[0])
        opened[1].sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert opened[1].recv(64).startswith(b"HTTP/1.1 200 OK")


def test_a_server_out_of_file_descriptors_recovers(
    where: tuple[str, int],
) -> None:
    """It does not end, and answers again later."""
    asked(where, "/healthz")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, before[1]))
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        client.settimeout(10)
        client.connect(where)  # the kernel accepts; the server cannot
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
    with closing(client):
        assert client.recv(64).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.usefixtures("descriptors")
def test_a_client_that_is_too_slow_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, where: tuple[str, int]
) -> None:
    """A request has a fixed time, from the connection to its last byte."""
    monkeypatch.setattr(health, "REQUEST_S", 0.01)
    with socket.create_connection(where, timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert is_closed(client)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /healthz?verbose HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
        (b"\x00\xff nonsense\r\n\r\n", b"405"),
        (b"GET /healthz\r\n\r\n", b"405"),
    ],
)
def test_other_requests_have_an_answer(
    where: tuple[str, int], request_: bytes, status: bytes
) -> None:
    """Methods and paths that are not served get an error status."""
    with socket.create_connection(where, timeout=10) as client:
        client.sendall(request_)
        assert client.recv(64).split()[1] == status


def test_a_head_request_has_no_body(where: tuple[str, int]) -> None:
    """As HTTP requires."""
    assert asked(where, "/healthz", "HEAD") == (200, b"")


@pytest.mark.parametrize("size", [9_000, 200_000])
def test_a_request_that_is_too_long_is_cut_off(where: tuple[str, int], size: int) -> None:
    """The server reads only a few kilobytes of it."""
    with socket.create_connection(where, timeout=10) as client:
        with suppress(ConnectionError):
            client.sendall(b"GET /" + b"x" * size)
        assert is_closed(client)
    assert asked(where, "/healthz")[0] == 200


@pytest.mark.parametrize("host", ["no such host", "x" * 300, "a..b"])
def test_a_host_that_is_none_is_a_mistake_of_the_configuration(host: str) -> None:
    """Every error that Python raises for such a name becomes a ConfigError."""
    with (
        pytest.raises(ConfigError, match=r"worker\.http_port"),
        serve_health((host, 0), MetricsCollector(), WorkerHealth()),
    ):
        pass


def test_readiness_names_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state, silent brokers, and problems of inputs."""
    worker_health = WorkerHealth()
    assert worker_health.reasons_not_ready() == ["joining"]
    worker_health.beat("live")
    assert worker_health.reasons_not_ready() == []
    worker_health.unready_reasons = ("pay: the last 1,000 records were all dead letters",)
    heard = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: heard + 31.0)
    worker_health.beat("relearning")
    assert worker_health.reasons_not_ready() == [
        "relearning",
        "no broker has answered for 31 s",
        "pay: the last 1,000 records were all dead letters",
    ]
    worker_health.broker_answered()
    worker_health.beat("live")
    worker_health.unready_reasons = ()
    assert worker_health.reasons_not_ready() == []
    assert health.respond("/readyz", MetricsCollector(), worker_health)[::2] == (200, b"live\n")


def test_lag_is_absent_while_no_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last known end of the log is out of date, and the worker's thread may be waiting for the
    broker."""
    worker_health, metrics = WorkerHealth(), MetricsCollector()
    metrics.replace({"eddy_lag": {("pay", "0"): 0.0}, "eddy_relearn_left": {("pay", "0"): 0.0}})
    lag = b'eddy_lag{input="pay",partition="0"} 0.0'
    assert lag in health.respond("/metrics", metrics, worker_health)[2]
    monkeypatch.setattr(
        worker_health, "_broker_answered_at", time.monotonic() - health.BROKER_SILENT_S
    )
    silent = health.respond("/metrics", metrics, worker_health)[2]
    assert lag not in silent
    assert b"eddy_relearn_left{" in silent
