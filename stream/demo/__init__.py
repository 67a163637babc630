"""The demo: a simulated shop through the stages that run live, with its alerts in the terminal and
on a page.

Only this package compares alerts with the simulated attacks; no stage knows them.
"""

from stream.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
