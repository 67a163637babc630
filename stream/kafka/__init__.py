"""Access to Kafka; the only package that imports its client.

It hands out Eddy's own types only: records, partitions, offsets, and the errors of `stream.errors`.
What to read, publish and commit is decided by its callers.
"""
