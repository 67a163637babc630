"""The columns of a run's tables, with their meanings.

The meanings are written into the files; `eddy query --columns` and the documentation show them.
"""

from typing import Final

import pyarrow as pa

from detectors.monitor import value_names
from stream.config import Config, learning_inputs
from stream.config.stage_graph import scoring_nodes
from stream.evaluation.labelled_run import ALERTED

TIME: Final = pa.timestamp("ms")


def column(name: str, kind: pa.DataType, meaning: str, *, required: bool = False) -> pa.Field:
    """A column with its meaning. required: it is never null."""
    return pa.field(name, kind, nullable=not required, metadata={"meaning": meaning})


EVALUATED: Final = column(
    "evaluated", pa.bool_(), "whether the event is in the evaluated time", required=True
)
EVENT_ID: Final = column("event_id", pa.string(), "the event's own id", required=True)
EVENT_TIME: Final = column("event_time", TIME, "the event's own time, UTC", required=True)
POSITION: Final = (
    column("topic", pa.string(), "the topic of the event's record", required=True),
    column("partition", pa.int64(), "the partition of the event's record", required=True),
    column(
        "offset", pa.int64(), "the offset of the event's record in the partition", required=True
    ),
)
ACTIVITIES: Final = pa.array([None, *ALERTED, "held_back"])
"""The policy's outcome for an event, by the codes `policy.NO_ALERT` … `policy.HELD_BACK`."""

CONTRIBUTION: Final = pa.struct(
    [
        ("feature", pa.string()),
        ("actual", pa.float64()),
        ("expected_low", pa.float64()),
        ("expected_high", pa.float64()),
        ("p_value", pa.float64()),
        ("share", pa.float64()),
    ]
)
RELATED: Final = pa.struct([("type", pa.string()), ("id", pa.string()), ("pseudonym", pa.bool_())])

ALERT_COLUMNS: Final = pa.schema(
    [
        column("alert_id", pa.string(), "the alert's id", required=True),
        column("incident_id", pa.string(), "the id of the alert's incident", required=True),
        column(
            "revision", pa.int64(), "the alert's number within its incident, from 1", required=True
        ),
        column("activity", pa.string(), "opened or updated", required=True),
        column("monitor", pa.string(), 'the monitor, or "assess"', required=True),
        column("detector", pa.string(), "the detector with the lowest p-value", required=True),
        column("entity_type", pa.string(), "the field that names the entity", required=True),
        column("entity", pa.string(), "the entity's id, or its pseudonym", required=True),
        column("pseudonym", pa.bool_(), "whether entity holds a pseudonym", required=True),
        EVENT_ID,
        EVENT_TIME,
        *POSITION,
        column("score", pa.float64(), "-log10 of the p-value", required=True),
        column(
            "p_value",
            pa.float64(),
            "a share p of honest events has this p-value or a lower one",
            required=True,
        ),
        column(
            "threshold",
            pa.float64(),
            "the p-value at or below which an alert was raised",
            required=True,
        ),
        column("severity", pa.string(), "low, medium, high or critical", required=True),
        column(
            "budget_used",
            pa.float64(),
            "share of the day's alert budget that was used",
            required=True,
        ),
        column(
            "suppressed",
            pa.int64(),
            "events of the incident up to this alert without an alert of their own",
            required=True,
        ),
        column("first_seen", TIME, "the time of the incident's first event", required=True),
        column(
            "last_seen",
            TIME,
            "the time of the incident's latest event at this alert",
            required=True,
        ),
        column("action", pa.string(), "review, challenge, throttle or block", required=True),
        column("ttl_s", pa.int64(), "how long the action should last, seconds", required=True),
        column(
            "reason_code", pa.string(), "monitor and feature with the largest share", required=True
        ),
        column(
            "counterfactual",
            pa.list_(pa.string()),
            "features that, with expected values, would have prevented the alert",
        ),
        column("contributions", pa.list_(CONTRIBUTION), "the surprising features", required=True),
        column("related", pa.list_(RELATED), "the event's other entities", required=True),
        EVALUATED,
    ]
)
INCIDENT_COLUMNS: Final = pa.schema(
    [
        column("incident_id", pa.string(), "the incident's id", required=True),
        column("monitor", pa.string(), 'the monitor, or "assess"', required=True),
        column("entity_type", pa.string(), "the field that names the entity", required=True),
        column("entity", pa.string(), "the entity's id, or its pseudonym", required=True),
        column("opened", TIME, "the time of the incident's first event", required=True),
        column(
            "last",
            TIME,
            "the time of the incident's last event, with or without an alert",
            required=True,
        ),
        column("alerts", pa.int64(), "alerts published for the incident", required=True),
        column(
            "suppressed",
            pa.int64(),
            "events of the incident without an alert of their own",
            required=True,
        ),
        column(
            "top_score", pa.float64(), "the highest score of the incident's alerts", required=True
        ),
        column(
            "severity",
            pa.string(),
            "the severity of the alert with the highest score",
            required=True,
        ),
        column("events", pa.int64(), "events of the entity from opened to last", required=True),
        column(
            "amount",
            pa.float64(),
            "sum of the absolute amounts of those events; null if none has an amount",
        ),
        column(
            "frauds",
            pa.int64(),
            "number of those events that are labelled fraud; null without labels",
        ),
        column(
            "fraud_amount", pa.float64(), "sum of the amounts of those frauds; null without labels"
        ),
        column(
            "verdict",
            pa.string(),
            "fraud if one of the events or the entity is labelled fraud, else honest; null without labels",
        ),
        column(
            "evaluated", pa.bool_(), "whether it was opened in the evaluated time", required=True
        ),
    ]
)


