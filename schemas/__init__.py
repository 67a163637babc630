"""What crosses a wire: events and labels in; alerts and dead letters out.

Codecs, field mapping and the published JSON Schemas. Does no I/O, and knows no model and no Kafka.
"""
