"""SLM Benchmark: measure small language models, with the evidence beside every number."""

__version__ = "0.1.0"
