"""What one run is asked to do: its configuration, its inputs, its time split and its folder."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stream.config import Config
from stream.errors import InputError
from stream.replay import manifest
from stream.replay.inputs import Input, InputLocations, find_inputs
from stream.replay.manifest import Provenance
from stream.replay.time_split import TimeSplit


class RunRequest(NamedTuple):
    """One run.

    name: the heading of its page. events, labels: its inputs, ready to be read. writes_features:
    whether features.parquet is written, too.
    """

    name: str
    config: Config
    out_dir: Path
    events: list[Input]
    labels: list[Input]
    split: TimeSplit
    writes_features: bool = False

    def provenance(self) -> Provenance:
        """All that the results follow from; reads every local file for its content_id."""
        events, labels = (
            [read.manifest_entry() for read in inputs] for inputs in (self.events, self.labels)
        )
        return manifest.provenance(self.config, events, labels, self.split, self.writes_features)

    def sources(self) -> list[Input]:
        """The inputs of events that are no internal topics."""
        return [read for read in self.events if read.log is None]


def run_request(
    name: str,
    config: Config,
    out_dir: Path,
    inputs: InputLocations,
    labels: InputLocations,
    split: TimeSplit,
    opened: ExitStack,
    *,
    writes_features: bool = False,
) -> RunRequest:
    """Find the inputs of a run. opened: closes them.

    Raises InputError for inputs that cannot be used, or not together.
    """
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    event_inputs, label_inputs = (
        find_inputs(config, locations, opened) for locations in (inputs, labels)
    )
    request = RunRequest(name, config, out_dir, event_inputs, label_inputs, split, writes_features)
    _check_topics(request)
    internal = any(read.log for read in (*event_inputs, *label_inputs))
    if internal and labels:
        raise InputError(
            "--labels: an internal topic does not hold the events that labels are joined to, and "
            "has its own labels among its events; expected inputs"
        )
    if internal and split.warm_up_s is not None:
        raise InputError(
            "--warm-up: an internal topic does not say when its events began; expected --score-from"
        )
    return request


def _check_topics(request: RunRequest) -> None:
    """Raise InputError where records of two inputs would have the same positions."""
    topics: dict[str, str] = {}
    for one in (*request.events, *request.labels):
        topic = one.topic if one in request.events else one.name
        if topic in topics:
            raise InputError(
                f"{one.name}: its records and those of {topics[topic]} have the same topic, {topic}, "
                "and could not be distinguished; expected each topic once, and different names for "
                "events and labels"
            )
        topics[topic] = one.name
