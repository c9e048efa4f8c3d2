"""Attention of Wan networks: dense projections, block-causal masks and caches, video sparse attention.

May import: diffusion, distributed, config.
Must not know: whole networks or training methods.
"""
