"""`eddy compare`: several configurations over the same recorded events."""

import re
from pathlib import Path
from typing import Annotated

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


@app.command()
def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG CONFIG…",
            help="Two or more configurations (TOML). The first is the baseline.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the comparison, with a subfolder for each configuration."),
    ],
    inputs: Inputs = None,
    labels: Labels = None,
    warm_up: WarmUp = None,
    score_from: ScoreFrom = None,
    score_until: ScoreUntil = None,
) -> None:
    """Run several configurations over the same recorded events in one pass, and report which is
    better. Needs no Kafka.

    Example: eddy compare today.toml new.toml --input shop=march.parquet --out out/compared
    """
    from stream.config import load
    from stream.replay import compare_runs
    from stream.replay.inputs import with_label_input
    from stream.report.comparison import render_comparison
    from stream.report.run_page import render_run

    loaded = [load(path) for path in configs]
    for path, config in zip(configs, loaded, strict=True):
        warn_about_secret(path, config)
    if labels:
        loaded = [with_label_input(config, loaded) for config in loaded]
    candidates = [
        compare_runs.Candidate(
            name, config, [parse_labels_option(config, text) for text in labels or ()]
        )
        for name, config in zip(folder_names(configs), loaded, strict=True)
    ]
    pairs = [parse_input_option(text) for text in inputs or ()]
    split = time_split(warm_up, score_from, score_until)
    renderers = compare_runs.Renderers(render_run, render_comparison)
    with progress_bar("compare") as show:
        compared = compare_runs.compare(candidates, pairs, out, show, split, renderers)
    for pair in compared.pairs:
        typer.echo(f"{pair.conclusion}: {pair.reason}\n  {pair.alert_volume}")
    typer.echo(f"The page is {out / 'index.html'}")


def folder_names(configs: list[Path]) -> list[str]:
    """A folder name for each configuration: its file's name in plain letters, numbered where
    several have the same."""
    names: list[str] = []
    for path in configs:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "configuration"
        count = 1
        while (name := plain if count == 1 else f"{plain}-{count}") in names:
            count += 1
        names.append(name)
    return names
