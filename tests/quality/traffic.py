"""Web traffic: bots among a site's sessions, crawlers among a log's addresses, and a scan for holes
laid into that log.

Web bots: what is learned are human sessions only. Each session is scored in a replay of its own, after
the same number of human sessions: a human's after all but itself, a bot's after all but one, which
takes turns. Its score is that of its last request. Features were chosen on this set, which is the
publisher's for development.

Crawlers: the user agent is struck out of the file before anything reads it; an address crawls when
an agent of its lines is in the public list. An address's score is the median of its requests', of
the monitor that looks for crawlers. Which features, and the median, were chosen looking at this
figure on this log: there is no other labelled part. Nothing is fitted to the labels beyond that.

The scan: the addresses' lines as they are, and the scan's moved to a full hour of 18 May at its own
pace; found is its address when it is named in an alert. The figure is the mean over the hours.
"""

import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import F64, Bools
from stream.config import Config, load
from tests.quality.bases.traffic import (
    Requests,
    crawler_bases,
    parsed,
    scan_bases,
    session_bases,
)
from tests.quality.figures import Row
from tests.quality.intervals import DAY_MS, Ranking, blocks, by_seed, ranking
from tests.quality.replay_file import CONFIGS, by_entity, replay_file, skipped_remark

_AGENT: Final = re.compile(r'"([^"]*)"\s*$')
_TIME: Final = re.compile(r"\[([^]]+)\]")
SCANS_FROM: Final = [datetime(2015, 5, 18, hour, tzinfo=UTC) for hour in range(6, 22)]


def web_bots(data: Path) -> list[Row]:
    """Sessions of a real site, human and moderate bots."""
    using = load(CONFIGS / "webbot.toml")
    table = pq.read_table(data / "traffic" / "webbot_dev.parquet")
    labels = pq.read_table(data / "traffic" / "webbot_dev_labels.parquet").to_pylist()
    bot = {row["session"]: row["label"] != "human" for row in labels}
    of = table["session"].to_pylist()
    table = table.filter(pa.array([one in bot for one in of]))
    sessions = sorted(bot.keys() & set(of))
    earlier = earlier_sessions(sessions, bot)
    score = np.array(
        [_session_score(using, table, session, earlier[session]) for session in sessions]
    )
    read = ~np.isnan(score)
    is_bot = np.array([bot[session] for session in sessions])[read]
    drawn = blocks(np.flatnonzero(read))
    auc = ranking(score[read], is_bot, drawn).auc
    every = _requests(table)
    own = np.array(every.entity)
    each = [session_bases(every.take(np.flatnonzero(own == session))) for session in sessions]
    bases = {
        name: ranking(np.array([of[name] for of in each])[read], is_bot, drawn).auc
        for name in each[0]
    }
    others = "isolation forest fitted on human sessions .824"
    what = "moderate web bots, session AUC"
    remark = others + skipped_remark(read)
    return [Row("webbot_moderate_auc", what, auc, 0.95, remark, bases=bases)]


def earlier_sessions(sessions: list[str], bot: dict[str, bool]) -> dict[str, set[str]]:
    """The human sessions that each one is scored after: as many for a bot as for a human."""
    humans = [session for session in sessions if not bot[session]]
    bots = [session for session in sessions if bot[session]]
    left_out = {session: session for session in humans}
    left_out |= {session: humans[i % len(humans)] for i, session in enumerate(bots)}
    return {session: set(humans) - {left_out[session]} for session in sessions}


def _requests(table: pa.Table) -> Requests:
    return Requests(
        table["session"].to_pylist(),
        table["ts"].combine_chunks().cast(pa.int64()).to_numpy(),
        table["path"].to_pylist(),
        table["status"].to_numpy(),
        [one or "" for one in table["referrer"].to_pylist()],
    )


def _session_score(using: Config, table: pa.Table, session: str, earlier: set[str]) -> float:
    """The session's score, a day after the earlier ones."""
    of = np.array(table["session"].to_pylist())
    learned = np.array([one in earlier for one in of])
    order = np.concatenate([np.flatnonzero(learned), np.flatnonzero(of == session)])
    time_ms = table["ts"].combine_chunks().cast(pa.int64()).to_numpy() + DAY_MS * (of == session)
    later = pa.array(time_ms[order], pa.timestamp("ms"))
    laid = table.take(pa.array(order)).set_column(table.schema.get_field_index("ts"), "ts", later)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.parquet"
        pq.write_table(laid, path)
        found = replay_file(using, "request", path)
    ids = table["request_id"].to_pylist()
    own = [ids[row] for row in np.flatnonzero(of == session)]
    return by_entity(found.scores_of(own), [session] * len(own), "last")[session]


