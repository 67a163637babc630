"""Recorded data through `replay` with a ready configuration, and what came of it.

A record that is no event, such as a log's truncated last line, has no score: it is left out of the
figures, and a remark says how many there are.

An event has a score; what an address, a session or a series deserves is made of its events' scores
here and nowhere else: see `Aggregation`.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow.parquet as pq

from schemas.columns import F64, Bools
from stream.config import Config
from stream.replay import replay
from stream.replay.inputs import InputLocations

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIGS: Final = ROOT / "deploy" / "configs"
DATA: Final = ROOT.parent / "shared" / "data"

Aggregation = Literal["last", "median"]
"""How an entity's score is made of its events' scores: the last says how it stands once all is
known of it, the median what it usually does."""
_AGGREGATE: Final[dict[Aggregation, Callable[[list[float]], float]]] = {
    "last": lambda scores: scores[-1],
    "median": lambda scores: float(np.median(scores)),
}


class ReplayResult(NamedTuple):
    """score: event id → the event's score. alerts: in their order, as they were published."""

    score: dict[str, float]
    alerts: list[dict[str, Any]]

    def scores_of(self, event_ids: Sequence[str]) -> F64:
        """float64[n]: the scores of these records, NaN where a record is no event."""
        return np.array([self.score.get(event_id, np.nan) for event_id in event_ids])


def replay_file(
    using: Config, name: str, path: Path, column: str = "score", labels: InputLocations = ()
) -> ReplayResult:
    """One file as one input. column: of scores.parquet, such as one monitor's. labels: files of
    labels, by the names of their inputs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        replay(using, [(name, path)], out, lambda _read, _share: None, labels)
        table = pq.read_table(out / "scores.parquet", columns=["event_id", column])
        lines = (out / "alerts.ndjson").read_bytes().splitlines()
    scores = table[column].fill_null(0.0).to_pylist()
    return ReplayResult(
        dict(zip(table["event_id"].to_pylist(), scores, strict=True)),
        [orjson.loads(line) for line in lines],
    )


def skipped_remark(read: Bools) -> str:
    """A remark on records that are no events, such as a truncated last line; empty without any."""
    broken = int(np.count_nonzero(~read))
    return f"; {broken} of {len(read)} records left out, which are no events" if broken else ""


def by_entity(scores: F64, entities: Sequence[str], aggregation: Aggregation) -> dict[str, float]:
    """Each entity's score, of its events in their order."""
    found: dict[str, list[float]] = {}
    for entity, score in zip(entities, scores.tolist(), strict=True):
        found.setdefault(entity, []).append(score)
    return {entity: _AGGREGATE[aggregation](own) for entity, own in found.items()}
