"""Judging: its measures, what it makes of files, and what reads them."""
