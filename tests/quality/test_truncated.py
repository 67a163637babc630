"""Data files that end within a record, as a copy that was interrupted leaves them."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.quality import logins, nab, signups, traffic
from tests.quality.figures import Row

AGENTS = ("Mozilla/5.0 (X11; Linux)", "Googlebot/2.1")
LOG = [
    f"203.0.113.{i % 9} - - [18/May/2015:0{i // 60}:{i % 60:02}:00 +0000] "
    f'"GET /page/{i % 7} HTTP/1.1" 200 5 "-" "{AGENTS[i % 9 % 2]}"'
    for i in range(120)
]
SCAN = [
    f'"192.0.2.1 - - [22/Dec/2016:16:2{i // 60}:{i % 60:02} +0300] '
    f'"GET /scan/{i} HTTP/1.1" 404 5 "-" "-""'
    for i in range(40)
]
SSHD = [
    f"Mar 27 13:0{i // 60}:{i % 60:02} host sshd[1]: Failed password for root from 192.0.2.{i % 3} "
    "port 7 ssh2"
    for i in range(60)
]
SIGNUPS = ["event_id,ip_address,email_address,EVENT_TIMESTAMP,EVENT_LABEL"] + [
    f"u{i:05},192.0.2.{i % 7},a{i}@example.com,2022-03-0{1 + i // 60}T09:{i % 60:02}:18Z,"
    + ("fraud" if i % 5 == 0 else "legit")
    for i in range(200)
]
SERIES = ["timestamp,value"] + [
    f"2014-04-01 0{i // 60}:{i % 60:02}:00,{i % 11}.5" for i in range(300)
]
FILES = {
    "traffic/access_may17_18.log": LOG,
    "traffic/scanner_acunetix.log": SCAN,
    "logins/auth_first.log": SSHD,
    "signups/registrations.csv": SIGNUPS,
    "series/nab/a.csv": SERIES,
}
PARTS: dict[str, tuple[Callable[[Path], list[Row]], int]] = {
    "crawlers": (traffic.crawlers, 1),
    "scan": (traffic.scan, 1),
    "sshd": (logins.sshd, 4),
    "signups": (signups.signups, 1),
    "nab": (nab.nab, 2),
}


@pytest.fixture(params=[0.15, 0.4, 0.7, 0.97])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Made-up files, that share of each one's last line left."""
    for name, lines in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        last = lines[-1][: int(request.param * len(lines[-1]))]
        (tmp_path / name).write_text("\n".join([*lines, last]))
    agents = orjson.dumps([{"pattern": "Googlebot"}])
    (tmp_path / "traffic" / "crawler_user_agents.json").write_bytes(agents)
    windows = [["2014-04-01 03:00:00.000000", "2014-04-01 03:30:00.000000"]]
    gone = [["2015-01-01 00:00:00.000000", "2015-01-01 01:00:00.000000"]]
    spans = {"a.csv": windows + gone, "not-here.csv": []}
    (tmp_path / "series" / "nab" / "windows.json").write_bytes(orjson.dumps(spans))
    return tmp_path


@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_last_line_stops_no_part(
    part: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All figures are there; the half record is left out."""
    monkeypatch.setattr(traffic, "SCANS_FROM", traffic.SCANS_FROM[:1])
    run, figures = PARTS[part]
    assert len(run(data)) == figures
