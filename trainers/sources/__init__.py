"""Owns finding what there is to encode: the lists, folders and tables in which people keep clips, captions and prompts.

May import: config.
Must not know: torch, PyAV, or what becomes of an entry. `python -m trainers.sources` tells what a source holds within a second.
"""
