"""A monitor: watches the entities of one type. Events in, p-values and policy outcomes out."""

from detectors.monitor.declaration import MonitorSpec, value_names
from detectors.monitor.monitor import Monitor
from detectors.monitor.output import MonitorOutput
from detectors.monitor.selection import is_label_of, is_relevant, matches, present

__all__ = [
    "Monitor",
    "MonitorOutput",
    "MonitorSpec",
    "is_label_of",
    "is_relevant",
    "matches",
    "present",
    "value_names",
]
