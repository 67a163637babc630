"""assess with labels: what it learns, when it speaks, and that it is the same fold however run."""

import tomllib
from dataclasses import replace
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.fusion import model_state
from detectors.fusion.assessment import Assessment
from detectors.fusion.event_memory import SLOTS_PER_SET
from detectors.fusion.model_state import BOOSTED, HARMONIC
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec
from detectors.spec import FeatureSpec, PolicySpec
from detectors.state import Arrays, add_prefix, copy_arrays
from schemas.alerts import Alert, alert_record
from schemas.columns import F64, I64, EventBatch
from schemas.events import LABEL_TYPE
from schemas.labels import FRAUD, HONEST, UNKNOWN
from schemas.records import Records
from stream.config import Config, parse
from stream.config.stage_graph import nodes
from stream.errors import ConfigError
from stream.pipeline.alerting import AlertBuilder, Identity, RunInfo
from stream.pipeline.cluster import InMemoryCluster
from stream.pipeline.scores import NO_SCORES, ScoreSelection
from stream.pipeline.stages.watch import Watch
from stream.replay import replay
from tests.streams import START_MS, same
from tests.streams import batch as made_up

DAY_MS = 86_400_000
DAYS = 30
A_DAY = 200
few = settings(max_examples=5, deadline=None)


@cache
def story(seed: int = 1) -> tuple[EventBatch, I64, F64, F64]:
    """Thirty days of reports by two monitors and the labels a week behind; which of the reports
    are frauds only the feature says. Batch, monitor (-1: a label), p-values, features."""
    draw = np.random.default_rng(seed)
    n = DAYS * A_DAY
    event_ms = START_MS + np.sort(draw.integers(0, DAYS * DAY_MS, n))
    fraud = draw.uniform(size=n) < 0.2
    rows: list[tuple[Any, ...]] = []
    for i in range(n):
        feature = float(draw.normal(3.0 if fraud[i] else 0.0))
        silent = draw.uniform() < 0.1  # of the sample, perhaps
        for monitor in (0, 1):
            if monitor == 0 or draw.uniform() < 0.3:
                p = draw.uniform(0.01, 1.0) if silent else 10.0 ** -draw.uniform(2.0, 5.0)
                value = feature if monitor == 0 else np.nan
                rows.append((int(event_ms[i]), i, monitor, f"e{i}", None, p, value))
        if draw.uniform() < 0.9:
            verdict = "fraud" if fraud[i] else "honest"
            at = int(event_ms[i]) + 7 * DAY_MS
            rows.append((at, n + i, -1, f"e{i}", verdict, np.nan, np.nan))
            if draw.uniform() < 0.05:
                rows.append((at + DAY_MS, 2 * n + i, -1, f"e{i}", "honest", np.nan, np.nan))
    rows.sort(key=lambda row: row[:2])
    columns: list[list[Any]] = [[row[k] for row in rows] for k in range(7)]
    at_ms, offset, monitors, event, said, p_value, values = columns
    who = np.array(monitors)
    label = who < 0
    batch = EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(len(rows), np.int32),
        offset=np.array(offset, np.int64),
        time_ms=np.array(at_ms, np.int64),
        type_code=np.where(label, LABEL_TYPE, 0).astype(np.uint8),
        event_id=pa.array([f"l{i}" if i < 0 else e for i, e in zip(monitors, event, strict=True)]),
        text={
            "account": pa.array([f"a{int(e[1:]) % 50}" for e in event]),
            "verdict": pa.array(said, pa.string()),
            "labelled_event_id": pa.array(event, pa.string(), mask=~label),
        },
        number={},
    )
    return batch, who.astype(np.int64), np.array(p_value), np.array(values)[:, None]


def assessment(events_max: int = 20_000, *, reports_grouped: bool = False) -> Assessment:
    """An assessment of two monitors that learns from one feature of the first."""
    policy = PolicySpec(p_max=0.01, alerts_per_day=1000, incident_gap="1min", warm_up_events=0)
    return Assessment(
        policy, (1, 2), 2, 100, events_max, 1, 0.01, [0], reports_grouped=reports_grouped
    )