def crawlers(data: Path) -> list[Row]:
    """Addresses of a real log, their user agents hidden."""
    written = log_lines(data)
    score, _ = _replay_log(written, "score_crawler")
    read = ~np.isnan(score)
    lines = [line for line, good in zip(written, read, strict=True) if good]
    score = score[read]
    address = [line.split(" ", 1)[0] for line in lines]
    known = orjson.loads((data / "traffic" / "crawler_user_agents.json").read_bytes())
    crawls = re.compile("|".join(one["pattern"] for one in known))
    bot: dict[str, bool] = {}
    for ip, line in zip(address, lines, strict=True):
        bot[ip] = bot.get(ip, False) or bool(crawls.search(_agent(line)))
    scored = by_entity(score, address, "median")
    whole = _addresses_ranked(scored, bot)
    bases = {
        name: _addresses_ranked({ip: own[ip] for ip in scored}, bot).ap
        for name, own in crawler_bases(_parsed(lines)).items()
    }
    late = [i for i, line in enumerate(lines) if "[18/May" in line]
    second = _addresses_ranked(by_entity(score[late], [address[i] for i in late], "median"), bot)
    remark = (
        f"{np.mean(list(bot.values())):.2f} of {len(bot)} addresses crawl; "
        f"second day only {second.ap.values[0]:.3f}" + skipped_remark(read)
    )
    what = "crawlers, user agent hidden, AP"
    return [Row("access_log_ap", what, whole.ap, 0.65, remark, bases=bases)]


def _addresses_ranked(found: dict[str, float], bot: dict[str, bool]) -> Ranking:
    crawls: Bools = np.array([bot[ip] for ip in found], np.bool_)
    return ranking(np.array(list(found.values())), crawls, blocks(range(len(found))))


def scan(data: Path) -> list[Row]:
    """A vulnerability scan amid the log's traffic, at every hour."""
    background = log_lines(data)
    raw = (data / "traffic" / "scanner_acunetix.log").read_text(errors="replace").splitlines()
    attack = whole([line.strip('"') + '"' for line in raw])
    found = [_scan_found(background, attack, start) for start in SCANS_FROM]
    requests, others = zip(*found, strict=True)
    missed = sum(one > len(attack) for one in requests)
    remark = (
        f"of {len(attack)}; mean of {len(found)} starts, {missed} not found; at most {max(others)} "
        "of the log's own addresses flagged by that monitor"
    )
    early = [line for line in background if "[17/May" in line]
    alone = moved(attack, SCANS_FROM[0])
    bases = {
        name: by_seed([count] * len(found))  # the scan's own pace, which no start changes
        for name, count in scan_bases(_parsed(alone), _parsed(early)).items()
    }
    what = "requests until the scan is found"
    return [Row("scan_requests", what, by_seed(requests), 0.0, remark, "higher", bases=bases)]


def _parsed(lines: list[str]) -> Requests:
    lines = sorted(lines, key=when)
    return parsed(lines, np.array([1000 * int(when(line).timestamp()) for line in lines], np.int64))


def _scan_found(background: list[str], attack: list[str], start: datetime) -> tuple[float, int]:
    """The scanner's requests until it is found, one more than all where it is not; and how many
    other addresses the monitor names."""
    scanner = attack[0].split(" ", 1)[0]
    lines = sorted([*background, *moved(attack, start)], key=when)
    _, alerts = _replay_log(lines, "score_prober")
    own = [i for i, line in enumerate(lines) if line.startswith(scanner + " ")]
    found = [a for a in alerts if a["monitor"] == "prober" and a["entity"]["id"] == scanner]
    at = min((one["offset"] for a in found for one in a["evidence"]), default=None)
    requests = len(own) + 1 if at is None else sum(i <= at for i in own)
    others = {a["entity"]["id"] for a in alerts if a["monitor"] == "prober"} - {scanner}
    return float(requests), len(others)


def log_lines(data: Path) -> list[str]:
    """The access log's lines."""
    text = (data / "traffic" / "access_may17_18.log").read_text(errors="replace")
    return whole(text.splitlines())


def whole(lines: list[str]) -> list[str]:
    """The lines with a time; others, such as a truncated last one, belong nowhere."""
    return [line for line in lines if _time_in(line) is not None]


def _agent(line: str) -> str:
    found = _AGENT.search(line)
    return found[1] if found else ""


def without_agent(line: str) -> str:
    """The line with a dash for its user agent."""
    return _AGENT.sub('"-"', line)


def _time_in(line: str) -> datetime | None:
    found = _TIME.search(line)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z")
    except ValueError:
        return None


def when(line: str) -> datetime:
    """The time of a line that `whole` lets through."""
    found = _time_in(line)
    assert found is not None, line
    return found


def moved(lines: list[str], start: datetime) -> list[str]:
    """The lines in the order of their times, the first at that time."""
    ordered = sorted(lines, key=when)
    shift: timedelta = start - when(ordered[0])
    return [
        _TIME.sub(
            f"[{(when(line) + shift).astimezone(UTC).strftime('%d/%b/%Y:%H:%M:%S %z')}]",
            line,
            count=1,
        )
        for line in ordered
    ]


def _replay_log(lines: list[str], column: str) -> tuple[F64, list[dict[str, Any]]]:
    """Each line's score, NaN where a line is no request, and the alerts; the lines' user agents
    struck out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.log"
        path.write_text("".join(without_agent(line) + "\n" for line in lines))
        found = replay_file(load(CONFIGS / "access-log.toml"), "request", path, column)
    return found.scores_of([f"request:0:{i}" for i in range(len(lines))]), found.alerts
