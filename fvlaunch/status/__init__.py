"""One truthful state a run, from its records and the scheduler's answer.

May import: runs, schedulers.
Must not know: how a run is made or ended. Must not claim what nobody can say.
"""
