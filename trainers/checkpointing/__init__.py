"""Checkpoints: publish, verify, choose, prune, read.

May import: distributed, config, control.
Must not know: what the state means: it is a mapping of tensors.
"""
