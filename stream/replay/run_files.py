"""The files of a run: alerts, dead letters, tables, summary, page and manifest.

They have temporary names until the run is complete.
"""

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec
import pyarrow as pa

from schemas.alerts import Alert, alert_record
from schemas.dead_letters import DeadLetter, as_json_line
from stream.config import Config
from stream.errors import InputError, OutputFailure
from stream.pipeline.alerting import AlertBuilder
from stream.pipeline.cluster import ScoredEvents
from stream.replay.final_labels import FinalLabels, LabelBatch
from stream.replay.incident_events import add_first_events
from stream.replay.incident_table import write_incidents
from stream.replay.incidents import OpenedIncidents, read_opened_incidents
from stream.replay.manifest import MANIFEST, Provenance, encode_manifest
from stream.replay.summary import Summary
from stream.replay.table_columns import ALERT_COLUMNS, fraud_columns
from stream.replay.tables import (
    ALERT_GROUP_ROWS,
    FeatureFile,
    ScoreFile,
    TableFile,
    alert_rows,
)
from stream.replay.time_split import EvaluationSpan

ALERT_LINES: Final = "alerts.ndjson"
DEAD_LETTERS: Final = "dead_letters.ndjson"
ALERTS: Final = "alerts.parquet"
INCIDENTS: Final = "incidents.parquet"
SCORES: Final = "scores.parquet"
FEATURES: Final = "features.parquet"
LABELS: Final = "labels.parquet"
FRAUDS: Final = "frauds.parquet"
PAGE: Final = "index.html"
SUMMARY: Final = "summary.json"
FILES: Final = (
    *(ALERT_LINES, DEAD_LETTERS, ALERTS, INCIDENTS, SCORES, FEATURES, LABELS, FRAUDS),
    *(MANIFEST, PAGE, SUMMARY),
)
TIMING_FILES: Final = frozenset({SUMMARY, PAGE})
"""Files that hold run times; two runs of the same inputs agree in every byte of all others."""
PART_SUFFIX: Final = ".part"
"""Ends the name of a file that is still being written."""
WORK_DIR: Final = f"work{PART_SUFFIX}"
"""The folder for files that are needed only while a replay runs."""
OWN_FILES: Final = frozenset((*FILES, *(name + PART_SUFFIX for name in FILES), WORK_DIR))
"""Everything that a run may leave in its folder."""


def make_folder(path: Path) -> None:
    """Create a folder for results. Raises InputError where that cannot be."""
    if "?" in str(path):
        raise InputError(
            f"{path}: DuckDB cannot open a path that contains '?'; choose another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made: {error}") from error


def require_replay_folder(out_dir: Path, own_names: Collection[str]) -> None:
    """Raise InputError if the folder holds anything but files of a replay. own_names: their names."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; expected a folder, or a new name")
    foreign = sorted(entry.name for entry in out_dir.iterdir() if entry.name not in own_names)
    if foreign:
        raise InputError(
            f"{out_dir}: holds {foreign[0]}, which no replay wrote; "
            "expected an empty folder, the folder of an earlier replay, or a new name"
        )


@contextmanager
def map_write_errors(out_dir: Path) -> Iterator[None]:
    """Raise OutputFailure for an OSError of the block. Readers raise InputError instead."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputFailure(f"{out_dir}: the results cannot be written: {reason}") from error


