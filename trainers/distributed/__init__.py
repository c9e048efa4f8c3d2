"""Ranks: mesh, FSDP, collectives, DTensor helpers, activation checkpointing.

May import: config, control.
Must not know: models or methods.
"""
