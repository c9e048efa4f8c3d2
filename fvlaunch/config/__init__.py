"""Files that people write (recipes, cluster profiles, pipelines, secrets) to typed values, with every mistake told at once.

May import: trainers.config, errors.
Must not know: runs, schedulers, or what is done with a value.
"""
