"""Checkpoints: files and manifests, states held still, what survives, where a partition starts."""
