"""Compiled kernels and arithmetic without a concept of entity or monitor."""
