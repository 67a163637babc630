"""Checkpoints: snapshots of a shard's state with its position, in a folder or an object store.

`manifest` defines the format, `store` the files, `snapshot` a consistent copy of a running shard's
state; `writing` and `loading` transfer it; `manager` decides when; `recovery` decides where a
partition starts, with `migration` to another configuration and `saved_states` of a replay. Nothing
here uses Kafka's client.
"""
