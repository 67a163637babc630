"""Assess: the reports of all monitors on one event become one p-value."""
