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
from tests.quality.bases.accounts import login_bases
from tests.quality.figures import Row
from tests.quality.intervals import Blocks, Draws, blocks, median, ranking, ratio, total
from tests.quality.replay_file import CONFIGS, ReplayResult, replay_file, skipped_remark

YEAR: Final = 2017
FAILURES_MIN: Final = 5
GUARDS: Final = ("failures in a row", "failures so far, none accepted")
"""The bases that find an address once they reach `FAILURES_MIN`."""
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


class Found(NamedTuple):
    """Of who was found first at which login: the share of the attacking addresses, how many failures
    they had by then (median), and how many other addresses there are."""

    recall: Draws
    failures: Draws
    others: Draws


def sshd(data: Path) -> list[Row]:
    """Addresses found, after how many failures, and honest ones flagged. The log has six days, so
    that intervals are by address."""
    file = data / "logins" / "auth_first.log"
    logins = list(logins_in(file.read_text(errors="replace").splitlines()))
    using = load(CONFIGS / "sshd.toml")
    accepted = {one.ip for one in logins if one.outcome == "success"}
    failures = Counter(one.ip for one in logins if one.outcome != "success")
    attacks = {ip for ip, n in failures.items() if n >= FAILURES_MIN} - accepted
    first: dict[str, int] = {}
    for alert in _replayed(logins, using).alerts:
        first.setdefault(alert["entity"]["id"], int(alert["evidence"][0]["event_id"]))
    ours = _found(first, logins, attacks)
    scores = _base_scores(logins)
    guards = {
        f"{name}: {FAILURES_MIN}": _found(_first_at(scores[name], logins), logins, attacks)
        for name in GUARDS
    }
    bases = [{name: its[k] for name, its in guards.items()} for k in range(len(ours))]
    remark = f"{len(attacks)} addresses; after {ours.failures.values[0]:g} failures (median)"
    found, until = "sshd, guessing addresses found", "sshd, failures until found"
    flagged = "sshd, other addresses flagged"
    return [
        Row("sshd_recall", found, ours.recall, 1.0, remark, bases=bases[0]),
        Row("sshd_failures_median", until, ours.failures, 10.0, "", "higher", bases=bases[1]),
        Row("sshd_false", flagged, ours.others, 2.0, "", "higher", bases=bases[2]),
        _models_alone(logins, using, attacks, scores),
    ]


def _found(first: dict[str, int], logins: list[Login], attacks: set[str]) -> Found:
    """first: address → the login at which it was found."""
    addresses = list(dict.fromkeys(one.ip for one in logins))
    of = blocks(range(len(addresses)))
    attacking, flagged = (
        np.array([ip in some for ip in addresses], np.float64) for some in (attacks, first)
    )
    caught = np.flatnonzero(attacking * flagged)
    after: F64 = np.array(
        [_failed_logins(logins[: first[addresses[i]] + 1]) for i in caught], np.float64
    )
    return Found(
        ratio(attacking * flagged, attacking, of),
        median(after, Blocks(of.of[caught], of.weights)),
        total(flagged * (1.0 - attacking), of),
    )


def _failed_logins(logins: list[Login]) -> int:
    """Failures of the last one's address."""
    return sum(one.ip == logins[-1].ip and one.outcome != "success" for one in logins)


def _base_scores(logins: list[Login]) -> dict[str, F64]:
    _, address = np.unique([one.ip for one in logins], return_inverse=True)
    time_ms = np.array([1000 * int(one.at.timestamp()) for one in logins], np.int64)
    failure = np.array([one.outcome != "success" for one in logins], np.bool_)
    return login_bases(address.astype(np.int64), time_ms, failure)


def _first_at(score: F64, logins: list[Login]) -> dict[str, int]:
    """Address → its first login with that score or more."""
    first: dict[str, int] = {}
    for i in np.flatnonzero(score >= FAILURES_MIN).tolist():
        first.setdefault(logins[i].ip, i)
    return first


def _models_alone(
    logins: list[Login], using: Config, attacks: set[str], bases: dict[str, F64]
) -> Row:
    """How the addresses rank by their largest score without the rule."""
    monitors = [msgspec.structs.replace(monitor, rules=[]) for monitor in using.monitors]
    found = _replayed(logins, msgspec.structs.replace(using, monitors=monitors))
    score = found.scores_of([str(i) for i in range(len(logins))])
    read = ~np.isnan(score)
    address, number = np.unique(
        [one.ip for one, good in zip(logins, read, strict=True) if good], return_inverse=True
    )
    is_attack = np.array([ip in attacks for ip in address.tolist()], np.bool_)
    of = blocks(range(len(address)))

    def ranked(values: F64) -> Draws:
        largest = np.full(len(address), -np.inf)
        np.maximum.at(largest, number, values[read])
        return ranking(largest, is_attack, of).ap

    return Row(
        "sshd_models_ap",
        "sshd, addresses, no rule, AP",
        ranked(score),
        0.0,
        f"chance {is_attack.mean():.2f}" + skipped_remark(read),
        bases={name: ranked(own) for name, own in bases.items()},
    )


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
