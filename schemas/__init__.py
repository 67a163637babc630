"""Formats of input and output records: events, labels, alerts and dead letters.

Codecs, field mapping and the published JSON Schemas. Does no I/O; independent of models and Kafka.
"""
