"""Tests of the demo and of the simulated shop."""
