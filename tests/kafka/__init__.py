"""Tests of the Kafka client layer that need no broker."""
