"""Every error Eddy raises on purpose, and what the operator should do about it.

    EddyError
    ├── ConfigError              exit 2   mend the configuration; every mistake is named at once
    ├── InputError               exit 2   mend the path or the file that replay was given
    ├── QueryError               exit 2   mend the question, or ask another run
    ├── ExtraMissing             exit 2   install what the command needs
    ├── RetentionGap             exit 4   the log no longer holds what the state was made of
    ├── ForeignOffset            exit 4   the group's committed offset was not written by Eddy
    ├── ForeignRecord            exit 4   an internal topic holds what this Eddy cannot read
    ├── CheckpointPointerLost    exit 4   an offset without its checkpoint's name, or the reverse
    ├── CheckpointCorrupt        exit 4   no checkpoint is whole, and the log does not reach back
    ├── CheckpointIncompatible   exit 4   the checkpoint is in a format that this version cannot read
    ├── StateWouldBeDropped      exit 4   the start would drop learned state, and no flag allows it
    ├── SavedStateUnusable       exit 4   what a replay saved is not for this configuration
    ├── PartitionCountChanged    exit 4   entities have moved between partitions
    ├── ConfigurationSuperseded  exit 4   the group has gone on to another configuration
    ├── StoreFailure             exit 6   the checkpoint store said no
    ├── OutputFailure            exit 6   the results of a command cannot be written
    └── KafkaFailure                      the client or the broker said no
        ├── Retriable        exit 7       tried again, with back-off; raised when tries run out
        ├── Abortable        exit 7       the transaction is aborted, state and outbox are kept
        ├── Outlived         exit 7       only a new worker can tell how the transaction ended
        ├── Fenced           exit 5       another worker has this worker's id: stop
        └── Fatal            exit 5       nothing that is started anew can mend it

A start anew mends nothing after exit codes 2, 4 and 5, and may after any other (`NON_RESTARTABLE`).
Client exceptions are mapped to these at one border (`stream.kafka`), the cause kept.
"""

from typing import Final

from stream.location import hide_credentials

RELEARN_COMMAND: Final = (
    "eddy replay CONFIG --input 'NAME=kafka://TOPIC?until=OFFSETS' --out FOLDER --save-state URL up to "
    "the committed offsets, then [checkpoints] start_from = URL"
)
"""Learns again from the log, where no checkpoint is usable."""

NON_RESTARTABLE: Final = frozenset({2, 4, 5})
"""Exit codes after which somebody must act first: a worker started anew would end the same way."""


class EddyError(Exception):
    """Base of all; `exit_code` is the process's, `remedy` what the operator should do.

    Credentials in addresses are hidden in every message.
    """

    exit_code = 1
    remedy = "Read the message; if it does not explain itself, report it as a bug."

    def __init__(self, message: str) -> None:
        self.message = hide_credentials(message)
        super().__init__(self.message)


class ConfigError(EddyError):
    """The configuration has mistakes; `problems` holds one line each: path, got, expected."""

    exit_code = 2
    remedy = "Mend each line named."

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = [hide_credentials(line) for line in problems]


class InputError(EddyError):
    """A file given to replay cannot be read, or is not what its name says."""

    exit_code = 2
    remedy = "Mend what the message names; `eddy replay --help` explains every option."


class QueryError(EddyError):
    """A question to runs has mistakes, or they cannot answer it."""

    exit_code = 2
    remedy = "eddy query RUN --columns shows a run's tables and columns; eddy top RUN its entities."


class ExtraMissing(EddyError):
    """The command needs a library that Eddy installs only on request."""

    exit_code = 2
    remedy = "Install it: pip install 'eddywatch[backtest]'"


class RetentionGap(EddyError):
    """The log starts later, or ends earlier, than the state behind the committed offset needs."""

    exit_code = 4
    remedy = "Raise the topic's retention; to start anew on purpose, use another group."


class ForeignOffset(EddyError):
    """The group has a committed offset that says nothing of the state that it stands for."""

    exit_code = 4
    remedy = "Use a group of Eddy's own; to start anew on purpose, use another group."


class ForeignRecord(EddyError):
    """A record on an internal topic is no message that this configuration of Eddy can read.

    It is never skipped: without its events the state would be another one.
    """

    exit_code = 4
    remedy = (
        "Let only Eddy write to its internal topics. After a change of inputs or of version, run "
        "the former one until nothing of it is left."
    )


class CheckpointPointerLost(EddyError):
    """A committed offset does not name its checkpoint, or checkpoints have no committed offset."""

    exit_code = 4
    remedy = (
        "Somebody reset or removed the group's offsets, or they expired (offsets.retention.minutes). "
        "To start anew on purpose, use another group: internal topics still hold what this one has "
        "sent, and its alerts would be published again."
    )


