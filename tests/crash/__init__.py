"""`make crash`: workers on a real broker, killed wherever it could hurt, held against the oracle."""
