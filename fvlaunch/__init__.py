"""Submits training runs to Slurm or to this machine, and keeps them alive until they are finished. Never imports torch."""

__version__ = "0.1.0"
