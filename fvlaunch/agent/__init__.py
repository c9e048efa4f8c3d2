"""Runs inside the job, one agent a node: starts ranks, passes on notices, finds hangs, decides what follows an exit.

May import: runs, schedulers, config; of trainers only the exit codes in `trainers.control`.
Must not know: torch, or what a rank trains. The requeue is decided in `restart_policy.py`.
"""
