"""Web traffic: bots among a site's sessions, crawlers among a log's addresses, and a scan for holes
laid into that log.

Web bots: what is learned are human sessions only. Each session is judged in a replay of its own,
behind all human sessions but itself; its score is that of its last request. Features were chosen on
this set, which is the publisher's for development.

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
from tests.quality.figures import Row
from tests.quality.intervals import Ranking, blocks, by_seed, ranking
from tests.quality.replay_file import CONFIGS, by_entity, replay_file, skipped_remark

DAY_MS: Final = 86_400_000
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
    score = np.array([_session_score(using, table, session, bot) for session in sessions])
    read = ~np.isnan(score)
    is_bot = np.array([bot[session] for session in sessions])[read]
    auc = ranking(score[read], is_bot, blocks(np.flatnonzero(read))).auc
    others = "isolation forest fitted on human sessions .824; best single feature .972"
    what = "moderate web bots, session AUC"
    return [Row("webbot_moderate_auc", what, auc, 0.95, others + skipped_remark(read))]


def _session_score(using: Config, table: pa.Table, session: str, bot: dict[str, bool]) -> float:
    """The session's score, a day behind all human sessions but itself."""
    of = np.array(table["session"].to_pylist())
    learned = np.array([not bot[one] and one != session for one in of])
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
    whole = _addresses_ranked(score, address, bot)
    late = [i for i, line in enumerate(lines) if "[18/May" in line]
    second = _addresses_ranked(score[late], [address[i] for i in late], bot)
    remark = (
        f"{np.mean(list(bot.values())):.2f} of {len(bot)} addresses crawl; alone the "
        f"share of pages without a referrer .46; second day only {second.ap.value:.3f}"
        + skipped_remark(read)
    )
    return [Row("access_log_ap", "crawlers, user agent hidden, AP", whole.ap, 0.65, remark)]


def _addresses_ranked(score: F64, address: list[str], bot: dict[str, bool]) -> Ranking:
    found = by_entity(score, address, "median")
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
    what = "requests until the scan is found"
    return [Row("scan_requests", what, by_seed(requests), 0.0, remark, "higher")]


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