def run(of: Assessment, until: int, cuts: list[int], start: int = 0) -> Arrays:
    """Let it take the story's rows up to there, cut at these places; all that it said."""
    batch, monitor, p, values = story()
    edges = [start, *sorted({cut for cut in cuts if start < cut < until}), until]
    parts = [
        of.process(batch.slice(a, b), "account", monitor[a:b], p[a:b], values[a:b])
        for a, b in pairwise(edges)
    ]
    return {
        "p": np.concatenate([part.p for part in parts]),
        "activity": np.concatenate([part.policy_outcome.activity for part in parts]),
        "written": np.concatenate([part.p_of_all for part in parts]),
        "order": np.concatenate([part.order for part in parts], axis=1),
        "without": np.concatenate([part.counterfactual_p for part in parts], axis=1),
    }


def rows_of_story() -> int:
    """How many rows it has."""
    return len(story()[0])


def between_events(cut: int) -> int:
    """The first cut from there on that leaves what is said of one event together."""
    offset = story()[0].offset
    while cut < len(offset) and offset[cut] == offset[cut - 1]:
        cut += 1
    return cut


@few
@given(cuts=st.lists(st.integers(1, 12_000), max_size=12), together=st.booleans())
def test_batch_cuts_do_not_matter(cuts: list[int], together: bool) -> None:
    """However reports and labels are cut into batches, what is said and the state are the same
    bytes; where all reports on an event come together, that is, between events."""
    whole, cut = assessment(reports_grouped=together), assessment(reports_grouped=together)
    if together:
        cuts = [between_events(cut) for cut in cuts]
    one, other = run(whole, rows_of_story(), []), run(cut, rows_of_story(), cuts)
    names = one.keys() if together else one.keys() - {"written"}
    assert all(same(one[name], other[name]) for name in names)
    states = whole.save(), cut.save()
    assert states[0].keys() == states[1].keys()
    assert all(same(states[0][name], states[1][name]) for name in states[0])
    assert whole.learner.sums.status[model_state.ACTIVE_MODEL] != HARMONIC


@few
@given(stop=st.integers(1, 12_000))
def test_save_and_load_are_invisible(stop: int) -> None:
    """One loaded from a saved state goes on exactly as the one that never stopped."""
    until = rows_of_story()
    stop = min(stop, until - 1)
    going, first, second = assessment(), assessment(), assessment()
    run(going, stop, [])
    run(first, stop, [])
    run(second, 3_000, [])  # what stood there before must not shine through
    second.load(copy_arrays(first.save()))
    cut = between_events(stop + 7)  # within one, what is written of it so far differs
    one, other = run(going, until, [], stop), run(second, until, [cut], stop)
    assert all(same(one[name], other[name]) for name in one)
    left, right = going.save(), second.save()
    assert all(same(left[name], right[name]) for name in left)


def test_it_learns_more_than_the_reports_tell() -> None:
    """In the last days the trees speak, and frauds, which by the reports alone cannot be told, have
    the small p-values; honest ones keep honest ones."""
    of = assessment()
    said = run(of, rows_of_story(), [])
    batch, monitor, _, values = story()
    late = (batch.time_ms > START_MS + 25 * DAY_MS) & (monitor == 0)
    strange = values[:, 0] > 2.0
    assert of.learner.sums.status[model_state.ACTIVE_MODEL] == BOOSTED
    assert np.median(said["p"][late & strange]) < 0.1 * np.median(said["p"][late & ~strange])


