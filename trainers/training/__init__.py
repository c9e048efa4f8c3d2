"""The training loop: resume, step, log, validate, save, stop; metrics and a teacher's trajectories.

May import: inference, methods, preprocessing, checkpointing, optim, models, data, diffusion, distributed, config.
Must not know: which method it drives, or what launched it.
"""
