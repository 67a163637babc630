"""The simulated shop: `eddy demo` and `eddy simulate`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import ConfigPath, app
from stream.errors import ConfigError, InputError

if TYPE_CHECKING:
    from stream.config import Config, InputSpec
    from stream.simulator import Shop, SimulatedLine


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the alerts.")] = Path(
        "out/demo"
    ),
    events: Annotated[int, typer.Option(min=1, help="Number of simulated events.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 7,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration to run instead of the shop's; its input must be named shop."
        ),
    ] = None,
) -> None:
    """Simulate a shop with attackers, run it through Eddy, and show the alerts. Needs no Kafka.

    Example: eddy demo --seed 11
    """
    from rich.console import Console

    from stream.config import load
    from stream.demo import run_demo
    from stream.simulator import shop_config

    run_demo(load(config or shop_config()), out, events, seed, Console())


@app.command()
def simulate(
    config: ConfigPath,
    to: Annotated[
        str, typer.Option(help='"kafka": the topic of the input; else a file to write (NDJSON).')
    ],
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 60_000,
    rate: Annotated[float, typer.Option(min=0, help="Events per second; 0: no limit.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same events.")] = 7,
    malformed: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Number of malformed records to add, as a share of the events."
        ),
    ] = 0.0,
    input_name: Annotated[
        str, typer.Option("--input", help="Input to feed, if there are several.")
    ] = "",
    labels: Annotated[
        Path | None,
        typer.Option(help="File for the labels of fraudulent events (NDJSON), for eddy replay."),
    ] = None,
) -> None:
    """Write a simulated shop's events to Kafka or to a file.

    In Kafka the events end now, so that none is ahead of the broker's clock. In a file they begin on
    2 March 2026, so that the same seed gives the same file.

    Example: eddy simulate shop.toml --to kafka --events 200000 --rate 5000 --malformed 0.01
    """
    from stream import simulator
    from stream.config import load
    from stream.simulator import Shop, lines

    loaded = load(config)
    name, spec = _simulated_input(loaded, input_name)
    shop = Shop(events, seed)
    if to == "kafka":
        shop = Shop(events, seed, int(time.time() * 1000) - shop.span_ms())
    records = lines(shop, malformed, spec.keyed_by or "account")
    with _writer(loaded, spec, to) as write:
        for line in _at_rate(_with_progress(records, shop, name), rate):
            write(line)
    if labels is not None:
        with _open_output(labels) as file:
            file.writelines(line + b"\n" for line in simulator.labels(shop))


def _simulated_input(config: "Config", wanted: str) -> tuple[str, "InputSpec"]:
    """Name and declaration of the input to feed. Raises ConfigError if the shop's events do not fit."""
    names = list(config.inputs)
    name = wanted or names[0]
    if not wanted and len(names) > 1:
        raise InputError(f"there are {len(names)} inputs; expected --input {' or '.join(names)}")
    if name not in config.inputs:
        raise InputError(f"no input is named {name}; expected one of {', '.join(names)}")
    from schemas.codecs import codec_spec

    spec = config.inputs[name]
    if not codec_spec(spec.codec).json_objects or spec.fields is not None:
        expected = "codec json without fields, since the simulator writes Eddy's own field names"
        raise ConfigError([f"inputs.{name}: expected {expected}"])
    return name, spec


@contextmanager
def _writer(
    config: "Config", spec: "InputSpec", to: str
) -> "Iterator[Callable[[SimulatedLine], object]]":
    """The function that writes one line, to the topic or to a file."""
    if to == "kafka":
        from stream.kafka.sink import PlainProducer

        producer = PlainProducer(config.kafka, spec.topic, spec.partitioner)
        yield lambda line: producer.send(line.key, line.value)
        producer.close()
    else:
        with _open_output(Path(to)) as file:
            yield lambda line: file.write(line.value + b"\n")


@contextmanager
def _open_output(path: Path) -> "Iterator[IO[bytes]]":
    """Open a file for writing. Raises InputError where it cannot be written."""
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def _with_progress(
    lines: "Iterator[SimulatedLine]", shop: "Shop", name: str
) -> "Iterator[SimulatedLine]":
    """The lines, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    yield from track(lines, name, shop.count, console=Console(stderr=True))


def _at_rate(lines: "Iterator[SimulatedLine]", rate: float) -> "Iterator[SimulatedLine]":
    """The lines at a rate per second; without a limit if the rate is 0."""
    started = time.monotonic()
    for index, line in enumerate(lines):
        if rate:
            ahead_s = index / rate - (time.monotonic() - started)
            time.sleep(max(0.0, ahead_s))
        yield line
