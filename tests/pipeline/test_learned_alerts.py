"""Alerts on what assess learned: they name what decided."""

from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from detectors.fusion.assessment import censored_inverse_p
from detectors.scoring.policy import NO_ALERT, OPENED
from schemas.alerts import ALERT_BYTES_MAX, alert_record
from stream.config import AssessSpec, LearningSpec
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.stages.assess import Assess
from tests.pipeline import report_stream
from tests.pipeline.report_stream import (
    DAY_MS,
    FEATURE,
    KEY,
    LATE_MS,
    LIMIT,
    MONITORS,
    START_MS,
    Report,
    assessment,
    label,
    take,
)

DAYS, A_DAY, FRAUDS = 25, 250, 0.05


@cache
def stream() -> report_stream.ReportStream:
    """Both monitors report every event. The second is always the more surprised and says nothing;
    the first's feature tells frauds."""
    draw = np.random.default_rng(3)
    rows = []
    for k, at in enumerate(np.sort(draw.integers(0, DAYS * DAY_MS, DAYS * A_DAY)).tolist()):
        fraud, event, at_ms = draw.uniform() < FRAUDS, f"e{k}", START_MS + at
        x = draw.normal(5.0 * fraud)
        rows.append(Report(at_ms, event, 0, 10.0 ** -draw.uniform(2, 4), x))
        rows.append(Report(at_ms, event, 1, 10.0 ** -draw.uniform(4, 6)))
        rows.append(label(at_ms + LATE_MS, event, "fraud" if fraud else "honest"))
    return report_stream.report_stream(rows + report_stream.unreported_sample(DAYS, A_DAY, 1.0, 3))


@cache
def alerts(*, reports_grouped: bool) -> list[dict[str, Any]]:
    """Those of the last ten days."""
    policy = msgspec.structs.replace(report_stream.FREQUENT_ALERTS, p_max=1e-3)
    learning = LearningSpec(inputs=["label"], features=[FEATURE])
    spec = AssessSpec(subject="account", learning=learning, policy=policy)
    run = RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z")
    alert_builder = AlertBuilder(KEY, frozenset(), run, Identity("eddy", "live"))
    stage = Assess(spec, MONITORS, 1, "0123", alert_builder, reports_grouped=reports_grouped)
    bodies = [alert_record(one.alert).value for one in stage.process(stream().reports).alerts]
    assert max(map(len, bodies)) <= ALERT_BYTES_MAX
    found = [orjson.loads(body) for body in bodies]
    return [one for one in found if one["event_time_ms"] > START_MS + (DAYS - 10) * DAY_MS]


@pytest.mark.slow
@pytest.mark.parametrize("reports_grouped", [False, True])
def test_alerts_name_the_deciding_features(reports_grouped: bool) -> None:
    """Reason, largest share and counterfactual are the feature that tells frauds, not the monitor
    that was surprised more; its value and what is usual stand beside it."""
    x = {row.event: row.x for row in stream().rows if row.monitor == 0}
    found = alerts(reports_grouped=reports_grouped)
    assert len(found) > 50
    for alert in found:
        shown = alert["contributions"]
        assert sum(one["share"] for one in shown) == pytest.approx(1.0)
        assert all(a["share"] >= b["share"] for a, b in pairwise(shown))
        assert {FEATURE, MONITORS[0]} <= {one["feature"] for one in shown}
        assert alert["action"]["reason_code"].endswith(shown[0]["feature"])
        mine = next(one for one in shown if one["feature"] == FEATURE)
        event = alert["evidence"][0]["event_id"]
        assert mine["actual"] == pytest.approx(x[event], rel=1e-5)
        if mine["expected_high"] is None:
            assert 0.0 <= x[event] < 4.0
        else:
            assert mine["expected_low"] == 0.0 < mine["expected_high"] < 4.0
            assert not 0.0 <= x[event] <= mine["expected_high"]
    policy_outcome = [alert for alert in found if alert["contributions"][0]["feature"] == FEATURE]
    assert len(policy_outcome) > 0.95 * len(found)
    alone = [alert for alert in policy_outcome if alert["counterfactual"] == [FEATURE]]
    assert len(alone) > 0.9 * len(found)


@pytest.mark.slow
def test_features_against_the_alert_have_no_share() -> None:
    """The monitor that says nothing lowers the odds as often as it raises them: its share is 0
    then, and small in all."""
    shares = [
        next(one["share"] for one in alert["contributions"] if one["feature"] == MONITORS[1])
        for alert in alerts(reports_grouped=True)
    ]
    assert min(shares) == 0.0
    assert np.mean(shares) < 0.1


def test_an_alert_removes_its_reports_from_the_smallest_p_on() -> None:
    """Without learning: the p without the first one, two reports in order of their p is the harmonic
    mean of those that stay; whichever monitor reported the smaller one."""
    censored = censored_inverse_p(LIMIT)
    for p, order in (((1e-8, 1e-3), [0, 1]), ((1e-3, 1e-8), [1, 0])):
        rows = [Report(START_MS, "e", k, one) for k, one in enumerate(p)]
        it = report_stream.report_stream(rows)
        out = take(assessment(monitors=2, reports_grouped=True), it)
        assert out.policy_outcome.activity.tolist() == [NO_ALERT, OPENED]
        assert out.order[:2, 1].tolist() == order
        without = [2.0 / (1.0 / max(p) + censored), 1.0 / censored]
        assert out.counterfactual_p[:2, 1] == pytest.approx(without)
        assert np.isnan(out.counterfactual_p[2, 1])
        assert out.contribution[1, :2] == pytest.approx(1.0 / np.array(p))


def test_the_p_of_all_counts_those_that_scored() -> None:
    """For a replay's curves: the harmonic mean of all p-values of an event, whether they were reported
    or not; a monitor that did not score it does not count."""
    rows = [
        Report(START_MS, "both", 0, 0.5),
        Report(START_MS, "both", 1, 0.02),
        Report(START_MS + 1, "one", 1, 0.3),
        Report(START_MS + 2, "reported", 0, 1e-4),
        Report(START_MS + 2, "reported", 1, 0.5),
    ]
    it = report_stream.report_stream(rows)
    out = take(assessment(monitors=2, reports_grouped=True), it)
    both = 2.0 / (1.0 / 0.5 + 1.0 / 0.02)
    assert out.p_of_all == pytest.approx([0.5, both, 0.3, 1e-4, 2.0 / (1e4 + 2.0)])
    assert out.policy_outcome.activity.tolist() == [NO_ALERT, NO_ALERT, NO_ALERT, OPENED, NO_ALERT]
