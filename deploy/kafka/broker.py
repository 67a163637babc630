#!/usr/bin/env python3
"""Run a real Kafka broker on this machine, or several, for development and tests; never for
production.

It needs Java 17 and, the first time, Maven. The jars of pom.xml go into a cache folder (`.kafka`
in the repository, or $EDDY_KAFKA_HOME) and are checked against jars.sha256 at every start; then a
KRaft node is formatted and started on 127.0.0.1, or a cluster of --nodes, in which every topic has
up to three copies. When all take requests, one line `bootstrap=127.0.0.1:PORT,…` goes to standard
output. It runs in the foreground until SIGTERM or SIGINT, and the brokers die with it, however it
ends.

Exit codes: 0 stopped, 1 the broker failed, 2 wrong arguments, 3 Java or Maven is missing.
"""

import argparse
import base64
import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
JARS = HERE / "jars.sha256"
"""The SHA-256 of every jar that pom.xml leads to, as sha256sum writes it."""
COPY = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
JAVA_AT_LEAST = 17
START_SECONDS = 90
STOP_SECONDS = 20
LOOK_SECONDS = 0.2
EXIT_FAILED = 1
EXIT_MISSING = 3
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


class MissingError(Exception):
    """Something that must be installed on the machine is not."""


class BrokerError(Exception):
    """The jars could not be fetched, or the broker did not start or did not stay."""


@dataclass(frozen=True)
class Node:
    """One broker that is its own controller. A cluster is a list of them."""

    number: int
    folder: Path
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def controller(self) -> str:
        """Where the other nodes' controllers connect."""
        return f"127.0.0.1:{self.controller_port}"

    @property
    def properties_file(self) -> Path:
        """What the node was last started with; its ports are read back from here."""
        return self.folder / "server.properties"

    @property
    def log_file(self) -> Path:
        """What the broker had to say."""
        return self.folder / "broker.log"


# -- what the machine must have -------------------------------------------------------------------


def find_java() -> str:
    """The path of a Java that is new enough."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    if java is None:
        message = f"Java is missing: a Java runtime {JAVA_AT_LEAST} or newer must be installed"
        raise MissingError(message)
    asked = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', asked.stderr + asked.stdout)
    if found is None or int(found[1]) < JAVA_AT_LEAST:
        version = found[1] if found else "of an unknown version"
        message = f"Java {JAVA_AT_LEAST} or newer is missing: {java} is Java {version}"
        raise MissingError(message)
    return java


def fetch_jars(home: Path) -> Path:
    """The folder of the jars; fetches them unless exactly those of `JARS` are there already.

    Raises BrokerError where the fetched jars are not the pinned ones.
    """
    libs = home / "libs"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may start at once
        if not differing_jars(libs):
            return libs
        maven = shutil.which("mvn")
        if maven is None:
            message = f"Maven (mvn) is missing: it fetches the broker's jars, once, into {libs}"
            raise MissingError(message)
        shutil.rmtree(libs, ignore_errors=True)
        command = [maven, "-q", "-B", "-f", str(POM), COPY]
        command.append(f"-DoutputDirectory={libs}")
        if not os.access(Path.home(), os.W_OK):
            command.append(f"-Dmaven.repo.local={home / 'm2'}")
        print(f"fetching the broker's jars into {libs}", file=sys.stderr)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            message = f"Maven could not fetch the broker's jars:\n{done.stdout}{done.stderr}"
            raise BrokerError(message)
        if wrong := differing_jars(libs):
            lines = "\n".join(wrong)
            message = (
                f"the jars in {libs} are not those of {JARS.name}:\n{lines}\nWhere pom.xml was "
                f"changed on purpose, write the file again: cd {libs} && sha256sum *.jar > {JARS}"
            )
            raise BrokerError(message)
    return libs


def differing_jars(libs: Path) -> list[str]:
    """The differences between the jars of a folder and the pinned ones, a line each."""
    pinned = dict(line.split()[::-1] for line in JARS.read_text().splitlines())
    there = {path.name: path for path in libs.glob("*.jar")}
    wrong = [f"{name}: missing" for name in sorted(pinned.keys() - there.keys())]
    for name, path in sorted(there.items()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != pinned.get(name):
            wrong.append(
                f"{name}: got SHA-256 {digest}; expected {pinned.get(name, 'no such jar')}"
            )
    return wrong


# -- configuration --------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; held together, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_node(number: int, folder: Path, port: int | None) -> Node:
    """A node in a folder. One that was there before keeps its ports: its quorum remembers them."""
    client_port, controller_port = free_ports(2)
    node = Node(number, folder, port or client_port, controller_port)
    if node.properties_file.is_file():
        before = re.findall(r"127\.0\.0\.1:(\d+)", node.properties_file.read_text())
        node = Node(number, folder, port or int(before[0]), int(before[1]))
    return node


def properties(node: Node, cluster: Sequence[Node], extra: Sequence[str]) -> str:
    """The server.properties of one node of a cluster; what `extra` sets comes last and wins."""
    copies = min(3, len(cluster))
    in_sync = max(1, copies - 1)
    controllers = ",".join(each.controller for each in cluster)
    lines = [
        f"listeners=PLAINTEXT://{node.address},CONTROLLER://{node.controller}",
        f"advertised.listeners=PLAINTEXT://{node.address},CONTROLLER://{node.controller}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names=CONTROLLER",
        "inter.broker.listener.name=PLAINTEXT",
        "process.roles=broker,controller",
        f"node.id={node.number}",
        f"controller.quorum.bootstrap.servers={controllers}",
        f"log.dirs={node.folder / 'data'}",
        # One machine holds all copies, so no more of them than there are nodes.
        f"default.replication.factor={copies}",
        f"min.insync.replicas={in_sync}",
        f"offsets.topic.replication.factor={copies}",
        f"transaction.state.log.replication.factor={copies}",
        f"transaction.state.log.min.isr={in_sync}",
        f"share.coordinator.state.topic.replication.factor={copies}",
        f"share.coordinator.state.topic.min.isr={in_sync}",
        # Few partitions of the internal topics: a test's first commit waits until all exist.
        "offsets.topic.num.partitions=3",
        "transaction.state.log.num.partitions=3",
        # A misspelt topic must be an error, and a group of one need not wait for others.
        "auto.create.topics.enable=false",
        "group.initial.rebalance.delay.ms=0",
        "group.coordinator.rebalance.protocols=classic,consumer",
        # Under the new protocol the broker decides when a killed member is missed.
        "group.consumer.session.timeout.ms=6000",
        "group.consumer.min.session.timeout.ms=6000",
        "group.consumer.heartbeat.interval.ms=1000",
        "group.consumer.min.heartbeat.interval.ms=1000",
        *extra,
    ]
    return "\n".join(lines) + "\n"


def logging_properties(node: Node) -> str:
    """The broker's log4j configuration: warnings and worse, into one file."""
    lines = [
        "status=ERROR",
        "appender.file.type=File",
        "appender.file.name=file",
        f"appender.file.fileName={node.log_file}",
        "appender.file.layout.type=PatternLayout",
        "appender.file.layout.pattern=%d{ISO8601} %-5p %c{1}: %m%n",
        "rootLogger.level=WARN",
        "rootLogger.appenderRef.file.ref=file",
    ]
    return "\n".join(lines) + "\n"


