"""Web traffic: bots among a site's sessions, crawlers among a log's addresses, and a scan for holes
laid into that log.

Web bots: what is learned are human sessions only. Each session is judged in a replay of its own,
behind all human sessions but itself; its score is that of its last request. Features were chosen on
this set, which is the publisher's for development.

Crawlers: the user agent is struck out of the file before anything reads it; an address crawls when
an agent of its lines is in the public list. An address's score is the median of its requests', of
the monitor that looks for crawlers. Which features, and the median, were chosen looking at this
figure on this log: there is no other labelled part. Nothing is fitted to the labels beyond that.

The scan: the addresses' lines as they are, and the scan's moved to 18 May, 12:00, at its own pace;
found is its address when it is named in an alert.
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

from schemas.columns import F64
from stream.config import Config, load
from stream.judging.measures import average_precision, roc_auc
from tests.quality.replayed import CONFIGS, DATA, by_entity, replayed
from tests.quality.rows import Row

TRAFFIC: Final = DATA / "traffic"
DAY_MS: Final = 86_400_000
_AGENT: Final = re.compile(r'"([^"]*)"\s*$')
_TIME: Final = re.compile(r"\[([^]]+)\]")
SCAN_FROM: Final = datetime(2015, 5, 18, 12, tzinfo=UTC)


def web_bots() -> list[Row]:
    """Sessions of a real site, human and moderate bots."""
    using = load(CONFIGS / "webbot.toml")
    table = pq.read_table(TRAFFIC / "webbot_dev.parquet")
    labels = pq.read_table(TRAFFIC / "webbot_dev_labels.parquet").to_pylist()
    bot = {row["session"]: row["label"] != "human" for row in labels}
    sessions = sorted(bot)
    score = np.array([_session_score(using, table, session, bot) for session in sessions])
    auc = roc_auc(score, np.array([bot[session] for session in sessions]))
    others = "isolation forest fitted on human sessions .824; best single feature .972"
    return [Row("webbot_moderate_auc", "moderate web bots, session AUC", auc, 0.95, others)]


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
        found = replayed(using, "request", path)
    ids = table["request_id"].to_pylist()
    own = [ids[row] for row in np.flatnonzero(of == session)]
    return by_entity(found.of(own), [session] * len(own), "last")[session]


def crawlers() -> list[Row]:
    """Addresses of a real log, their user agents hidden."""
    lines = _log_lines()
    address = [line.split(" ", 1)[0] for line in lines]
    known = orjson.loads((TRAFFIC / "crawler_user_agents.json").read_bytes())
    crawls = re.compile("|".join(one["pattern"] for one in known))
    bot: dict[str, bool] = {}
    for ip, line in zip(address, lines, strict=True):
        bot[ip] = bot.get(ip, False) or bool(crawls.search(_agent(line)))
    score, _ = _replay_log(lines, "score_crawler")
    whole = _crawler_ap(score, address, bot)
    late = [i for i, line in enumerate(lines) if "[18/May" in line]
    second = _crawler_ap(score[late], [address[i] for i in late], bot)
    remark = (
        f"{np.mean(list(bot.values())):.2f} of {len(bot)} addresses crawl; alone the "
        f"share of pages without a referrer .46; second day only {second:.3f}"
    )
    return [Row("access_log_ap", "crawlers, user agent hidden, AP", whole, 0.65, remark)]


def _crawler_ap(score: F64, address: list[str], bot: dict[str, bool]) -> float:
    found = by_entity(score, address, "median")
    return average_precision(np.array(list(found.values())), np.array([bot[ip] for ip in found]))


def scan() -> list[Row]:
    """A vulnerability scan amid the log's traffic."""
    background = _log_lines()
    raw = (TRAFFIC / "scanner_acunetix.log").read_text(errors="replace").splitlines()
    attack = moved([line.strip('"') + '"' for line in raw])
    scanner = attack[0].split(" ", 1)[0]
    lines = sorted([*background, *attack], key=_when)
    _, alerts = _replay_log(lines, "score_prober")
    own = [i for i, line in enumerate(lines) if line.startswith(scanner + " ")]
    found = [a for a in alerts if a["monitor"] == "prober" and a["entity"]["id"] == scanner]
    at = min((one["offset"] for a in found for one in a["evidence"]), default=np.inf)
    requests = float(sum(i <= at for i in own)) if found else np.inf
    others = {a["entity"]["id"] for a in alerts if a["monitor"] == "prober"} - {scanner}
    remark = f"of {len(attack)}; {len(others)} of the log's own addresses flagged by that monitor"
    return [Row("scan_requests", "requests until the scan is found", requests, 0.0, remark)]


def _log_lines() -> list[str]:
    return (TRAFFIC / "access_may17_18.log").read_text(errors="replace").splitlines()


def _agent(line: str) -> str:
    found = _AGENT.search(line)
    return found[1] if found else ""


def without_agent(line: str) -> str:
    """The line with a dash for its user agent."""
    return _AGENT.sub('"-"', line)


def _when(line: str) -> datetime:
    found = _TIME.search(line)
    assert found is not None, line
    return datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z")


def moved(lines: list[str]) -> list[str]:
    """The lines in the order of their times, the first at `SCAN_FROM`."""
    ordered = sorted(lines, key=_when)
    shift: timedelta = SCAN_FROM - _when(ordered[0])
    return [
        _TIME.sub(
            f"[{(_when(line) + shift).astimezone(UTC).strftime('%d/%b/%Y:%H:%M:%S %z')}]",
            line,
            count=1,
        )
        for line in ordered
    ]


def _replay_log(lines: list[str], column: str) -> tuple[F64, list[dict[str, Any]]]:
    """Each line's score and the alerts, the lines' user agents struck out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.log"
        path.write_text("".join(without_agent(line) + "\n" for line in lines))
        found = replayed(load(CONFIGS / "access-log.toml"), "request", path, column)
    return found.of([f"request:0:{i}" for i in range(len(lines))]), found.alerts
