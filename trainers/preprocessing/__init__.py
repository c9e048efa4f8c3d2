"""Owns making what training reads: downloads, clips to latents, prompts to embeddings, the synthetic clips.

May import: models (codecs and loading), data, distributed, config.
Must not know: how it is trained on.
"""
