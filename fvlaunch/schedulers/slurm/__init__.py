"""Slurm: its commands, its answers, its states, the facts of a site.

May import: errors only.
Must not know: runs, recipes, or what a job does. Outside this room Slurm's commands are run in two places only:
lifecycle submits with sbatch, and the end of a batch script requeues with scontrol.
"""
