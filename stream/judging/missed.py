"""What was missed, and why: how near each missed fraud came to an alert, and what was silent.

Near is what the monitors' scores lacked, each to the least score on which it can alert.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from stream.clock import text_of
from stream.judging.facts import MISSED, Facts, Watcher
from stream.judging.figures import (
    FeatureSilence,
    Missed,
    MissedBand,
    MissedFrauds,
    MonitorSaid,
)

LISTED_MAX: Final = 50
BANDS: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Where the bands of what was lacking end; the last has no end."""


def missed_frauds(facts: Facts, watchers: Sequence[Watcher]) -> MissedFrauds:
    """The judged frauds that were not caught; makes a view `missed` of them."""
    scored = [watcher for watcher in watchers if facts.has_scores_of(watcher.name)]
    facts.do(f"CREATE VIEW missed AS {MISSED}")
    [(count, hundredths)] = facts.rows("SELECT count(*), coalesce(sum(hundredths), 0) FROM missed")
    return MissedFrauds(
        frauds=int(count),
        amount=int(hundredths) / 100,
        by_amount=_listed(facts, scored, "hundredths DESC"),
        nearest=_listed(facts, scored, "gap"),
        bands=_bands(facts),
        silence=[one for watcher in scored for one in _silence(facts, watcher)],
    )


def _listed(facts: Facts, scored: Sequence[Watcher], order: str) -> list[Missed]:
    """The first of them in an order, ties by time and id."""
    said = [f"score_{one.name}, surprised_{one.name}" for one in scored]
    found = facts.rows(
        f"SELECT event_id, epoch_ms(event_time), kind, amount, score, gap, "
        f"{', '.join([*facts.fields, *said])} FROM missed "
        f"ORDER BY {order} NULLS LAST, event_time, event_id LIMIT {LISTED_MAX}"
    )
    width = len(facts.fields)
    listed = []
    for event_id, time_ms, kind, amount, score, gap, *rest in found:
        ids, words = rest[:width], rest[width:]
        monitors = [
            _said(watcher, words[2 * i], words[2 * i + 1]) for i, watcher in enumerate(scored)
        ]
        judged = [one for one in monitors if one.score is not None]
        nearest = min(judged, key=lambda one: one.needed - (one.score or 0.0), default=None)
        listed.append(
            Missed(
                event_id=event_id,
                event_time=text_of(int(time_ms)),
                scenario=kind,
                amount=amount,
                score=score,
                entities={f: v for f, v in zip(facts.fields, ids, strict=True) if v is not None},
                nearest=nearest.monitor if nearest else None,
                gap=gap,
                said=monitors,
            )
        )
    return listed


def _said(watcher: Watcher, score: float | None, surprised: str | None) -> MonitorSaid:
    names = surprised.split(",") if surprised else []
    told = watcher.told if score is not None else ()
    return MonitorSaid(
        monitor=watcher.name,
        score=score,
        needed=watcher.needed,
        surprised=names,
        silent=[name for name in told if name not in names],
    )


def _bands(facts: Facts) -> list[MissedBand]:
    """Every band, the nearest first, then those whom no monitor judged."""
    edges = [None, *BANDS, None]
    found = []
    for above, to in pairwise(edges):
        low = "true" if above is None else f"gap > {above}"
        high = "true" if to is None else f"gap <= {to}"
        found.append((above, to, f"gap IS NOT NULL AND {low} AND {high}"))
    found.append((None, None, "gap IS NULL"))
    bands = []
    for above, to, where in found:
        [(count, hundredths)] = facts.rows(
            f"SELECT count(*), coalesce(sum(hundredths), 0) FROM missed WHERE {where}"
        )
        amount = int(hundredths) / 100
        bands.append(MissedBand(gap_above=above, gap_to=to, frauds=int(count), amount=amount))
    return bands


def _silence(facts: Facts, watcher: Watcher) -> list[FeatureSilence]:
    if not watcher.told:
        return []
    names = f"string_split(surprised_{watcher.name}, ',')"
    silent = [f"NOT list_contains({names}, '{name}')" for name in watcher.told]
    shares = ", ".join(
        f"avg(CASE WHEN {one} THEN 1.0 ELSE 0.0 END) FILTER ({caught})"
        for one in silent
        for caught in ("NOT caught", "caught")
    )
    [row] = facts.rows(
        f"SELECT {shares} FROM frauds WHERE judged AND score_{watcher.name} IS NOT NULL"
    )
    return [
        FeatureSilence(
            monitor=watcher.name,
            feature=name,
            silent_missed=row[2 * i],
            silent_caught=row[2 * i + 1],
        )
        for i, name in enumerate(watcher.told)
    ]
