"""Tests of the worker, the supervisor and the topics."""
