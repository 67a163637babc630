"""`eddy config` and `eddy topics`: check a configuration and create its topics."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import ConfigPath, config_app, topics_app
from stream.errors import ConfigError

if TYPE_CHECKING:
    from stream.config import Config


def _check_client_options(config: "Config") -> None:
    """Raise ConfigError for options that the object store or Kafka's client refuses. Connects to
    neither."""
    from stream.checkpoints.store import open_store
    from stream.kafka.sink import KafkaSink
    from stream.kafka.source import KafkaSource

    start_from = config.checkpoints.start_from or ""
    quiet = {**config.kafka, "log_level": 0}
    checks: list[Callable[[], object]] = [
        lambda: "://" in config.checkpoints.url and open_store(config.checkpoints.url),
        lambda: "://" in start_from and open_store(start_from, "checkpoints.start_from"),
        lambda: KafkaSource(quiet, config.group).__exit__(None),
        lambda: KafkaSink(quiet, config.group, "check"),
    ]
    problems: list[str] = []
    for check_options in checks:
        try:
            check_options()
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise ConfigError(problems)


@config_app.command("check")
def check(config: ConfigPath) -> None:
    """List every mistake of a configuration; if there is none, show how each monitor reads its
    events.

    Exit code 2 if there are mistakes.

    Example: eddy config check shop.toml
    """
    from stream.config import load, secret_problem
    from stream.config.stage_graph import nodes

    loaded = load(config)
    _check_client_options(loaded)
    typer.echo(f"{config}: no mistakes")
    if warning := secret_problem(loaded):
        typer.echo(warning)
    for node in nodes(loaded):
        if node.reads_inputs:
            continue
        path = "direct"
        if node.internal_topic:
            count = node.internal_topic.partitions
            partitions = f"{count} partition{'s' if count > 1 else ''}"
            path = f"over the internal topic {node.internal_topic.topic} with {partitions}"
        typer.echo(f"{node.title}: {path}: {node.read_path.reason}")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration, with which editors check and complete it.

    Example: eddy config schema > eddy.schema.json
    """
    import orjson

    from stream.config.schema import json_schema

    typer.echo(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())


@topics_app.command("create")
def create(
    config: ConfigPath,
    replication: Annotated[
        int | None, typer.Option(min=1, help="Replicas of a new topic. Default: the broker's.")
    ] = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Also create missing topics of inputs.")
    ] = False,
    print_acls: Annotated[
        bool,
        typer.Option(
            "--print-acls",
            help="Only print the permissions that a worker needs, as arguments of Kafka's "
            "kafka-acls tool. Connects to no broker.",
        ),
    ] = False,
) -> None:
    """Create missing topics and check existing ones, which are never changed.

    These are the outputs and the internal topics. Exit code 2 if a topic differs from what the
    configuration requires, with each difference; 0 if `eddy run` can start.

    Example: eddy topics create shop.toml --replication 3
    """
    from stream.config import load
    from stream.kafka.admin import TopicAdmin
    from stream.runtime import topics

    loaded = load(config)
    if print_acls:
        for line in topics.permissions(loaded):
            typer.echo(f"--add --allow-principal User:NAME {line}")
        return
    admin = TopicAdmin(loaded.kafka)
    existing = topics.existing_topics(loaded, admin)
    for topic, partitions, settings in topics.missing_topics(loaded, existing, inputs):
        admin.create(topic, partitions, settings, replication)
        typer.echo(f"{topic}: created, {partitions} partition{'s' if partitions > 1 else ''}")
    for topic, metadata in existing.items():
        typer.echo(
            f"{topic}: exists, {metadata.partitions} partition{'s' if metadata.partitions > 1 else ''}"
        )
    topics.check_topics(loaded, topics.existing_topics(loaded, admin))


@config_app.command("diff")
def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="The configuration that the group runs now.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The configuration that it will run.")],
) -> None:
    """Show which monitors keep their learned state when a group changes its configuration.

    Exit code 4 if `eddy run` would refuse to start, with the arguments that allow it, or if no state
    is kept because the group differs.

    Example: eddy config diff shop.toml shop-new.toml
    """
    from stream.checkpoints.migration import migration_results, repartitioned_logs
    from stream.checkpoints.state_losses import DROP_OPTION, state_losses
    from stream.config import fingerprint, load, state_config
    from stream.errors import PartitionCountChanged
    from stream.location import Location, hide_credentials

    before, after = load(old), load(new)
    if before.group != after.group:
        saved = hide_credentials(after.checkpoints.start_from or "")
        begins = (
            f"the state saved in {saved}" if saved else "empty state, at the start of its topics"
        )
        typer.echo(f"group: {after.group} instead of {before.group}: no state is kept")
        typer.echo(f"a group without committed offsets begins with {begins}")
        raise typer.Exit(0 if saved else 4)
    grown = repartitioned_logs(before, after)
    refusals = [f"{line}: the worker will refuse to start" for line in grown]
    if not Location.of(before.checkpoints.url).is_same_as(Location.of(after.checkpoints.url)):
        refusals.append(
            f"checkpoints.url: {hide_credentials(after.checkpoints.url)} instead of "
            f"{hide_credentials(before.checkpoints.url)}: the worker will refuse to start unless "
            "every checkpoint is copied there"
        )
    for line in refusals:
        typer.echo(line)
    if grown:  # no argument allows this
        typer.echo(PartitionCountChanged.remedy)
        raise typer.Exit(4)
    was = fingerprint(before)
    if was == fingerprint(after):
        typer.echo("no setting that determines the learned state differs: all state is kept")
        raise typer.Exit(4 if refusals else 0)
    for result in migration_results(state_config(before), state_config(after)):
        what = "keeps its state" if result.is_kept else f"drops its state: {result.reason}"
        typer.echo(
            f"{result.title}: {'starts with empty state: it is new' if result.is_new else what}"
        )
    if lost := state_losses(state_config(before), state_config(after), was):
        arguments = dict.fromkeys(f"{DROP_OPTION} {loss.argument}" for loss in lost)
        typer.echo("the worker will refuse to start without these arguments:")
        for argument in arguments:
            typer.echo(f"  {argument}")
    if refusals or lost:
        raise typer.Exit(4)
