"""What each command does and prints: one module a command.

May import: lifecycle, diagnostics, planning, status, runs, schedulers, config.
Must not know: how the words were typed (cli), or how a job is handed to a scheduler.
"""
