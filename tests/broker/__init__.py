"""Tests that need a real broker."""
