"""The command line: reads arguments, calls what does the work, and turns errors into exit codes.

Heavy modules are imported inside the commands, so that `eddy --help` is quick.
"""

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.errors import ConfigError, EddyError, InputError

if TYPE_CHECKING:
    from stream.config import Config, InputSpec
    from stream.simulator import Line, Shop

app = typer.Typer(
    help="Streaming anomaly detection for e-commerce risk: Kafka events in, alerts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks print local variables: events, secrets
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at a configuration without starting anything.")
app.add_typer(config_app, name="config", no_args_is_help=True)
topics_app = typer.Typer(help="Make the topics of a configuration, or look at them.")
app.add_typer(topics_app, name="topics", no_args_is_help=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration, TOML.")]
Level = Literal["debug", "info", "warning", "error"]
HTTP_PORT_MAX = 65_535


@app.command()
def run(
    config: ConfigPath,
    slot: Annotated[
        str,
        typer.Option(
            envvar="EDDY_SLOT",
            help="This worker's stable name within its group, such as the pod's. A restart under "
            "the same name takes over at once; two workers must not share one. Default: "
            "kafka.group.instance.id, else a new name.",
        ),
    ] = "",
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000,
            help="Run so many workers, in the slots SLOT-0, SLOT-1 ..., and start one that dies "
            "again in its slot. SLOT's default: kafka.group.instance.id, else the host's name. "
            "Their HTTP ports follow each other.",
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Instead of worker.http_port; 0: any free one."),
    ] = None,
    log_level: Annotated[Level, typer.Option(envvar="EDDY_LOG_LEVEL", help="Least level.")] = (
        "info"
    ),
    *,
    supervised: Annotated[
        bool, typer.Option("--supervised", hidden=True, help="Stop when the supervisor is gone.")
    ] = False,
) -> None:
    """Work as a member of the consumer group until SIGTERM or SIGINT; a second one ends at once.

    Example: EDDY_SLOT=worker-1 eddy run shop.toml
    """
    from stream import log
    from stream.alerting import RunInfo
    from stream.clock import now_text
    from stream.config import load
    from stream.supervisor import stop_with_supervisor
    from stream.worker import run_worker

    loaded = load(config)
    own_slot = slot or str(loaded.kafka.get("group.instance.id", ""))
    port = loaded.worker.http_port if http_port is None else http_port
    if processes is not None:
        prefix = own_slot or socket.gethostname()
        sys.exit(_run_supervised(config, prefix, processes, port, log_level))
    own_slot = own_slot or uuid.uuid4().hex
    log.set_up(log_level, slot=own_slot)
    if supervised:
        stop_with_supervisor()
    run_id = os.environ.get("EDDY_RUN_ID") or str(uuid.uuid4())
    run_worker(loaded, own_slot, RunInfo(loaded.mode, run_id, now_text), _stop_on_signal, port)


def _run_supervised(
    config: Path, prefix: str, processes: int, http_port: int, log_level: Level
) -> int:
    """Run workers in slots under that prefix; the supervisor's exit code."""
    from stream import log
    from stream.supervisor import Supervisor, work_of

    if http_port and http_port + processes - 1 > HTTP_PORT_MAX:
        most = HTTP_PORT_MAX - processes + 1
        why = f"{processes} processes take ports from it on"
        raise ConfigError([f"worker.http_port: got {http_port}; expected at most {most}: {why}"])
    log.set_up(log_level, slot=prefix)
    ports = [http_port and http_port + index for index in range(processes)]
    return Supervisor(
        {
            f"{prefix}-{index}": work_of(str(config), f"{prefix}-{index}", port, log_level)
            for index, port in enumerate(ports)
        }
    ).run()


def _stop_on_signal() -> Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process."""
    stop = Event()

    def on_signal(*_: object) -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    return stop


@app.command()
def replay(
    config: ConfigPath,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=PATH",
            help="An input of the configuration and its file: Parquet, NDJSON or an access log, "
            "plain, gzip or zstd. May be repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for alerts, scores and summary.")],
) -> None:
    """Run recorded events through the stages that run live, and write every score; needs no Kafka.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from stream import replay as replaying
    from stream.config import load

    pairs = [_name_and_path(text) for text in inputs]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replay", total=1.0)

        def show(records: int, share: float) -> None:
            bar.update(task, completed=share, description=f"{records:,} records")

        summary = replaying.replay(load(config), pairs, out, show)
    typer.echo(f"{summary.events:,} events in {summary.seconds:.1f} s, results in {out}")
    if summary.dead_letters:
        typer.echo(
            f"{summary.dead_letters:,} dead letters, each with its reason: {out}/dead_letters.ndjson"
        )
    late = sum(counts.get("late", 0) for counts in summary.monitors.values())
    if late:
        typer.echo(f"{late:,} events older than their entity's last: is the file in time order?")


def _name_and_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f'--input: got "{text}"; expected NAME=PATH')
    return name, Path(path)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the alerts.")] = Path(
        "out/demo"
    ),
    events: Annotated[int, typer.Option(min=1, help="Length of the simulated stream.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Another seed is another shop.")] = 7,
    config: Annotated[
        Path | None, typer.Option(help="Another configuration with an input named shop.")
    ] = None,
) -> None:
    """Simulate a shop with attackers in it, watch it, and show the alerts; needs no Kafka.

    Example: eddy demo --seed 11
    """
    from rich.console import Console

    from stream.config import load
    from stream.demo import run_demo

    run_demo(load(config or shop_config()), out, events, seed, Console())


