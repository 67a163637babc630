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
from typing import Final, NamedTuple

import msgspec
import numpy as np
import orjson

from schemas.columns import F64
from stream.config import Config, load
from tests.quality.figures import Row
from tests.quality.intervals import Blocks, blocks, median, ranking, ratio, total
from tests.quality.replay_file import CONFIGS, ReplayResult, replay_file, skipped_remark

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


def sshd(data: Path) -> list[Row]:
    """Addresses found, after how many failures, and honest ones flagged. The log has six days, so
    that intervals are by address."""
    file = data / "logins" / "auth_first.log"
    logins = list(logins_in(file.read_text(errors="replace").splitlines()))
    using = load(CONFIGS / "sshd.toml")
    found = _replayed(logins, using)
    accepted = {one.ip for one in logins if one.outcome == "success"}
    failures = Counter(one.ip for one in logins if one.outcome != "success")
    attacks = {ip for ip, n in failures.items() if n >= FAILURES_MIN} - accepted
    addresses = list(dict.fromkeys(one.ip for one in logins))
    of = blocks(range(len(addresses)))
    first: dict[str, int] = {}
    for alert in found.alerts:
        first.setdefault(alert["entity"]["id"], int(alert["evidence"][0]["event_id"]))
    attacking, flagged = (
        np.array([ip in some for ip in addresses], np.float64) for some in (attacks, first)
    )
    caught = np.flatnonzero(attacking * flagged)
    after: F64 = np.array(
        [_failed_logins(logins[: first[addresses[i]] + 1]) for i in caught], np.float64
    )
    needed = median(after, Blocks(of.of[caught], of.weights))
    recall = ratio(attacking * flagged, attacking, of)
    others = total(flagged * (1.0 - attacking), of)
    remark = f"{len(attacks)} addresses; after {needed.value:g} failures (median)"
    what = "sshd, failures until found"
    return [
        Row("sshd_recall", "sshd, guessing addresses found", recall, 1.0, remark),
        Row("sshd_failures_median", what, needed, 10.0, "", "higher"),
        Row("sshd_false", "sshd, other addresses flagged", others, 2.0, "", "higher"),
        _models_alone(logins, using, attacks),
    ]


def _failed_logins(logins: list[Login]) -> int:
    """Failures of the last one's address."""
    return sum(one.ip == logins[-1].ip and one.outcome != "success" for one in logins)


def _models_alone(logins: list[Login], using: Config, attacks: set[str]) -> Row:
    """How the addresses rank by their largest score without the rule."""
    monitors = [msgspec.structs.replace(monitor, rules=[]) for monitor in using.monitors]
    found = _replayed(logins, msgspec.structs.replace(using, monitors=monitors))
    score = found.scores_of([str(i) for i in range(len(logins))])
    largest: dict[str, float] = {}
    for one, own in zip(logins, score.tolist(), strict=True):
        if not np.isnan(own):
            largest[one.ip] = max(largest.get(one.ip, 0.0), own)
    is_attack = np.array([ip in attacks for ip in largest], np.bool_)
    of = blocks(range(len(largest)))
    ap = ranking(np.array(list(largest.values())), is_attack, of).ap
    remark = f"chance {is_attack.mean():.2f}" + skipped_remark(~np.isnan(score))
    return Row("sshd_models_ap", "sshd, addresses, no rule, AP", ap, 0.0, remark)


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


def _replayed(logins: list[Login], using: Config) -> ReplayResult:
    lines = [
        orjson.dumps(
            {"id": i, "at": one.at, "ip": one.ip, "user": one.user, "outcome": one.outcome}
        )
        for i, one in enumerate(logins)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logins.ndjson"
        path.write_bytes(b"\n".join(lines))
        return replay_file(using, "login", path)
