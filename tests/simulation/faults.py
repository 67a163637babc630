"""Faults of the network, set by the schedule for one process."""

from dataclasses import dataclass

from stream.errors import Abortable


@dataclass(slots=True)
class NetworkFaults:
    """Faults that the schedule sets for one process. silent_until: heartbeats are lost until then.
    abort: the step of the next transaction that fails. commit: what becomes of its commit request:
    "" answered, "lost" never received, "unanswered" carried out, but the answer is lost."""

    silent_until: float = 0.0
    abort: str = ""
    commit: str = ""

    def take(self, step: str) -> None:
        """Fail where this step is to fail, once."""
        if self.abort == step:
            self.abort = ""
            raise Abortable(f"{step}: set to fail by the schedule")
