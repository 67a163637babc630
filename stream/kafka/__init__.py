"""The border to Kafka, and the only package that imports its client.

Everything that leaves it is Eddy's own: records, partitions, offsets, errors of `stream.errors`. It
decides nothing: what to read, to emit and to commit is the worker's business.
"""
