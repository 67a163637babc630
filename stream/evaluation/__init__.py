"""Evaluation: compare the output of a replay with labels. Reads files only; learns nothing."""
