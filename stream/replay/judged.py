"""The last step of a run that has labels: its tables are judged, and what is known of frauds and
incidents is written beside them.
"""

from detectors.explain import surprise
from detectors.monitor import told_names
from stream import database
from stream.config import ASSESS, Config
from stream.judging.facts import Facts, Files, Watcher
from stream.judging.figures import Judgement
from stream.judging.judge import judge
from stream.replay.recording import ALERTS, INCIDENTS, LABELS, SCORES, Recording


def judged(config: Config, recording: Recording) -> Judgement | None:
    """What the labels say of a run whose tables are written; None where there are none, or nothing
    was to be judged. Writes its frauds and incidents. Raises ExtraMissing without DuckDB."""
    if not recording.labels_heard:
        recording.write_incidents()
        return None
    files = Files(recording.part(SCORES), recording.part(ALERTS), recording.part(LABELS))
    with database.opened(recording.work) as tables:
        watchers = watchers_of(config)
        facts = Facts(tables, files, watchers)
        recording.write_frauds(facts.frauds())
        recording.write_incidents()
        facts.see("incidents", recording.part(INCIDENTS))
        return judge(facts, watchers)


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
