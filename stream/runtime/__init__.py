"""The worker: start-up, loop, assigned partitions, topics, and the supervisor of several workers."""
