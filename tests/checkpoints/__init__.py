"""Tests of checkpoints: files, manifests, snapshots, migration, and where a partition starts."""
