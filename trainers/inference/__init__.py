"""Owns what is made from trained weights: videos, measurements, exported folders.

May import: checkpointing, models, data, diffusion, distributed, config.
Must not know: how the weights were trained.
"""
