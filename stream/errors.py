"""Every error that Eddy raises on purpose, with its exit code and remedy.

The reference documentation is generated from this module: the first line of an error's docstring,
its `exit_code` and its `remedy`. Errors of Kafka's client are translated to these in `stream.kafka`.
"""

from typing import Final

from stream.location import hide_credentials

RELEARN_COMMAND: Final = (
    "eddy replay CONFIG --input 'NAME=kafka://TOPIC?until=OFFSETS' --out FOLDER --save-state URL up to "
    "the committed offsets, then [checkpoints] start_from = URL"
)
"""Rebuilds the state from the log, where no checkpoint is usable."""

EXIT_CODES: Final = {
    0: "success",
    1: "a bug, or a process that ended unexpectedly",
    2: "wrong configuration, input, question or command line, or a missing library",
    4: "the stored state does not fit: starting would lose or repeat alerts",
    5: "Kafka refuses the worker for good: fenced, or an error that no retry can help",
    6: "the checkpoint store or the output folder cannot be read or written",
    7: "Kafka was out of reach for too long, or the outcome of a commit is unknown",
}
"""What each exit code of a command means."""

NON_RESTARTABLE: Final = frozenset({2, 4, 5})
"""Exit codes after which a restart will not help: an operator must act first."""


class EddyError(Exception):
    """Base of all errors. Credentials in addresses are hidden in every message.

    exit_code: of the process. remedy: what the operator should do.
    """

    exit_code = 1
    remedy = "Read the message; if it does not explain the problem, report a bug."

    def __init__(self, message: str) -> None:
        self.message = hide_credentials(message)
        super().__init__(self.message)


class ConfigError(EddyError):
    """The configuration is wrong; every mistake is listed: key, value, what was expected."""

    exit_code = 2
    remedy = "Correct each line listed."

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = [hide_credentials(line) for line in problems]


class InputError(EddyError):
    """An input of a replay cannot be read, or is not of the format that its name says."""

    exit_code = 2
    remedy = "Correct what the message names; `eddy replay --help` explains every option."


class QueryError(EddyError):
    """A query is wrong, or the run's tables cannot answer it."""

    exit_code = 2
    remedy = "eddy query RUN --columns shows a run's tables and columns; eddy top RUN its entities."


class ExtraMissing(EddyError):
    """The command needs an optional library."""

    exit_code = 2
    remedy = "Install it: pip install 'eddywatch[backtest]'"


class RetentionGap(EddyError):
    """The log no longer holds records that the state needs, or ends before the committed offset."""

    exit_code = 4
    remedy = "Raise the topic's retention; to start over on purpose, use another group."


class ForeignOffset(EddyError):
    """The group has a committed offset that was not written by Eddy."""

    exit_code = 4
    remedy = "Use a group only for Eddy; to start over on purpose, use another group."


class ForeignRecord(EddyError):
    """A record on an internal topic cannot be read under this configuration or version.

    It is never skipped: without its events the state would differ.
    """

    exit_code = 4
    remedy = (
        "Let only Eddy write to its internal topics. After a change of inputs or version, run the "
        "previous one until its records on internal topics are processed."
    )


class CheckpointPointerLost(EddyError):
    """A committed offset does not name its checkpoint, or checkpoints have no committed offset."""

    exit_code = 4
    remedy = (
        "The group's offsets were reset or deleted, or expired (offsets.retention.minutes). To start "
        "over on purpose, use another group: internal topics still hold what this group has sent, "
        "and its alerts would be published again."
    )


class CheckpointCorrupt(EddyError):
    """A checkpoint is missing or damaged, and no earlier one can replace it."""

    exit_code = 4
    remedy = (
        "Check that checkpoints.url names the right store, and restore what is missing there. A "
        "backup may be used only under the group's present configuration. Without one, rebuild the "
        f"state from the log: {RELEARN_COMMAND}, and start again; to start with nothing learned, use "
        "another group."
    )


