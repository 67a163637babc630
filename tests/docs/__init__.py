"""Tests of the documentation: its code blocks, its tutorials, and the site as built."""
