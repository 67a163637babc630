"""Judging: what a replay wrote, held against labels. Reads files, never events; learns nothing."""
