"""Tests of each part of the engine by itself."""
