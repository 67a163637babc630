"""The stages: log in, log out. Each module here is one stage; this one says what a stage is.

The worker, the replay, the demo and the oracle of the tests do nothing but run stages. A stage
does no input or output of its own: it is handed a batch of its log and hands back what belongs
into the next ones.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from detectors.state import Arrays, WriteHook
from schemas.alerts import Alert

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class InternalRecord(NamedTuple):
    """A record for an internal log: the name of that log, the partition in it, and the message."""

    log: str
    partition: int
    value: bytes


@dataclass(frozen=True, slots=True)
class AlertAtRow:
    """An alert and the row of the batch whose event raised it."""

    row: int
    alert: Alert


class Stage(Protocol[In_contra, Out_co]):
    """A deterministic fold over one partition of one log.

    `process` is the only way its state changes. Results do not depend on how the log was cut
    into batches, nor on the wall clock.
    """

    def process(self, batch: In_contra) -> Out_co:
        """Take the next batch of the log; return what it adds to the logs behind."""

    def save(self) -> Arrays:
        """The whole state as it lives: going on with `process` changes it."""

    def load(self, state: Arrays) -> None:
        """Replace the whole state by a saved one of the same configuration and version."""

    def hooked_arrays(self) -> set[str]:
        """The saved arrays of which rows are written only when that was announced."""

    def on_write(self, before_write: WriteHook | None) -> None:
        """From now on say to this callable, or to nobody, what a batch is about to write."""

    def counts(self) -> dict[str, int]:
        """What became of every record read so far, which adds up, and how large the state is."""
