"""Eddy's tests. A package only so that `python -m tests.bench` and imports between tests work."""
