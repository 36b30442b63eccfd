"""Speed, memory and energy of one variant, measured in a process that does nothing else."""

from slm_benchmark.profile.launch import ProfileFailed, profile

__all__ = ["ProfileFailed", "profile"]
