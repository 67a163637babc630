"""What Eddy stands beside in `make quality`: simple bases, a module for each kind of data, and a batch
model.

A simple base is what an analyst writes in an afternoon: one feature, a fixed rule, or evidence
accumulated from either (`evidence`). Each scores the same rows as Eddy, causally, without their
labels or with labels as known then. Constants were chosen on the early part of a set, or, where a set
has none, for a reason that its module states. The batch model is `boosting`.
"""