@pytest.mark.slow
def test_learned_scores_are_honest_p_values() -> None:
    """Of honest events as many are as rare as the p-value says, once what was learned speaks; of
    frauds, which the reports alone hide among them, far more."""
    draw = np.random.default_rng(5)
    n, days = 300_000, 30
    fraud = draw.uniform(size=n) < 0.002
    p = np.where(fraud, 10.0 ** -draw.uniform(2.0, 5.0, n), draw.uniform(size=n))
    event_ms = START_MS + np.sort(draw.integers(0, days * DAY_MS, n))
    at_ms = np.concatenate([event_ms, event_ms + 2 * DAY_MS])
    order = np.argsort(at_ms, kind="stable")
    label = np.repeat([False, True], n)
    ids = pa.array([f"e{i}" for i in range(n)])
    verdict = np.where(fraud, "fraud", "honest").astype(object)
    nothing = pa.nulls(n, pa.string())
    batch = EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(2 * n, np.int32),
        offset=np.arange(2 * n),
        time_ms=at_ms[order],
        type_code=np.where(label, LABEL_TYPE, 0).astype(np.uint8)[order],
        event_id=pa.concat_arrays([ids, pa.array([f"l{i}" for i in range(n)])]).take(order),
        text={
            "account": pa.array([f"a{i % 50}" for i in range(n)] * 2).take(order),
            "verdict": pa.concat_arrays([nothing, pa.array(verdict)]).take(order),
            "labelled_event_id": pa.concat_arrays([nothing, ids]).take(order),
        },
        number={},
    )
    value = np.concatenate([draw.normal(3.0 * fraud), np.full(n, np.nan)])[:, None]
    of = assessment()
    monitor = np.where(label, -1, 0)
    said = of.process(
        batch, "account", monitor[order], np.concatenate([p, p])[order], value[order]
    ).p
    assert of.learner.sums.status[model_state.ACTIVE_MODEL] != HARMONIC
    late = ~label[order] & (batch.time_ms > START_MS + days // 2 * DAY_MS)
    of_fraud = np.concatenate([fraud, fraud])[order]
    honest, frauds = said[late & ~of_fraud], said[late & of_fraud]
    # all of a bin count as rare as its least, and what new trees say counts beside what was said
    for alpha, factor in ((0.01, 1.3), (0.001, 1.5), (0.0003, 2.0)):
        assert alpha / factor < np.mean(honest <= alpha) < alpha * factor, alpha
    assert np.mean(frauds <= 0.001) > 0.8


def test_without_labels_assess_does_not_change() -> None:
    """No label, no difference: p-values are the harmonic mean's, bit for bit."""
    batch, monitor, p, values = story()
    reports = np.flatnonzero(monitor >= 0)
    args = batch.take(reports), "account", monitor[reports], p[reports]
    policy = PolicySpec(p_max=0.01, alerts_per_day=1000, incident_gap="1min", warm_up_events=0)
    plain = Assessment(policy, (1, 2), 2, 100, 20_000, 1)
    none = np.empty((len(reports), 0))
    one = assessment().process(*args, values[reports])
    other = plain.process(*args, none)
    assert same(one.p, other.p)
    assert same(one.policy_outcome.activity, other.policy_outcome.activity)
    assert not any(name.startswith("learner") for name in plain.save())


def test_frauds_alone_train_no_model() -> None:
    """Where no honest event is ever labelled nothing is known of them, and the harmonic mean
    stays."""
    batch, monitor, p, values = story()
    fraud = np.array([v == "fraud" for v in batch.text["verdict"].to_pylist()])
    rows = np.flatnonzero((monitor >= 0) | fraud)
    of = assessment()
    of.process(batch.take(rows), "account", monitor[rows], p[rows], values[rows])
    assert of.counts()["labels"] > 500
    assert of.learner.sums.status[model_state.ACTIVE_MODEL] == HARMONIC


def test_amounts_of_two_currencies_compare() -> None:
    """What is learned from holds multiples of what is typical where a currency is named, and the
    amount itself where none is."""
    spec = MonitorSpec(
        name="account",
        entity="account",
        inputs=["shop"],
        features=[FeatureSpec(name="amount", kind="value", field="amount")],
        detectors=[TailSpec()],
    )
    events = made_up(5, 400)
    amount = np.exp(np.random.default_rng(1).normal(3.0, 0.3, 400))
    yen = np.arange(400) % 2 == 0
    run = RunInfo("live", "one", str)
    alert_builder = AlertBuilder((1, 2), frozenset(), run, Identity("eddy", "live"))
    learned = []
    for currency in (pa.array(np.where(yen, "JPY", "EUR")), pa.nulls(400, pa.string())):
        batch = replace(
            events,
            text={**events.text, "currency": currency},
            number={**events.number, "amount": np.where(yen, 160.0 * amount, amount)},
        )
        watch = Watch(spec, 1, "0123", alert_builder, ["account.amount"])
        learned.append(watch.process(batch).training_features["account.amount"])
    named, plain = learned
    assert np.nanmedian(named[yen]) == pytest.approx(np.nanmedian(named[~yen]), rel=0.1)
    judged = ~np.isnan(plain)
    assert plain[judged] == pytest.approx(np.where(yen, 160.0 * amount, amount)[judged])


def one_event(of: Assessment, verdicts: list[str]) -> None:
    """A report on an event, and its labels one after the other."""
    rows = 1 + len(verdicts)
    batch = EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(rows, np.int32),
        offset=np.arange(rows),
        time_ms=START_MS + np.arange(rows),
        type_code=np.array([0] + [LABEL_TYPE] * len(verdicts), np.uint8),
        event_id=pa.array(["e", *(f"l{k}" for k in range(len(verdicts)))]),
        text={
            "account": pa.array(["a"] * rows),
            "verdict": pa.array([None, *verdicts], pa.string()),
            "labelled_event_id": pa.array([None, *["e"] * len(verdicts)], pa.string()),
        },
        number={},
    )
    who = np.array([0] + [-1] * len(verdicts), np.int64)
    p = np.array([1e-4] + [np.nan] * len(verdicts))
    of.process(batch, "account", who, p, np.ones((rows, 1)))


