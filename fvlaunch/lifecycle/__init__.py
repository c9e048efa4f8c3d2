"""Makes, continues, forks and ends jobs: the only room that submits.

May import: planning, status, runs, schedulers, config; of agent only `main.run_agent`, the function that a job runs.
Must not know: what is printed, or how the command line looks.
"""
