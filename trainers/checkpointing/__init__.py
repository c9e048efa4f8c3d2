"""Owns checkpoints: publishing, verifying, choosing, pruning and reading them.

May import: distributed, config, control.
Must not know: what the state means: it is a mapping of tensors.
"""