@pytest.mark.parametrize(
    ("verdicts", "last", "honest"),
    [
        ([], UNKNOWN, 0.0),
        (["maybe"], UNKNOWN, 0.0),
        (["honest"], HONEST, 1.0),
        (["fraud"], FRAUD, 0.0),
        (["honest", "fraud"], FRAUD, 0.0),
        (["fraud", "honest"], HONEST, 1.0),
        (["honest", "honest"], HONEST, 1.0),
    ],
)
def test_a_later_label_replaces_the_former(verdicts: list[str], last: float, honest: float) -> None:
    """In what trees are fitted on, and among the honest events that p-values are read from."""
    of = assessment()
    one_event(of, verdicts)
    memory = of.learner.memory
    assert memory.verdict[memory.event != 0].tolist() == [last]
    assert of.learner.sums.honest_bins[model_state.LOGISTIC].sum() == honest


def test_frauds_are_not_crowded_out() -> None:
    """A memory too small for all reports keeps labelled frauds, but no set of nothing else."""
    of = assessment(events_max=2_400)
    run(of, rows_of_story(), [])
    verdict = of.learner.memory.verdict.reshape(-1, SLOTS_PER_SET)
    frauds = (verdict == FRAUD).sum(axis=1)
    assert frauds.max() < SLOTS_PER_SET
    ample = assessment()
    run(ample, rows_of_story(), [])
    labelled = ample.learner.memory.verdict
    share = (labelled == FRAUD).sum() / (labelled != UNKNOWN).sum()
    assert frauds.sum() / (verdict != UNKNOWN).sum() > 1.5 * share


CONFIG = """
[inputs.pay]
topic = "pay"
type = "transaction"

[inputs.label]
topic = "label"
type = "label"

[[monitors]]
name = "card"
entity = "card"
inputs = ["pay"]
features = [{ name = "amount", kind = "value", field = "amount", side = "high" }]
detectors = [{ kind = "tail" }]

[[monitors]]
name = "terminal"
entity = "terminal"
inputs = ["pay", "label"]
features = [{ name = "amount", kind = "value", field = "amount" }]
detectors = [{ kind = "label_risk", name = "risk", half_life = "7d" }]

[assess]
subject = "card"
report_p = 0.05

[assess.learning]
inputs = ["label"]
features = ["card.amount", "terminal.risk"]
"""


