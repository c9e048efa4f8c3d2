"""Decides what a submission will be and changes nothing: plan, preflight checks, lock, warnings.

May import: runs, schedulers (facts of the site, GPUs of this machine), config, trainers.config.
Must not know: how a job is submitted. Must not write anything.
"""
