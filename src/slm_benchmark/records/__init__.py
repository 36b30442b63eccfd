"""The record of a measurement: where it lies, what it says, and the evidence in it."""
