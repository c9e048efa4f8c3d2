"""The run directory on disk: records, attempts, logs, the copy of the code, the registry of runs.

May import: config.
Must not know: schedulers, or whether a job is alive.
"""
