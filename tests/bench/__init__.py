"""`make bench`: how fast the main paths are and what they hold in memory, beside what others reach.

Everything compared is measured in the same run, in turns, on the same log. Not a test: nothing here
passes or fails, it prints what was found beside the bar that was set.
"""
