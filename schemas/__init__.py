"""What crosses a wire: events in; alerts, decisions, labels and dead letters out.

Codecs, field mapping and the published JSON Schemas. Knows no model and no Kafka.
"""
