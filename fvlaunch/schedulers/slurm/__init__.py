"""Slurm: its commands, its answers, its states, the facts of a site.

May import: the room's base, errors, files.
Must not know: runs, recipes, or what a job does. Outside this room Slurm's commands are run in one place only: the end of a batch script
requeues with scontrol.
"""
