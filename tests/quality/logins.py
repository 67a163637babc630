"""Logins to a machine: addresses that guess, in a real sshd log.

Each line on a failed, refused or accepted login is an event ("message repeated n times" is n of
them); the log has no year, which is taken to be 2017. An address attacks when it has at least five
failures and no accepted login; a failure is a failed password or key, or an unknown user (sshd says
both of one attempt; by failed passwords alone one address fewer attacks). Found is
an address named in an alert; it is found by the rule of the ready configuration, since in this log
two addresses in five attack, and what is so common has no small p-value. How well the models alone
rank the addresses is given beside it.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np
import orjson

from stream.config import Config, load
from stream.judging.measures import average_precision
from tests.quality.replayed import CONFIGS, DATA, Replayed, replayed
from tests.quality.rows import Row

FILE: Final = DATA / "logins" / "auth_first.log"
YEAR: Final = 2017
FAILURES_MIN: Final = 5
_LINE: Final = re.compile(r"(\w{3} +\d+ [\d:]+) \S+ sshd\[\d+\]: (.*)")
_REPEATED: Final = re.compile(r"message repeated (\d+) times: \[ (.*)\]")
_SAID: Final = {
    "failure": re.compile(r"Failed \S+ for (?:invalid user )?(.*) from (\S+) port"),
    "success": re.compile(r"Accepted \S+ for (.*) from (\S+) port"),
    "unknown_user": re.compile(r"Invalid user (.*) from (\S+)"),
}


class Login(NamedTuple):
    """A login or an attempt at one."""

    at: datetime
    ip: str
    user: str
    outcome: str


def sshd() -> list[Row]:
    """Addresses found, after how many failures, and honest ones flagged."""
    logins = list(logins_in(FILE.read_text(errors="replace").splitlines()))
    using = load(CONFIGS / "sshd.toml")
    found = _replayed(logins, using)
    accepted = {one.ip for one in logins if one.outcome == "success"}
    failures = Counter(one.ip for one in logins if one.outcome != "success")
    attacks = {ip for ip, n in failures.items() if n >= FAILURES_MIN} - accepted
    first: dict[str, int] = {}
    for alert in found.alerts:
        first.setdefault(alert["entity"]["id"], int(alert["evidence"][0]["event_id"]))
    after = [
        sum(one.ip == ip and one.outcome != "success" for one in logins[: first[ip] + 1])
        for ip in attacks & first.keys()
    ]
    recall = len(after) / len(attacks)
    honest = len(first.keys() - attacks)
    remark = f"{len(attacks)} addresses; after {median(after or [np.inf]):g} failures (median)"
    return [
        Row("sshd_recall", "sshd, guessing addresses found", recall, 1.0, remark),
        Row(
            "sshd_failures_median", "sshd, failures until found", median(after), 10.0, "", most=True
        ),
        Row("sshd_false", "sshd, other addresses flagged", float(honest), 2.0, "", most=True),
        _models_alone(logins, using, attacks),
    ]


def _models_alone(logins: list[Login], using: Config, attacks: set[str]) -> Row:
    """How the addresses rank by their largest score without the rule."""
    monitors = [msgspec.structs.replace(monitor, rules=[]) for monitor in using.monitors]
    found = _replayed(logins, msgspec.structs.replace(using, monitors=monitors))
    largest: dict[str, float] = {}
    for i, one in enumerate(logins):
        largest[one.ip] = max(largest.get(one.ip, 0.0), found.score[str(i)])
    ap = average_precision(
        np.array(list(largest.values())), np.array([ip in attacks for ip in largest])
    )
    chance = len(attacks) / len(largest)
    return Row("sshd_models_ap", "sshd, addresses, no rule, AP", ap, 0.0, f"chance {chance:.2f}")


def logins_in(lines: list[str]) -> Iterator[Login]:
    """The logins and attempts that a log's lines tell of, in their order."""
    for line in lines:
        matched = _LINE.match(line)
        if matched is None:
            continue
        said, times = matched[2], 1
        if repeated := _REPEATED.match(said):
            times, said = int(repeated[1]), repeated[2]
        for outcome, pattern in _SAID.items():
            if found := pattern.match(said):
                at = datetime.strptime(f"{YEAR} {matched[1]} +0000", "%Y %b %d %H:%M:%S %z")
                yield from [Login(at, found[2], found[1], outcome)] * times


def _replayed(logins: list[Login], using: Config) -> Replayed:
    lines = [
        orjson.dumps(
            {"id": i, "at": one.at, "ip": one.ip, "user": one.user, "outcome": one.outcome}
        )
        for i, one in enumerate(logins)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logins.ndjson"
        path.write_bytes(b"\n".join(lines))
        return replayed(using, "login", path)
