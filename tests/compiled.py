"""Compiles, in one process, the kernels that nearly all tests need: `python -m tests.compiled`. The
processes that share the tests would each compile them, all at the same time. Tests nothing."""

import stream.preloaded  # noqa: F401 - compiles what any worker needs
from tests.stages.told import assessment, silent_sample, take, told

take(assessment(), told(silent_sample(days=2, a_day=200, labelled=0.5, seed=1)))
