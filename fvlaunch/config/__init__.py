"""Files that people write (recipes, cluster profiles, pipelines, secrets) to typed values, with every mistake named at once.

May import: trainers.config, errors; of schedulers only the registry (which there are) and how GPUs are counted in sbatch's options.
Must not know: runs, jobs, or what is done with a value.
"""