def shop_config() -> Path:
    """The ready configuration of the simulated shop: in a wheel, or in a checkout."""
    here = Path(__file__)
    in_wheel = here.with_name("shop.toml")
    return in_wheel if in_wheel.is_file() else here.parents[1] / "deploy" / "configs" / "shop.toml"


@app.command()
def simulate(
    config: ConfigPath,
    to: Annotated[
        str, typer.Option(help='"kafka" for the topic of the input, else a file to write (NDJSON).')
    ],
    events: Annotated[int, typer.Option(min=1, help="How many events.")] = 60_000,
    rate: Annotated[float, typer.Option(min=0, help="Events a second; 0: no limit.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed, the same events.")] = 7,
    malformed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of malformed records on top.")
    ] = 0.0,
    input_name: Annotated[
        str, typer.Option("--input", help="The input to feed, where there are several.")
    ] = "",
) -> None:
    """Write a simulated shop's events to Kafka or to a file.

    In Kafka the stream ends now, so that no event lies ahead of the broker's clock; in a file it
    begins on 2 March 2026, so that the same seed gives the same file.

    Example: eddy simulate shop.toml --to kafka --events 200000 --rate 5000 --malformed 0.01
    """
    from stream.config import load
    from stream.simulator import Shop, lines

    loaded = load(config)
    name, spec = _simulated_input(loaded, input_name)
    shop = Shop(events, seed)
    if to == "kafka":
        shop = Shop(events, seed, int(time.time() * 1000) - shop.span_ms())
    made = lines(shop, malformed, spec.keyed_by or "account")
    with _writer(loaded, spec, to) as write:
        for line in _at_rate(_shown(made, shop, name), rate):
            write(line)


def _simulated_input(config: "Config", wanted: str) -> tuple[str, "InputSpec"]:
    """The input to feed, by name. Raises ConfigError where the shop's events do not fit into it."""
    names = list(config.inputs)
    name = wanted or names[0]
    if not wanted and len(names) > 1:
        raise InputError(f"there are {len(names)} inputs: say --input {' or '.join(names)}")
    if name not in config.inputs:
        raise InputError(f"no input is named {name}; there is {', '.join(names)}")
    spec = config.inputs[name]
    problems = []
    if spec.codec != "json" or spec.fields is not None:
        problems.append(f"inputs.{name}: expected JSON in Eddy's own shape, without a mapping")
    if problems:
        raise ConfigError([f"{line}, to take the simulator's events" for line in problems])
    return name, spec


@contextmanager
def _writer(config: "Config", spec: "InputSpec", to: str) -> "Iterator[Callable[[Line], object]]":
    """What takes one line: a producer, or a file."""
    if to == "kafka":
        from stream.kafka.writing import Feed

        feed = Feed(config.kafka, spec.topic, spec.partitioner)
        yield lambda line: feed.send(line.key, line.value)
        feed.close()
    else:
        try:
            with Path(to).open("wb") as file:
                yield lambda line: file.write(line.value + b"\n")
        except OSError as error:
            raise InputError(f"{to}: cannot be written: {error}") from error