def config(text: str = CONFIG) -> Config:
    """Cards and terminals, assessed with labels."""
    return parse(tomllib.loads(text), {})


def files(folder: Path, labels_late_days: float = 3.0) -> list[tuple[str, Path]]:
    """Forty days of payments, where a bad terminal's are all frauds, and their labels."""
    draw = np.random.default_rng(7)
    n = 12_000
    time = np.sort(START_MS + draw.integers(0, 40 * DAY_MS, n))
    terminal = draw.integers(0, 60, n)
    bad = (terminal % 20) == (time - START_MS) // (8 * DAY_MS)
    pays, labels = [], []
    for i in range(n):
        names = {"card": f"c{draw.integers(80)}", "terminal": f"t{terminal[i]}"}
        amount = float(np.exp(draw.normal(3.0, 0.5)))
        pays.append({"event_id": f"p{i}", "time": int(time[i]), "amount": amount, **names})
        at = int(time[i] + labels_late_days * DAY_MS)
        verdict = "fraud" if bad[i] else "honest"
        about = {"verdict": verdict, "labelled_event_id": f"p{i}", **names}
        labels.append({"event_id": f"l{i}", "time": at, **about})
    found = []
    for name, rows in (("pay", pays), ("label", labels)):
        path = folder / f"{name}.ndjson"
        path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
        found.append((name, path))
    return found


def scored(of: Config, inputs: list[tuple[str, Path]], out: Path) -> tuple[pa.Table, list[bytes]]:
    """Scores of the payments, and alerts without their run."""
    replay(of, inputs, out, lambda _records, _share: None)
    table = pq.read_table(out / "scores.parquet")
    alerts = []
    for line in (out / "alerts.ndjson").read_bytes().splitlines():
        alert = orjson.loads(line)
        del alert["run"]
        alerts.append(orjson.dumps(alert))
    is_pay = [name.startswith("p") for name in table["event_id"].to_pylist()]
    return table.filter(pa.array(is_pay)), alerts


@pytest.mark.slow
def test_a_replay_writes_what_assess_learned(tmp_path: Path) -> None:
    """Every payment has a score, frauds of the last days the higher ones, reported or not; and the
    labels are what makes the difference."""
    inputs = files(tmp_path)
    learned, alerts = scored(config(), inputs, tmp_path / "learned")
    plain = config(CONFIG[: CONFIG.index("[assess]")])
    without, _ = scored(plain, inputs, tmp_path / "plain")
    assert learned["event_id"].equals(without["event_id"])
    assert any(orjson.loads(alert)["monitor"] == "assess" for alert in alerts)
    one, other = (table["score"].to_numpy() for table in (learned, without))
    assert not np.isnan(one).any()
    early = learned["event_time"].cast(pa.int64()).to_numpy() < START_MS + 3 * DAY_MS
    assert same(one[early], other[early])
    assert not same(one, other)


OFTEN = """
[assess.policy]
p_max = 0.01
alerts_per_day = 1000
incident_gap = "1min"
"""


def folded(
    of: Config, inputs: dict[str, list[bytes]], selection: ScoreSelection
) -> tuple[list[bytes], Arrays]:
    """Alerts and states of everything, its logs read day by day."""
    cluster = InMemoryCluster(of, RunInfo("replay", "one", str), selection=selection)
    alerts: list[Alert] = []
    taken = dict.fromkeys(inputs, 0)
    for until_ms in range(START_MS + DAY_MS, START_MS + 50 * DAY_MS, DAY_MS):
        for name, log in inputs.items():
            values = [*takewhile(lambda v: orjson.loads(v)["time"] < until_ms, log[taken[name] :])]  # noqa: B023 - taken at once
            offset = taken[name] + np.arange(len(values))
            taken[name] += len(values)
            records = Records(name, 0, offset, np.full(len(values), -1), [*values])
            alerts += cluster.process_and_enqueue(name, records).alerts
        alerts += cluster.advance(until_ms)[0]
    assert taken == {name: len(log) for name, log in inputs.items()}
    states = {f"{one.log.name}/{one.log.internal}": one.shard.save() for one in cluster.states()}
    return [alert_record(alert)[1] for alert in alerts], add_prefix(states)


