"""Checkpoints: a shard's state with its position in the log, kept in a folder or an object store.

`manifest` says what a checkpoint is and how a committed offset points at it, `store` where its
files lie, `snapshot` how a state is held still while its shard goes on, `writing` and `loading`
move it, `conversion` says what of it survives another configuration, `recovery` where a partition
starts, `saving` is how a replay leaves one for a live group to begin with. Nothing here knows Kafka's client; what is committed, and when, is the worker's business.
"""
