"""Tests that need a real broker: what no imitation of Kafka can prove."""
