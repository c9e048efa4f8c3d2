"""Optimizers for sharded parameters, learning-rate schedules, gradient norms, moving averages of weights.

May import: distributed, config.
Must not know: methods or models.
"""