class CheckpointIncompatible(EddyError):
    """A checkpoint is in a format that this version of Eddy cannot read."""

    exit_code = 4
    remedy = f"Start the version that wrote it; or rebuild the state: {RELEARN_COMMAND}."


class StateWouldBeDropped(EddyError):
    """Starting would drop learned state.

    lines: for each stage the reason, and the argument that allows it.
    """

    exit_code = 4
    remedy = (
        "Nothing was written. To keep the state, start with the configuration, the secret and the "
        "version of Eddy that it was learned under. To drop it on purpose, add these arguments to "
        "`eddy run`; they drop nothing else, and the checkpoints stay in the store until you delete "
        "them. States are not migrated between versions before 1.0: to rebuild the state from the "
        f"log, first {RELEARN_COMMAND}, and start with the same arguments."
    )

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        listed = "\n".join(f"  {line}" for line in self.lines)
        super().__init__(f"this start would drop learned state of the group:\n{listed}")


class SavedStateUnusable(EddyError):
    """The state that a replay saved is missing, or of another configuration or version."""

    exit_code = 4
    remedy = (
        "Save it again with this configuration (eddy replay CONFIG ... --save-state), or remove "
        "checkpoints.start_from to start with nothing learned."
    )


class PartitionCountChanged(EddyError):
    """The topic's number of partitions has changed since the state was learned."""

    exit_code = 4
    remedy = (
        "Entities have moved between partitions. To keep the learned state, stop the group and "
        "replay the inputs into a saved state. In the configuration set another `group` and the "
        "present number of `partitions`, and remove `keyed_by` of an input that grew: its older "
        "records are in the partitions that the previous number gave. Run `eddy topics create CONFIG`, then "
        "`eddy replay CONFIG --input 'NAME=kafka://TOPIC?until=0:OFFSET,…' --out FOLDER --save-state "
        "URL` with the old group's committed offsets, 0 for new partitions. Set "
        "checkpoints.start_from = URL, and start. To start with nothing learned, use another "
        "group without a saved state."
    )


class ConfigurationSuperseded(EddyError):
    """The group has changed from this worker's configuration to another one."""

    exit_code = 4
    remedy = (
        "Start this worker with the group's present configuration and secret; to return to this "
        "one on purpose, raise its `revision`."
    )


class StoreFailure(EddyError):
    """The checkpoint store cannot be reached, read or written."""

    exit_code = 6
    remedy = "Check that the store at checkpoints.url exists, has room, and is writable."


class OutputFailure(EddyError):
    """Results cannot be written: the disk is full, or the folder is not writable."""

    exit_code = 6
    remedy = "Free space at --out, or name another folder; partial results were removed."


class KafkaFailure(EddyError):
    """Kafka's client or broker reported an error. code: its name, where it has one."""

    exit_code = 5
    code = ""
    remedy = "Look up the code in the message, and see the broker's log."


class Retriable(KafkaFailure):
    """Kafka was out of reach or busy for as long as Eddy retried."""

    exit_code = 7
    remedy = (
        "Check the brokers and the network; a restarted worker continues where this one stopped."
    )


class Abortable(KafkaFailure):
    """The transaction was aborted every time, for as long as Eddy retried."""

    exit_code = 7
    remedy = (
        "Check the brokers and the network; a restarted worker continues where this one stopped."
    )


class CommitOutcomeUnknown(KafkaFailure):
    """Whether a transaction was committed is unknown to this worker.

    The next worker of the slot learns the outcome from the committed offset.
    """

    exit_code = 7
    remedy = (
        "Restart the worker with the same slot. If this happens often, check the brokers' load, or "
        "raise kafka.transaction.timeout.ms."
    )


class Fenced(KafkaFailure):
    """Another worker with the same slot has taken over."""

    remedy = "Give each worker its own slot (--slot, EDDY_SLOT or group.instance.id)."


class Fatal(KafkaFailure):
    """Kafka reports an error that no retry can help, such as a missing permission or topic."""

    remedy = "Correct what the message names, then start again."
