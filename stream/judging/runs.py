"""Judging a run that has just ended: its files and configuration in, what labels say of it out."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from detectors.explain import surprise
from detectors.monitor import told_names
from stream import database
from stream.config import ASSESS, Config
from stream.judging.facts import Facts, Files, Watcher, parquet
from stream.judging.figures import Judgement
from stream.judging.judge import judge


def judge_run(
    config: Config,
    files: Files,
    incidents: Path,
    write_incidents: Callable[[Iterable[pa.RecordBatch]], None],
    work: Path,
) -> Judgement | None:
    """What the labels say of a run; None where nothing was to be judged.

    write_incidents: writes the incidents' file, given the rows of the scores that are frauds. work:
    a folder for what does not fit into memory. Raises ExtraMissing without DuckDB.
    """
    with database.opened(work) as tables:
        watchers = watchers_of(config)
        facts = Facts(tables, files, watchers)
        write_incidents(facts.frauds())
        return judge(facts, watchers, parquet(incidents))


def watchers_of(config: Config) -> list[Watcher]:
    """The monitors of a configuration, then assess."""
    monitors = [
        Watcher(m.name, m.entity, surprise(m.policy.p_max), tuple(told_names(m)))
        for m in config.monitors
    ]
    if config.assess is None:
        return monitors
    needed = surprise(config.assess.policy.p_max)
    return [*monitors, Watcher(ASSESS, config.assess.subject, needed, ())]
