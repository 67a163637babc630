"""What runs: configuration, stages, worker, replay, simulator, metrics and command line."""
