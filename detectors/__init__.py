"""The learning engine: entities, features, models, calibration, policy, explanation.

Pure: no clock, no input or output, no unseeded randomness. State changes only by processing
columns of events in order.
"""
