"""Compiles, in one process, the kernels that nearly all tests need: `python -m tests.compile_kernels`. The
processes that share the tests would each compile them, all at the same time. Tests nothing."""

import stream.runtime.preload  # noqa: F401 - compiles what any worker needs
from tests.pipeline.report_stream import assessment, report_stream, take, unreported_sample

take(assessment(), report_stream(unreported_sample(days=2, a_day=200, labelled=0.5, seed=1)))
