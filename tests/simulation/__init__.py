"""Deterministic simulation: real workers on an in-memory broker, in simulated time, driven by a seed."""
