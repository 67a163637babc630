"""Alerts on what assess learned: they name what decided."""

from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

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
    MONITORS,
    START_MS,
    Report,
    label,
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