def entity_columns(config: Config) -> list[str]:
    """The entity fields of scores.parquet: those of the monitors, and the subject of assess."""
    subject = [config.assess.subject] if config.assess else []
    return list(dict.fromkeys([*(monitor.entity for monitor in config.monitors), *subject]))


def score_columns(config: Config) -> pa.Schema:
    """The columns of scores.parquet."""
    names = [monitor.name for monitor in config.monitors]
    combined_meaning = "-log10 of assess's p-value; null without a report"
    if learning_inputs(config):
        combined_meaning = "-log10 of assess's p-value; null where no monitor scored the event"
    scorers = [node.name for node in scoring_nodes(config)]
    combining = [node.name for node in scoring_nodes(config) if node.combines_reports]
    outcomes = "opened, updated or suppressed in an incident, or held_back by the budget; else null"
    return pa.schema(
        [
            EVENT_ID,
            EVENT_TIME,
            *POSITION,
            column(
                "score",
                pa.float64(),
                "-log10 of the combined p-value of all monitors",
                required=True,
            ),
            *(
                column(
                    f"score_{name}",
                    pa.float64(),
                    f"-log10 of {name}'s p-value; null where it did not score",
                )
                for name in names
            ),
            *(column(f"score_{name}", pa.float64(), combined_meaning) for name in combining),
            *(
                column(f"activity_{name}", pa.string(), f"outcome of {name}'s policy: {outcomes}")
                for name in scorers
            ),
            *(
                column(
                    f"surprising_{name}",
                    pa.string(),
                    f"{name}'s features with p < 0.1, separated by commas",
                )
                for name in names
            ),
            *(
                column(field, pa.string(), f"the event's {field}, or its pseudonym")
                for field in entity_columns(config)
            ),
            column("amount", pa.float64(), "the event's amount, in its own currency"),
            EVALUATED,
        ]
    )


def fraud_columns(config: Config) -> pa.Schema:
    """The columns of frauds.parquet: those of scores.parquet, and columns about the label and the alerts."""
    return pa.schema(
        [
            *score_columns(config),
            column("scenario", pa.string(), "the label's kind of fraud, empty without one"),
            column("known_time", TIME, "when the label became known, UTC"),
            column(
                "alerted",
                pa.bool_(),
                "whether it opened, updated or was suppressed in an incident",
                required=True,
            ),
            column("published", pa.bool_(), "whether an alert was published on it", required=True),
            column(
                "caught",
                pa.bool_(),
                "whether it was alerted, or an alert's action was in force",
                required=True,
            ),
            column(
                "nearest",
                pa.string(),
                "the scorer whose score was nearest to an alert; null if none scored it",
            ),
            column(
                "gap",
                pa.float64(),
                "the lowest score at which that scorer alerts minus its score; null if none scored it",
            ),
        ]
    )


def feature_columns(config: Config) -> pa.Schema:
    """The columns of features.parquet."""
    values = [(m.name, name) for m in config.monitors for name in value_names(m)]
    return pa.schema(
        [
            EVENT_ID,
            EVENT_TIME,
            *(
                column(f"{monitor}__{name}{ending}", pa.float64(), f"{monitor}, {name}: {meaning}")
                for monitor, name in values
                for ending, meaning in (
                    (
                        "",
                        "the value at the event, this event included, before the models learned it",
                    ),
                    ("__p", "the feature's own p-value"),
                )
            ),
        ]
    )
