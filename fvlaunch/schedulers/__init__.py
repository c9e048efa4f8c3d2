"""What runs jobs: Slurm's commands and answers, and processes of this machine.

May import: errors only.
Must not know: runs, recipes, or what a job does.
"""