class RunFiles:
    """The files of a run. They have temporary names until `finish`; without it they are removed.

    provenance: everything that determines them; its `writes_features` adds features.parquet.
    """

    def __init__(
        self,
        out_dir: Path,
        config: Config,
        alert_builder: AlertBuilder,
        span: EvaluationSpan,
        provenance: Provenance,
    ) -> None:
        self._temporary_paths = {name: out_dir / (name + PART_SUFFIX) for name in FILES}
        self._out_dir = out_dir
        self._config = config
        self._alert_builder = alert_builder
        self._span = span
        self._provenance = provenance
        self._open_files = ExitStack()
        self.work_dir = out_dir / WORK_DIR
        self.labels_accepted = 0

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:  # __exit__ is not called where __enter__ fails
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        shutil.rmtree(self.work_dir, ignore_errors=True)  # left by a killed replay
        self.work_dir.mkdir()
        open_file, parts = self._open_files.enter_context, self._temporary_paths
        self._alert_lines: IO[bytes] = open_file(parts[ALERT_LINES].open("wb"))
        self._dead_letters: IO[bytes] = open_file(parts[DEAD_LETTERS].open("wb"))
        self._alerts = open_file(TableFile(parts[ALERTS], ALERT_COLUMNS, ALERT_GROUP_ROWS))
        self._score_files: list[ScoreFile | FeatureFile] = [
            open_file(
                ScoreFile(parts[SCORES], self._config, self._span, self._alert_builder.display_ids)
            )
        ]
        if self._provenance.writes_features:
            self._score_files.append(open_file(FeatureFile(parts[FEATURES], self._config)))
        self._labels = open_file(
            FinalLabels(parts[LABELS], self.work_dir, self._alert_builder.display_ids)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._open_files.close()
        finally:
            shutil.rmtree(self.work_dir, ignore_errors=True)
            for part in self._temporary_paths.values():
                part.unlink(missing_ok=True)

    def add(
        self,
        alerts: list[Alert],
        dead_letters: list[DeadLetter],
        scored: Sequence[ScoredEvents] = (),
    ) -> None:
        """Write the output of a batch."""
        self._alert_lines.writelines(alert_record(alert).value + b"\n" for alert in alerts)
        self._alerts.write_rows(alert_rows(alerts, self._span))
        self._dead_letters.writelines(map(as_json_line, dead_letters))
        for events in scored:
            for file in self._score_files:
                file.add(events)

    def add_labels(self, labels: LabelBatch) -> None:
        """Collect labels for labels.parquet."""
        self.labels_accepted += len(labels.time_ms)
        self._labels.add(labels)

    def temporary_path(self, name: str) -> Path:
        """The temporary path of a file."""
        return self._temporary_paths[name]

    def close(self) -> None:
        """Complete the tables, except incidents and frauds, which are computed from the others."""
        self._labels.finish()
        self._open_files.close()

    def write_frauds(self, frauds: Iterable[pa.RecordBatch]) -> None:
        """Write frauds.parquet."""
        schema = fraud_columns(self._config)
        with TableFile(self._temporary_paths[FRAUDS], schema) as file:
            file.write_batches(frauds)

    def write_incidents(self) -> None:
        """Write incidents.parquet, with frauds if frauds.parquet is written."""
        parts = self._temporary_paths
        labelled = (parts[FRAUDS], parts[LABELS]) if parts[FRAUDS].exists() else None
        tables = parts[INCIDENTS], parts[ALERTS], parts[SCORES]
        write_incidents(self._config, self._span, *tables, labelled)

    def incidents_opened(self) -> OpenedIncidents:
        """The incidents opened in the evaluated time, from the written tables."""
        parts = self._temporary_paths
        opened = read_opened_incidents(parts[INCIDENTS], parts[ALERTS], parts[ALERT_LINES])
        return opened._replace(incidents=add_first_events(opened.incidents, parts[SCORES]))

    def finish(self, summary: Summary, page: str | None) -> None:
        """Write summary, page and manifest, and rename all files to their final names, the summary last."""
        if page is not None:
            self._temporary_paths[PAGE].write_text(page, "utf-8")
        self._temporary_paths[SUMMARY].write_bytes(
            msgspec.json.format(msgspec.json.encode(summary)) + b"\n"
        )
        not_hashed = {*TIMING_FILES, MANIFEST}
        outputs = {
            name: path
            for name, path in self._temporary_paths.items()
            if path.exists() and name not in not_hashed
        }
        self._temporary_paths[MANIFEST].write_bytes(encode_manifest(self._provenance, outputs))
        # A folder with a summary is a complete run: remove the old summary first, rename the new one last.
        (self._out_dir / SUMMARY).unlink(missing_ok=True)
        for name in FILES:
            if self._temporary_paths[name].exists():
                self._temporary_paths[name].replace(self._out_dir / name)
            else:
                (self._out_dir / name).unlink(missing_ok=True)