@pytest.mark.slow
@pytest.mark.parametrize("hop", [False, True])
def test_scoring_every_event_changes_nothing(tmp_path: Path, hop: bool) -> None:
    """Alerts and states are the same bytes whether every event is scored, as in a replay, or only
    reports are looked at, as live is: straight from the monitors or over the log of the reports."""
    logs = {name: path.read_bytes().splitlines() for name, path in files(tmp_path, 1.0)}
    text = CONFIG + OFTEN
    if not hop:
        typed = [
            orjson.loads(line) | {"type": kind}
            for name, kind in (("pay", "transaction"), ("label", "label"))
            for line in logs[name]
        ]
        logs = {"pay": [*map(orjson.dumps, sorted(typed, key=lambda row: row["time"]))]}
        text = text.replace('[inputs.label]\ntopic = "label"\ntype = "label"\n', "")
        text = text.replace('"transaction"', '{ field = "type" }')
        text = text.replace('["pay", "label"]', '["pay"]').replace('["label"]', '["pay"]')
    of = config(text)
    [assess] = (node for node in nodes(of) if node.name == "assess")
    assert bool(assess.internal_topic) == hop
    (few, live), (all_, replayed) = (
        folded(of, logs, selection) for selection in (NO_SCORES, ScoreSelection(scores=True))
    )
    assert sum(orjson.loads(alert)["monitor"] == "assess" for alert in few) > 50
    [clock] = [state for name, state in live.items() if name.endswith("learner/sums/clock")]
    assert clock[model_state.ACTIVE_MODEL] != HARMONIC
    assert all_ == few
    assert live.keys() == replayed.keys()
    assert [name for name in live if not same(live[name], replayed[name])] == []


@pytest.mark.slow
def test_a_label_is_not_known_before_its_time(tmp_path: Path) -> None:
    """Whatever labels say from some moment on, what was scored before it is the same."""
    inputs = files(tmp_path)
    told, _ = scored(config(), inputs, tmp_path / "told")
    moment = START_MS + 30 * DAY_MS
    lies = []
    for line in inputs[1][1].read_bytes().splitlines():
        label = orjson.loads(line)
        if label["time"] >= moment:
            label["verdict"] = "fraud" if label["verdict"] == "honest" else "honest"
        lies.append(orjson.dumps(label))
    (tmp_path / "lies.ndjson").write_bytes(b"\n".join(lies))
    changed = [inputs[0], ("label", tmp_path / "lies.ndjson")]
    lied, _ = scored(config(), changed, tmp_path / "lied")
    before = told["event_time"].cast(pa.int64()).to_numpy() < moment
    one, other = (table["score"].to_numpy() for table in (told, lied))
    assert same(one[before], other[before])
    assert not same(one[~before], other[~before])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"terminal.risk"', '"terminal.rsk"', "features[1]: got terminal.rsk"),
        (
            '"card.amount", ',
            '"card.amount", "card.amount", ',
            "features[1]: card.amount is already",
        ),
        ('inputs = ["label"]\nfeatures = ["c', 'inputs = ["labels"]\nfeatures = ["c', "no input"),
    ],
)
def test_unusable_training_features_are_named(old: str, new: str, problem: str) -> None:
    """A feature that no monitor has, one named twice, an input that is none."""
    with pytest.raises(ConfigError) as error:
        config(CONFIG.replace(old, new))
    assert any("assess.learning." in line and problem in line for line in error.value.problems)
