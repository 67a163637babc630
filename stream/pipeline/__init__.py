"""The stages, the shards that hold their state, and the cluster that runs all shards in memory."""
