"""The last step of a run: evaluate its tables by the labels, and write frauds and incidents."""

from detectors.scoring.explain import score_of_p
from stream.config import Config
from stream.config.stage_graph import scoring_nodes
from stream.evaluation import database
from stream.evaluation.evaluate import evaluate
from stream.evaluation.labelled_run import LabelledRun, Scorer, TableFiles
from stream.evaluation.results import Evaluation
from stream.replay.run_files import ALERTS, INCIDENTS, LABELS, SCORES, RunFiles


def evaluate_run(config: Config, run_files: RunFiles) -> Evaluation | None:
    """Evaluate a run whose tables are written, and write its frauds and incidents.

    None without labels or without events in the evaluated time. Raises ExtraMissing without DuckDB."""
    if not run_files.labels_accepted:
        run_files.write_incidents()
        return None
    files = TableFiles(
        run_files.temporary_path(SCORES),
        run_files.temporary_path(ALERTS),
        run_files.temporary_path(LABELS),
    )
    with database.open_database(run_files.work_dir) as connection:
        scorers = scorers_of(config)
        run = LabelledRun(connection, files, scorers)
        run_files.write_frauds(run.frauds())
        run_files.write_incidents()
        run.add_view("incidents", run_files.temporary_path(INCIDENTS))
        return evaluate(run, scorers)


def scorers_of(config: Config) -> list[Scorer]:
    """The stages of a configuration whose scores are evaluated."""
    return [
        Scorer(
            node.name,
            node.key,
            score_of_p(node.policy.p_max) if node.policy else 0.0,
            node.score_features or (),
            node.combines_reports,
        )
        for node in scoring_nodes(config)
    ]
