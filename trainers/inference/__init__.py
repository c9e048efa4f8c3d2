"""Videos, measurements and exported folders from trained weights.

May import: checkpointing, models, data, diffusion, distributed, config.
Must not know: how the weights were trained.
"""
