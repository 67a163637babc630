"""What every test may use: the real broker, the shared data, and the rule that broker tests count.

A test that asks for the `broker` fixture carries the marker `broker` by itself. Where Java 17 or
Maven is missing it is skipped, and the summary says how many and why. With EDDY_REQUIRE_BROKER=1 no
broker test may be missing: one that skips, and a run in which none passed, fail the session.
EDDY_TEST_BOOTSTRAP names a broker that runs already.

Tests run in random order: files with broker tests first, since they take longest, then all others;
the tests of a file stay together. The report's header has the seed; `--order-seed N` repeats an
order, and `--order-seed 0` keeps the order of the files. No test helpers live here, only fixtures.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

ROOT = Path(__file__).resolve().parents[1]
BROKER = ROOT / "deploy" / "kafka" / "broker.py"
EXIT_MISSING = 3  # broker.py: Java or Maven is missing
BROKER_KEYWORD = "on a broker"
"""A keyword of broker tests alone: "broker" is one of all that stands in tests/broker, too."""

DRAWN_SEED = pytest.StashKey[int]()

set_hypothesis_home_dir(ROOT / ".cache" / "hypothesis")


def broker_required() -> bool:
    """Whether a broker test that does not run is a failure."""
    return os.environ.get("EDDY_REQUIRE_BROKER") == "1"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a real broker, one for the whole session, or for each of the
    processes that share it. Use topics of your own."""
    given = os.environ.get("EDDY_TEST_BOOTSTRAP")
    if given:
        yield given
        return
    stderr_file = tmp_path_factory.mktemp("broker") / "stderr"
    command = [sys.executable, str(BROKER), "--with-parent"]
    with (
        stderr_file.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line.startswith("bootstrap="):
                reason = stderr_file.read_text().strip().removeprefix("broker.py: ")
                if process.wait() == EXIT_MISSING and not broker_required():
                    pytest.skip(reason)
                pytest.fail(f"no broker: {reason}", pytrace=False)
            yield line.removeprefix("bootstrap=")
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data here: there is no folder ../shared/data beside the repository")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let an order be repeated."""
    parser.addoption("--order-seed", type=int, help="which order tests run in; 0: as they stand")


def order_seed(config: pytest.Config) -> int:
    """The seed of this session's order; processes that share the tests have the same."""
    given: int | None = config.getoption("order_seed")
    return given if given is not None else config.stash[DRAWN_SEED]


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat the order."""
    return f"order of tests: --order-seed {order_seed(config)}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the seed to a process that shares the tests."""
    node.workerinput["order_seed"] = order_seed(node.config)


def shuffle(items: list[pytest.Item], seed: int) -> None:
    """Put the tests in the seed's order: files with broker tests first, each file's together."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups, random = list(files.values()), Random(seed)
    random.shuffle(groups)
    for group in groups:
        random.shuffle(group)
    groups.sort(key=lambda group: not any(item.get_closest_marker("broker") for item in group))
    items[:] = [item for group in groups for item in group]


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what asks for the broker, so that reports of it say so, whichever process they are
    from; and draw the order."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")
        if item.get_closest_marker("broker"):
            item.keywords[BROKER_KEYWORD] = True
    if seed := order_seed(config):
        shuffle(items, seed)


class BrokerTests:
    """Follows the broker tests through a session, tells how they went, and fails it if it must."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.skipped: Counter[str] = Counter()
        self.modules_skipped: Counter[str] = Counter()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember modules skipped as a whole: nobody knows which tests they hold."""
        if report.skipped:
            self.modules_skipped[f"{report.nodeid}: {reason_of(report)}"] += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one broker test."""
        if BROKER_KEYWORD not in report.keywords:
            return
        xfailed = getattr(report, "wasxfail", None)
        if report.failed:
            self.failed += 1
        elif report.skipped and (xfailed is None or "[NOTRUN]" in xfailed):
            self.skipped[reason_of(report)] += 1
        elif report.passed and report.when == "call":
            self.passed += 1

    def failure(self) -> str | None:
        """Why the session may not succeed, if the broker is required."""
        if not broker_required():
            return None
        if self.skipped:
            return "a broker test was skipped"
        if self.modules_skipped:
            return "a whole module was skipped, and with it perhaps broker tests"
        if not self.passed:
            return "no broker test ran and passed"
        return None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a success into a failure where the broker was required and missing."""
        finished = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if (
            session.exitstatus in finished
            and not session.config.option.collectonly
            and self.failure()
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many broker tests ran, and why the others did not."""
        if terminalreporter.config.option.collectonly:
            return
        skipped = self.skipped.total()
        if self.passed or self.failed or skipped:
            terminalreporter.section("broker tests")
            terminalreporter.line(f"{self.passed} passed, {self.failed} failed, {skipped} skipped")
            for reason, count in self.skipped.items():
                terminalreporter.line(f"  {count} skipped: {reason}")
        if failure := self.failure():
            for module in self.modules_skipped:
                terminalreporter.line(f"  module skipped: {module}")
            terminalreporter.line(f"EDDY_REQUIRE_BROKER=1, but {failure}: this run fails", red=True)


def reason_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Why something was skipped."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "") or report.longrepr)


def pytest_configure(config: pytest.Config) -> None:
    """Follow the broker tests in every session; where processes share it, in the one that leads.
    Draw a seed for the order of tests."""
    shared: dict[str, int] = getattr(config, "workerinput", {})
    config.stash[DRAWN_SEED] = shared.get("order_seed", 0) or SystemRandom().randrange(1, 10**6)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(BrokerTests(), "eddy-broker-tests")
