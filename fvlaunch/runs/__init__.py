"""The run directory on disk: records, attempts, logs, the copy of the code, the registry of runs.

May import: config; of schedulers only who a process of this machine is.
Must not know: other things of schedulers, or whether a job is alive.
"""