def _shown(lines: "Iterator[Line]", shop: "Shop", name: str) -> "Iterator[Line]":
    """The lines, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    yield from track(lines, name, shop.count, console=Console(stderr=True))


def _at_rate(lines: "Iterator[Line]", rate: float) -> "Iterator[Line]":
    """The lines, so many a second; as fast as it goes where the rate is 0."""
    started = time.monotonic()
    for index, line in enumerate(lines):
        if rate:
            ahead_s = index / rate - (time.monotonic() - started)
            time.sleep(max(0.0, ahead_s))
        yield line


def _refuse_what_clients_refuse(config: "Config") -> None:
    """Raise ConfigError where the object store, or Kafka's client, does not know an option, or its
    value; neither is connected to."""
    from stream.checkpoints.store import open_store
    from stream.kafka.reading import Source
    from stream.kafka.writing import Sink

    quiet = {**config.kafka, "log_level": 0}
    trials: list[Callable[[], object]] = [
        lambda: "://" in config.checkpoints.url and open_store(config.checkpoints.url),
        lambda: Source(quiet, config.group).__exit__(None),
        lambda: Sink(quiet, config.group, "check"),
    ]
    problems: list[str] = []
    for trial in trials:
        try:
            trial()
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise ConfigError(problems)


@config_app.command("check")
def check(config: ConfigPath) -> None:
    """Name every mistake of a configuration at once; if there is none, say which way each takes.

    Exit code 2 where there are mistakes.

    Example: eddy config check shop.toml
    """
    from stream.config import ASSESS, assess_way, load, ways

    loaded = load(config)
    _refuse_what_clients_refuse(loaded)
    typer.echo(f"{config}: no mistakes")
    if not loaded.secret:
        typer.echo("secret: none is set, so pseudonyms and entity keys could be guessed; set one")
    for way in [*ways(loaded), assess_way(loaded)]:
        if way is None:
            continue
        path = "direct"
        if way.internal:
            count = way.internal.partitions
            partitions = f"{count} partition{'s' if count > 1 else ''}"
            path = f"over the internal topic {way.internal.topic} with {partitions}"
        who = way.reader if way.reader == ASSESS else f"monitor {way.reader}"
        typer.echo(f"{who}: {path}: {way.reason}")


@topics_app.command("create")
def create(
    config: ConfigPath,
    replication: Annotated[
        int | None, typer.Option(min=1, help="Copies of a new topic. Default: the broker's own.")
    ] = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Make the inputs' topics, too, if they are missing.")
    ] = False,
    print_acls: Annotated[
        bool,
        typer.Option(
            "--print-acls",
            help="Only print what a worker must be allowed to do, as arguments of Kafka's "
            "kafka-acls tool; reaches no broker.",
        ),
    ] = False,
) -> None:
    """Make the topics that are missing, and check those that exist; nothing that exists is changed.

    These are the outputs and the internal topics of monitors that do not read directly. Exit code 2
    where a topic is not as it must be, and each difference is named; 0 where `eddy run` may start.

    Example: eddy topics create shop.toml --replication 3
    """
    from stream import topics
    from stream.config import load
    from stream.kafka.administration import Admin

    loaded = load(config)
    if print_acls:
        for line in topics.permissions(loaded):
            typer.echo(f"--add --allow-principal User:NAME {line}")
        return
    admin = Admin(loaded.kafka)
    known = topics.found(loaded, admin)
    for topic, partitions, settings in topics.missing(loaded, known, inputs):
        admin.create(topic, partitions, settings, replication)
        typer.echo(f"{topic}: created, {partitions} partition{'s' if partitions > 1 else ''}")
    for topic, one in known.items():
        typer.echo(
            f"{topic}: exists, {one.partitions} partition{'s' if one.partitions > 1 else ''}"
        )
    topics.check_topics(loaded, topics.found(loaded, admin))


@config_app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="What the group runs now.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="What it is to run.")],
) -> None:
    """Say which monitors keep what they have learned when a group goes on to another configuration.

    Example: eddy config diff shop.toml shop-new.toml
    """
    from stream.checkpoints.conversion import fates, moved
    from stream.config import ASSESS, fingerprint, load, steering

    before, after = load(old), load(new)
    if fingerprint(before) == fingerprint(after):
        typer.echo("nothing that steers what is learned differs: all state is kept")
        return
    for line in moved(before, after):
        typer.echo(f"{line}: the worker will refuse to start")
    decided = fates(steering(before), steering(after))
    for fate in decided:
        typer.echo(
            f"{fate.stage if fate.stage == ASSESS else f'monitor {fate.stage}'}: "
            + (
                "is gone"
                if fate.gone
                else f"starts anew: {fate.why}"
                if fate.why
                else "keeps its state"
            )
        )
    if any(not fate.keeps for fate in decided):
        typer.echo(
            "What reads an internal topic under a name that the group had before goes on with what it "
            "had learned by then; another name starts anew."
        )


@app.command()
def version() -> None:
    """Print Eddy's version.

    Example: eddy version
    """
    from importlib.metadata import version as version_of

    typer.echo(version_of("eddywatch"))


def main() -> None:
    """The entry point `eddy`: runs a command; an error that Eddy knows ends without a traceback."""
    try:
        app()
    except EddyError as error:
        typer.echo(f"eddy: {error.message}", err=True)
        typer.echo(f"      {error.do}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
