"""The laws: one suite over every feature, detector and monitor."""
