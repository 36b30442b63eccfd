"""Intervals and tests: the numbers that say how sure another number is."""
