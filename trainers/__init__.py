"""The training programs: they know tensors, checkpoints and methods, and nothing of whatever launched them."""
