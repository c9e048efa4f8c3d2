"""Slurm: its commands, its answers, its states, the facts of a site.

May import: errors only.
Must not know: runs, recipes, or what a job does. Nothing outside this room runs Slurm's commands.
"""