# -- running --------------------------------------------------------------------------------------


def dies_with_parent() -> Callable[[], None] | None:
    """What a child must call so that it never outlives us, not even when we are killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return call


def java_command(java: str, libs: Path, node: Node, *options: str) -> list[str]:
    """The beginning of every Java command line."""
    logging = f"-Dlog4j2.configurationFile=file:{node.folder / 'log4j2.properties'}"
    return [java, logging, *options, "-cp", f"{libs}/*"]


def write_configuration(node: Node, cluster: Sequence[Node], extra: Sequence[str]) -> None:
    """Write what the node reads at start."""
    node.folder.mkdir(parents=True, exist_ok=True)
    node.properties_file.write_text(properties(node, cluster, extra))
    (node.folder / "log4j2.properties").write_text(logging_properties(node))


def kafka_id() -> str:
    """16 random bytes as Kafka wants them, URL-safe base64; one that began with a dash would be an
    option."""
    return "E" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def format_storage(
    java: str, libs: Path, node: Node, cluster_id: str, quorum: Sequence[str]
) -> None:
    """Prepare an empty node; leaves one with data as it is. quorum: options that say who is in
    it."""
    if (node.folder / "data" / "meta.properties").is_file():
        return
    done = subprocess.run(
        [
            *java_command(java, libs, node, "-XX:TieredStopAtLevel=1"),
            *("kafka.tools.StorageTool", "format", *quorum),
            *("-t", cluster_id, "-c", str(node.properties_file)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = (
            f"the storage in {node.folder} could not be formatted:\n{done.stdout}{done.stderr}"
        )
        raise BrokerError(message)


def takes_requests(node: Node) -> bool:
    """Whether the node answers, and knows at least one broker that takes part: itself.

    An open port is not enough, since a broker listens before it may be used. So this asks for the
    cluster's metadata (version 1, no topics) and reads the number of brokers in the answer.
    """
    client = b"eddy"
    body = struct.pack(">hhih", 3, 1, 0, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", node.port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = connection.makefile("rb").read(12)
    except OSError:
        return False
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def log_tail(node: Node) -> str:
    """The last lines of what the broker said."""
    said = [node.folder / "broker.out", node.log_file]
    lines = [
        line
        for file in said
        if file.is_file()
        for line in file.read_text(errors="replace").splitlines()[-20:]
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def running(
    java: str, libs: Path, node: Node, *, gently: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """The node's process, just started; stopped at the end, gently if its data stays."""
    command = [
        *java_command(java, libs, node, "-Xmx512m", "-Djava.awt.headless=true"),
        *("kafka.Kafka", str(node.properties_file)),
    ]
    with (node.folder / "broker.out").open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to handle
            preexec_fn=dies_with_parent(),  # noqa: PLW1509 - we have no threads
        )
    try:
        yield process
    finally:
        if gently:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        process.kill()
        process.wait()


