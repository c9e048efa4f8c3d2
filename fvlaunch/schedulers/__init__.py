"""What runs jobs: one protocol (`base.py`), and a folder for each scheduler that keeps it; `registry.py` finds them by name.

May import: errors, files.
Must not know: runs, recipes, or what a job does.
"""
