"""Ranks: mesh, FSDP, collectives, DTensor helpers, activation checkpointing.

May import: config, control, allocator (to tell its settings), temporary_folders (to look before each compilation).
Must not know: models or methods.
"""
