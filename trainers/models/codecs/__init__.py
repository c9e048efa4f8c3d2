"""Codecs: videos to latents and back, prompts to embeddings.

May import: loading, distributed, config.
Must not know: the networks that are trained on them.
"""