def wait_until_ready(node: Node, process: subprocess.Popen[bytes]) -> None:
    """Return when the node takes requests. Raises BrokerError."""
    deadline = time.monotonic() + START_SECONDS
    while not takes_requests(node):
        if process.poll() is not None or time.monotonic() > deadline:
            state = "ended" if process.poll() is not None else "takes no requests"
            message = f"the broker {state}; its output:\n{log_tail(node)}"
            raise BrokerError(message)
        time.sleep(0.1)


def quorum_of(cluster: Sequence[Node]) -> list[str]:
    """How the storage of each node of a new cluster is told who takes part."""
    if len(cluster) == 1:
        return ["--standalone"]
    members = (f"{each.number}@{each.controller}:{kafka_id()}" for each in cluster)
    return ["--initial-controllers", ",".join(members)]


def serve(arguments: argparse.Namespace, home: Path) -> None:
    """Fetch, format, start, say so, and wait until somebody stops us."""
    java = find_java()
    libs = fetch_jars(home)
    if arguments.fetch:
        return
    with contextlib.ExitStack() as stack:
        folder = arguments.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eddy-kafka-")))
        gently = arguments.data is not None
        cluster = make_cluster(arguments.nodes, folder.resolve(), arguments.port)
        cluster_id, quorum = kafka_id(), quorum_of(cluster)
        for node in cluster:
            write_configuration(node, cluster, arguments.set)
            format_storage(java, libs, node, cluster_id, quorum)
        processes = [
            stack.enter_context(running(java, libs, node, gently=gently)) for node in cluster
        ]
        for node, process in zip(cluster, processes, strict=True):
            wait_until_ready(node, process)
        print(f"bootstrap={','.join(each.address for each in cluster)}", flush=True)
        while True:
            time.sleep(LOOK_SECONDS)
            for at, node in enumerate(cluster):
                if processes[at].poll() is None:
                    continue
                if arguments.bring_back is None:
                    message = f"the broker ended by itself; its output:\n{log_tail(node)}"
                    raise BrokerError(message)
                time.sleep(arguments.bring_back)
                processes[at] = stack.enter_context(running(java, libs, node, gently=gently))


def make_cluster(count: int, folder: Path, port: int | None) -> list[Node]:
    """One node in the folder itself, or several in folders of their own; the first has the port."""
    if count == 1:
        return [make_node(1, folder, port)]
    return [
        make_node(number, folder / str(number), port if number == 1 else None)
        for number in range(1, count + 1)
    ]


def stop(_signal: int, _frame: object) -> None:
    """End the program through its finally clauses, once: a second signal must not cut them
    short."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(0)


def main() -> int:
    """Read the arguments, serve, and turn what went wrong into a message and an exit code."""
    parser = argparse.ArgumentParser(
        description="Run a real Kafka broker, or several, on 127.0.0.1, for development and tests."
    )
    parser.add_argument("--port", type=int, help="where clients connect (default: a free port)")
    parser.add_argument(
        "--data", type=Path, help="keep the data in this folder (default: a temporary folder)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one more broker property; may be repeated",
    )
    parser.add_argument("--nodes", type=int, default=1, help="how many brokers (default: 1)")
    parser.add_argument(
        "--bring-back",
        type=float,
        metavar="SECONDS",
        help="start a broker that ended by itself again, after so long (default: end, too)",
    )
    parser.add_argument("--fetch", action="store_true", help="only fetch the jars")
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the starting process ends (Linux)"
    )
    arguments = parser.parse_args()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, stop)
    if arguments.with_parent and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    home = Path(os.environ.get("EDDY_KAFKA_HOME") or HERE.parents[1] / ".kafka").resolve()
    try:
        serve(arguments, home)
    except MissingError as error:
        print(f"broker.py: {error}", file=sys.stderr)
        return EXIT_MISSING
    except BrokerError as error:
        print(f"broker.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
