"""Tests of the stages, and of a whole shard of them."""
