"""What was missed, and why: how near each missed fraud came to an alert, and what was silent.

Near is what the scores of monitors and assess lacked, each to the least score on which it can alert.
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
    facts.do(f"CREATE VIEW missed AS {MISSED}")
    [(count, hundredths)] = facts.rows("SELECT count(*), coalesce(sum(hundredths), 0) FROM missed")
    return MissedFrauds(
        frauds=int(count),
        amount=int(hundredths) / 100,
        by_amount=_listed(facts, watchers, "hundredths DESC"),
        nearest=_listed(facts, watchers, "gap"),
        bands=_bands(facts, watchers),
        silence=[one for watcher in watchers for one in _silence(facts, watcher)],
    )


def _listed(facts: Facts, watchers: Sequence[Watcher], order: str) -> list[Missed]:
    """The first of them in an order, ties by time."""
    said = [
        f"score_{one.name}, {_held_back([one])}, {f'surprised_{one.name}' if one.told else 'NULL'}"
        for one in watchers
    ]
    found = facts.rows(
        f"SELECT event_id, epoch_ms(event_time), kind, amount, score, nearest, gap, "
        f"{', '.join([*facts.fields, *said])} FROM missed "
        f"ORDER BY {order} NULLS LAST, event_time, row LIMIT {LISTED_MAX}"
    )
    width = len(facts.fields)
    listed = []
    for event_id, time_ms, kind, amount, score, nearest, gap, *rest in found:
        ids, words = rest[:width], rest[width:]
        said_by = [_said(watcher, *words[3 * i : 3 * i + 3]) for i, watcher in enumerate(watchers)]
        listed.append(
            Missed(
                event_id=event_id,
                event_time=text_of(int(time_ms)),
                scenario=kind,
                amount=amount,
                score=score,
                entities={f: v for f, v in zip(facts.fields, ids, strict=True) if v is not None},
                nearest=nearest,
                gap=gap,
                said=said_by,
            )
        )
    return listed


def _said(
    watcher: Watcher, score: float | None, held_back: bool, surprised: str | None
) -> MonitorSaid:
    names = surprised.split(",") if surprised else []
    told = watcher.told if score is not None else ()
    return MonitorSaid(
        monitor=watcher.name,
        score=score,
        needed=watcher.needed,
        held_back=held_back,
        surprised=names,
        silent=[name for name in told if name not in names],
    )


def _held_back(watchers: Sequence[Watcher]) -> str:
    each = (f"coalesce(activity_{one.name} = 'held_back', false)" for one in watchers)
    return f"({' OR '.join(each)})"


def _bands(facts: Facts, watchers: Sequence[Watcher]) -> list[MissedBand]:
    """Every band: what the budget held back, then the nearest first, then whom nobody judged."""
    edges = [f"{low:g} to {high:g}" for low, high in pairwise(BANDS)]
    names = ["held back", "budget", *edges, f"more than {BANDS[-1]:g}", "not scored"]
    ends = " ".join(f"WHEN gap <= {end} THEN {k}" for k, end in enumerate(BANDS, 1))
    found = facts.rows(
        f"SELECT CASE WHEN {_held_back(watchers)} THEN 0 WHEN gap IS NULL THEN {len(names) - 1} "
        f"{ends} ELSE {len(names) - 2} END, count(*), sum(hundredths) FROM missed GROUP BY 1"
    )
    counts = {band: (int(count), int(hundredths) / 100) for band, count, hundredths in found}
    return [
        MissedBand(name=name, frauds=frauds, amount=amount)
        for k, name in enumerate(names)
        for frauds, amount in [counts.get(k, (0, 0.0))]
    ]


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
