"""`eddy replay`: processes recorded events in the stages that run live."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.apps import app
from stream.cli.options import (
    Inputs,
    Labels,
    ScoreFrom,
    ScoreUntil,
    WarmUp,
    parse_input_option,
    parse_labels_option,
    progress_bar,
    time_split,
    warn_about_secret,
)
from stream.cli.run_output import print_summary
from stream.errors import InputError
from stream.location import hide_credentials

if TYPE_CHECKING:
    from stream.config import Config
    from stream.replay import Summary

Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for alerts, scores, summary and manifest. Default with --rerun: the "
        "earlier run's folder with -rerun added to its name."
    ),
]
Rerun = Annotated[
    Path | None,
    typer.Option(
        metavar="MANIFEST",
        help="Repeat the run of a manifest.json (or of its folder) and compare every byte; exit "
        "code 1 where one differs. Replaces --input; CONFIG only provides the secret and the "
        "brokers, if the run had them.",
    ),
]
SaveState = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Save the learned state in this empty folder or object store. A new group of `eddy "
        "run` can start from it (checkpoints.start_from).",
    ),
]
Features = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Also write features.parquet: the features of every event as they were at its "
        "time, for training elsewhere.",
    ),
]


@app.command()
def replay(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The configuration (TOML).")
    ] = None,
    inputs: Inputs = None,
    out: Out = None,
    rerun: Rerun = None,
    labels: Labels = None,
    warm_up: WarmUp = None,
    score_from: ScoreFrom = None,
    score_until: ScoreUntil = None,
    save_state: SaveState = None,
    features: Features = False,
) -> None:
    """Run recorded events through the stages that run live, and write every score. Needs no Kafka.

    Exit code 2 if there were records but none became an event. Inputs without records give a
    warning and exit code 0.

    Example: eddy replay handbook.toml --input transaction=handbook.parquet --out out/handbook
    """
    from stream.config import load
    from stream.replay import replay as run_replay
    from stream.report.run_page import render_run

    if rerun is not None:
        _refuse_options(
            {
                "--input": inputs,
                "--labels": labels,
                "--warm-up": warm_up,
                "--score-from": score_from,
                "--score-until": score_until,
                "--save-state": save_state,
                "--features": features,
            }
        )
        _rerun(rerun, load(config) if config else None, out)
        return
    if config is None or out is None:
        raise InputError("expected CONFIG, --input and --out, or --rerun MANIFEST")
    pairs = [parse_input_option(text) for text in inputs or ()]
    loaded = load(config)
    _check_label_input(config, loaded, labels, save_state)
    loaded, label_pairs = _with_labels(loaded, labels or [])
    split = time_split(warm_up, score_from, score_until)
    warn_about_secret(config, loaded)
    with progress_bar("replay") as show:
        summary = run_replay(
            loaded,
            pairs,
            out,
            show,
            labels=label_pairs,
            split=split,
            save_state=save_state,
            writes_features=features,
            render=render_run,
        )
    _print_results(summary, out, save_state)


def _refuse_options(options: dict[str, object]) -> None:
    """Raise InputError for options that a manifest determines."""
    if given := [option for option, value in options.items() if value]:
        raise InputError(
            f"--rerun: the manifest determines the run; expected no {' and no '.join(given)}"
        )


def _with_labels(config: "Config", labels: list[str]) -> tuple["Config", list[tuple[str, str]]]:
    """The configuration with an input for the labels, if there are any, and the input and the location of
    each."""
    from stream.replay.inputs import with_label_input

    labelled = with_label_input(config) if labels else config
    return labelled, [parse_labels_option(labelled, text) for text in labels]


def _print_results(summary: "Summary", out: Path, save_state: str | None) -> None:
    """Print the summary and where the state is. Raises InputError where no record became an event."""
    print_summary(summary, out)
    if save_state is not None:
        typer.echo(_state_line(save_state))
    _require_events(summary)


def _check_label_input(
    path: Path, config: "Config", labels: list[str] | None, save_state: str | None
) -> None:
    """Raise InputError where a live worker could not continue from a saved state with labels."""
    from stream.config import label_inputs

    if labels and save_state is not None and not label_inputs(config):
        raise InputError(
            f"--save-state with --labels: {path} has no label input, so a live worker could not "
            'continue learning from labels. Add [inputs.NAME] with type = "label", or drop one option.'
        )


def _rerun(manifest_path: Path, config: "Config | None", out: Path | None) -> None:
    """Repeat a run and print what differs."""
    from stream import replay as replaying
    from stream.replay import manifest
    from stream.replay.run_files import TIMING_FILES
    from stream.report.run_page import render_run

    recorded = manifest.read(manifest_path)
    folder = (manifest_path if manifest_path.is_dir() else manifest_path.parent).absolute()
    target = out or folder.with_name(f"{folder.name}-rerun")
    if target.resolve() == folder.resolve():
        raise InputError(f"--out {target}: is the folder of the run itself; expected another")
    for line in manifest.code_differences(recorded):
        typer.echo(f"the code has changed: {line}")
    with progress_bar("replay") as show:
        repeated = replaying.rerun(recorded, config, target, show, render_run)
    print_summary(repeated.summary, target)
    if repeated.changed_files:
        typer.echo(f"not the same bytes: {', '.join(repeated.changed_files)}")
        raise typer.Exit(1)
    timing = " and ".join(sorted(TIMING_FILES))
    typer.echo(f"the same bytes in every file (except {timing}, which hold the run's duration)")


def _state_line(url: str) -> str:
    return f'state saved; to start from it: checkpoints.start_from = "{hide_credentials(url)}"'


def _require_events(summary: "Summary") -> None:
    """Raise InputError where there were records and none became an event. No records at all are no
    error: an hour without events is a valid input."""
    dead_letters = sum(
        count
        for counts in summary.inputs.values()
        for name, count in counts.items()
        if name.startswith("dead_letter_")
    )
    if dead_letters and not summary.events:
        raise InputError(
            f"none of {dead_letters:,} records became an event, see above; expected the mapping of "
            "an input to fit its file: compare [inputs.….fields] with a record in "
            "dead_letters.ndjson"
        )
