"""Rules: they stand beside the learned p-values and change nothing that is learned."""

import msgspec
import numpy as np

from detectors.models.tail import TailSpec
from detectors.monitor import Monitor
from detectors.spec import FeatureSpec, RuleSpec
from tests.laws.registry import monitor
from tests.streams import batch, same

KEY = (1, 2)
COUNT = FeatureSpec(name="events_1h", kind="count", half_life="1h")
AMOUNT = FeatureSpec(name="amount", kind="value", field="amount")
BUSY = RuleSpec(name="busy", at_least={"events_1h": 3.0}, p=1e-3)
DEAR = RuleSpec(name="busy_and_dear", at_least={"events_1h": 3.0, "amount": 100.0}, p=1e-5)
PLAIN = monitor([COUNT, AMOUNT], [TailSpec()])


def test_p_is_at_most_what_the_strictest_rule_says() -> None:
    """Where every feature of a rule is large enough, in its own unit, p is at most the rule's; an
    absent amount satisfies no rule, and elsewhere p is unchanged."""
    events = batch(1, 2_000, absent=0.2)
    plain = Monitor(PLAIN, KEY).process(events)
    ruled = Monitor(msgspec.structs.replace(PLAIN, rules=[BUSY, DEAR]), KEY).process(events)
    busy = plain.feature_values.values[0] >= 3.0
    dear = busy & (plain.feature_values.values[1] * plain.feature_values.units[1] >= 100.0)
    assert 0 < dear.sum() < busy.sum() < len(busy)
    expected = np.where(busy, np.minimum(plain.p, 1e-3), plain.p)
    expected = np.where(dear, np.minimum(expected, 1e-5), expected)
    assert same(ruled.p, expected)
    deciding = np.where(dear & (ruled.p == 1e-5), 1, np.where(busy & (ruled.p == 1e-3), 0, -1))
    assert (ruled.rule == deciding).all()


def test_a_rule_holds_at_its_own_value() -> None:
    """An event whose feature has exactly the rule's value has the rule's p-value; for the next
    larger bound it does not."""
    events = batch(1, 2_000)
    plain = Monitor(PLAIN, KEY).process(events)
    values = plain.feature_values.values[1] * plain.feature_values.units[1]
    row = int(np.flatnonzero(~np.isnan(values) & (plain.p > 0.1))[-1])
    for value, p in ((values[row], 1e-5), (np.nextafter(values[row], np.inf), plain.p[row])):
        exact = RuleSpec(name="exact", at_least={"amount": float(value)}, p=1e-5)
        ruled = Monitor(msgspec.structs.replace(PLAIN, rules=[exact]), KEY).process(events)
        assert ruled.p[row] == p


def test_rules_do_not_affect_learning() -> None:
    """Features, tails and calibration are equal with and without rules."""
    events = batch(2, 2_000)
    plain, ruled = Monitor(PLAIN, KEY), Monitor(msgspec.structs.replace(PLAIN, rules=[BUSY]), KEY)
    before, after = plain.process(events), ruled.process(events)
    assert same(before.calibrated.p, after.calibrated.p)
    learned = plain.incident_first_word
    assert same(plain.words[:, :learned].copy(), ruled.words[:, :learned].copy())
