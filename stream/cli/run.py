"""`eddy run`: one worker, or several under a supervisor."""

import os
import signal
import socket
import sys
import uuid
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import ConfigPath, Level, app
from stream.errors import ConfigError

if TYPE_CHECKING:
    from stream.config import Config
    from stream.pipeline.alerting import RunInfo

HTTP_PORT_MAX = 65_535

Slot = Annotated[
    str,
    typer.Option(
        envvar="EDDY_SLOT",
        help="Stable name of this worker within its group, such as the pod's name. A restart "
        "under the same name takes over at once. Two workers must not share a name. Default: "
        "kafka.group.instance.id, else a random name.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1_000,
        help="Run this many workers in the slots SLOT-0, SLOT-1 ... and restart a worker that "
        "dies. Default of SLOT: kafka.group.instance.id, else the host name. Their HTTP ports "
        "are consecutive.",
    ),
]
DropState = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MONITOR@FINGERPRINT",
        help="Allow this learned state to be dropped because the configuration, the secret or "
        "the version of Eddy no longer fits it. May be repeated. A refused start prints the "
        "arguments. No effect on any other state.",
    ),
]


@app.command()
def run(
    config: ConfigPath,
    slot: Slot = "",
    processes: Processes = None,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Overrides worker.http_port; 0: any free port."),
    ] = None,
    log_level: Annotated[
        Level, typer.Option(envvar="EDDY_LOG_LEVEL", help="Lowest level that is logged.")
    ] = ("info"),
    drop_state: DropState = None,
    *,
    supervised: Annotated[
        bool, typer.Option("--supervised", hidden=True, help="Stop when the supervisor has exited.")
    ] = False,
) -> None:
    """Run as a member of the consumer group until SIGTERM or SIGINT; a second signal exits at once.

    Example: EDDY_SLOT=worker-1 eddy run shop.toml
    """
    from stream.config import load, secret_problem
    from stream.runtime.start import run_worker
    from stream.runtime.supervisor import stop_with_supervisor
    from stream.telemetry import logging

    loaded = load(config)
    if loaded.mode == "live" and (problem := secret_problem(loaded)):
        raise ConfigError([f"{config}: {problem}"])
    allowed_drops = drop_state or []
    _check_drops(allowed_drops)
    own_slot = slot or str(loaded.kafka.get("group.instance.id", ""))
    port = loaded.worker.http_port if http_port is None else http_port
    if processes is not None:
        prefix = own_slot or socket.gethostname()
        sys.exit(_run_supervised(config, prefix, processes, port, log_level, allowed_drops))
    own_slot = own_slot or uuid.uuid4().hex
    logging.configure_logging(log_level, slot=own_slot)
    if supervised:
        stop_with_supervisor()
    run_id = os.environ.get("EDDY_RUN_ID") or str(uuid.uuid4())
    run_worker(
        loaded, own_slot, live_run(loaded, run_id), _install_stop_signals, port, allowed_drops
    )


def _check_drops(allowed_drops: list[str]) -> None:
    """Raise ConfigError if an argument of --drop-state is malformed."""
    from stream.checkpoints.state_losses import DROP, DROP_OPTION

    if malformed := [drop for drop in allowed_drops if not DROP.fullmatch(drop)]:
        expected = "MONITOR@ and 32 hex digits, as printed by a refused start"
        raise ConfigError([f"{DROP_OPTION}: got {drop}; expected {expected}" for drop in malformed])


def live_run(config: "Config", run_id: str) -> "RunInfo":
    """The `run` object of a worker's alerts."""
    from detectors.spec import seconds
    from stream.clock import now_text
    from stream.pipeline.alerting import RunInfo

    return RunInfo(config.mode, run_id, now_text, 1000.0 * seconds(config.outputs.stale_after))


def _run_supervised(
    config: Path,
    prefix: str,
    processes: int,
    http_port: int,
    log_level: Level,
    allowed_drops: list[str],
) -> int:
    """Run workers in the slots PREFIX-0, PREFIX-1, …; return the supervisor's exit code."""
    from stream.cli import main
    from stream.runtime.supervisor import Supervisor, worker_target
    from stream.telemetry import logging

    if http_port and http_port + processes - 1 > HTTP_PORT_MAX:
        most = HTTP_PORT_MAX - processes + 1
        why = f"{processes} processes need {processes} consecutive ports starting at this one"
        raise ConfigError([f"worker.http_port: got {http_port}; expected at most {most}: {why}"])
    logging.configure_logging(log_level, slot=prefix)
    ports = [http_port and http_port + index for index in range(processes)]
    return Supervisor(
        {
            f"{prefix}-{index}": worker_target(
                main, str(config), f"{prefix}-{index}", port, log_level, allowed_drops
            )
            for index, port in enumerate(ports)
        }
    ).run()


def _install_stop_signals() -> Event:
    """An event that the first SIGTERM or SIGINT sets; the second signal ends the process."""
    stop = Event()

    def on_signal(*_: object) -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    return stop
