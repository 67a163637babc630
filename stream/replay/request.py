"""The request for one run: configuration, inputs, labels, time split and output folder."""

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
    """The request for one run.

    name: the heading of its page. event_inputs, label_inputs: open until the exit stack closes them.
    writes_features: whether to write features.parquet.
    """

    name: str
    config: Config
    out_dir: Path
    event_inputs: list[Input]
    label_inputs: list[Input]
    split: TimeSplit
    writes_features: bool = False

    def provenance(self) -> Provenance:
        """Everything that determines the results; reads every local file for its content_id."""
        events, labels = (
            [source.manifest_entry() for source in inputs]
            for inputs in (self.event_inputs, self.label_inputs)
        )
        return manifest.provenance(self.config, events, labels, self.split, self.writes_features)

    def external_inputs(self) -> list[Input]:
        """The event inputs that are not internal topics."""
        return [source for source in self.event_inputs if source.log is None]


def run_request(
    name: str,
    config: Config,
    out_dir: Path,
    inputs: InputLocations,
    labels: InputLocations,
    split: TimeSplit,
    exit_stack: ExitStack,
    *,
    writes_features: bool = False,
) -> RunRequest:
    """Find and open the inputs of a run. exit_stack: closes them.

    Raises InputError for inputs that cannot be used, or not together.
    """
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    event_inputs, label_inputs = (
        find_inputs(config, locations, exit_stack) for locations in (inputs, labels)
    )
    request = RunRequest(name, config, out_dir, event_inputs, label_inputs, split, writes_features)
    _check_topics(request)
    internal = any(source.log for source in (*event_inputs, *label_inputs))
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
    for source in (*request.event_inputs, *request.label_inputs):
        # records of labels have the input's name as their topic, see `JoinedLabels.reader`
        topic = source.topic if source in request.event_inputs else source.name
        if topic in topics:
            raise InputError(
                f"{source.name}: its records and those of {topics[topic]} have the same topic, {topic}, "
                "and could not be distinguished; expected each topic once, and different names for "
                "events and labels"
            )
        topics[topic] = source.name