class CheckpointCorrupt(EddyError):
    """A checkpoint is missing or not what was written, and nothing earlier can stand in for it."""

    exit_code = 4
    remedy = (
        "See that checkpoints.url names the right, whole store, and restore it. A backup may be used "
        "only under the configuration that the group has now. Without one, learn again from the "
        f"log: {RELEARN_COMMAND}, and start again; to start with nothing learned, use another group."
    )


class CheckpointIncompatible(EddyError):
    """A checkpoint is in a format that this version of Eddy cannot read."""

    exit_code = 4
    remedy = f"Start the version that wrote it; or learn again under this one: {RELEARN_COMMAND}."


class StateWouldBeDropped(EddyError):
    """The start would drop learned state. lines: each with stage, reason, and argument to allow it."""

    exit_code = 4
    remedy = (
        "Nothing was written. To keep the state, start with the configuration, the secret and the "
        "version of Eddy that it was learned under. To drop it on purpose, add these arguments to "
        "`eddy run`; they drop nothing else, and the checkpoints stay in the store until you delete "
        "them. States are not migrated between versions before 1.0: to learn again from the log, "
        f"first {RELEARN_COMMAND}, and start with the same arguments."
    )

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        whole = "\n".join(f"  {line}" for line in self.lines)
        super().__init__(f"this start would drop learned state of the group:\n{whole}")


class SavedStateUnusable(EddyError):
    """The state that a replay saved is missing, or is another configuration's or version's."""

    exit_code = 4
    remedy = (
        "Save it anew with this very configuration (eddy replay CONFIG ... --save-state), or take "
        "checkpoints.start_from away to start with nothing learned."
    )


class PartitionCountChanged(EddyError):
    """The topic has another number of partitions than when the state was learned."""

    exit_code = 4
    remedy = (
        "Entities have moved between partitions. To keep the learned state, stop the group and "
        "replay the inputs into a saved state. In the configuration set another `group` and the "
        "present number of `partitions`, and remove `keyed_by` of an input that grew: its older "
        "records are where the former number put them. Run `eddy topics create CONFIG`, then "
        "`eddy replay CONFIG --input 'NAME=kafka://TOPIC?until=0:OFFSET,…' --out FOLDER --save-state "
        "URL` with the former group's committed offsets, 0 for new partitions. Set "
        "checkpoints.start_from = URL, and start. To start with nothing learned, use another "
        "group without a saved state."
    )


class ConfigurationSuperseded(EddyError):
    """The group has gone on from this worker's configuration to another one."""

    exit_code = 4
    remedy = (
        "Start this worker with the group's present configuration and secret; to go back on "
        "purpose, raise its `revision`."
    )


class StoreFailure(EddyError):
    """The checkpoint store cannot be reached, read or written."""

    exit_code = 6
    remedy = "See that the store named by checkpoints.url is there, has room, and may be written."


class OutputFailure(EddyError):
    """Results cannot be written: the disk is full, or the folder may not be written."""

    exit_code = 6
    remedy = "Make room where --out is, or name another folder; partial results were removed."


class KafkaFailure(EddyError):
    """The client or the broker reported an error; `code` is its name, where it has one."""

    exit_code = 5
    code = ""
    remedy = "See the code in the message and the broker's log."


class Retriable(KafkaFailure):
    """May succeed when tried again as it is."""

    exit_code = 7
    remedy = "Eddy tried again until its patience ran out: look at the broker and the network."


class Abortable(KafkaFailure):
    """The open transaction must be aborted; then it may be tried again with the same outbox."""

    exit_code = 7
    remedy = "Eddy tried again until its patience ran out: look at the broker and the network."


class CommitOutcomeUnknown(KafkaFailure):
    """A transaction was neither committed nor aborted in time, as far as this worker can know.

    The broker has decided, or will; the next worker of the slot learns it from the committed
    offset.
    """

    exit_code = 7
    remedy = (
        "Start the worker again under the same slot. Where it happens often: look at the brokers' "
        "load, or raise kafka.transaction.timeout.ms."
    )


class Fenced(KafkaFailure):
    """A newer worker with the same transactional id, or the same instance id, has taken over."""

    remedy = "See that no two workers share a slot (--slot, EDDY_SLOT or group.instance.id)."


class Fatal(KafkaFailure):
    """Retrying cannot help: authorisation, an unknown topic, a client bug."""

    remedy = "Mend what the message names, then start again."
