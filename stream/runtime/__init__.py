"""The long-lived worker: its loop, its supervisor, the topics it needs."""
