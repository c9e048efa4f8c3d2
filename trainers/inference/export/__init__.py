"""Owns exporting: a run's weights as a folder that stock diffusers loads, with a model card.

May import: what its parent, inference, may.
Must not change the run.
"""
