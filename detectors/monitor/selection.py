"""Which events of a batch concern a monitor."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.monitor.declaration import MonitorSpec
from detectors.spec import EventFilter
from schemas.columns import Bools, EventBatch
from schemas.events import LABEL_TYPE, TYPES


def is_applicable(events: EventBatch, spec: MonitorSpec) -> Bools:
    """bool[n]: the events that the monitor scores."""
    applicable: Bools = matches(events, spec.where) & present(events, spec.entity)
    applicable &= events.type_code != LABEL_TYPE
    return applicable


def is_relevant(events: EventBatch, spec: MonitorSpec) -> Bools:
    """bool[n]: the events that the monitor scores, and the labels of its entities."""
    return is_applicable(events, spec) | is_label_of(events, spec.entity)


def is_label_of(events: EventBatch, entity: str) -> Bools:
    """bool[n]: the labels that name an entity in this field."""
    labels: Bools = events.type_code == LABEL_TYPE
    return labels & present(events, entity)


def matches(events: EventBatch, where: EventFilter) -> Bools:
    """bool[n]: the events whose fields have the value, or one of the values, of the filter.

    "" means an absent field.
    """
    matching = np.ones(len(events), np.bool_)
    for field, allowed in where.items():
        values = [allowed] if isinstance(allowed, str) else allowed
        if field == "type":
            codes: list[int] = [k for k, name in enumerate(TYPES) if name in values]
            matching &= np.isin(events.type_code, np.array(codes, np.uint8))
        elif field in events.text:
            texts = pc.fill_null(events.text[field], "")
            is_allowed = pc.is_in(texts, value_set=pa.array(values, pa.string()))
            matching &= np.asarray(is_allowed.to_numpy(zero_copy_only=False), np.bool_)
        elif "" not in values:
            matching[:] = False
    return matching


def present(events: EventBatch, field: str) -> Bools:
    """bool[n]: the events that have this text field."""
    if field not in events.text:
        return np.zeros(len(events), np.bool_)
    return np.asarray(events.text[field].is_valid().to_numpy(zero_copy_only=False), np.bool_)
