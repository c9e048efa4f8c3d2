"""Weights from folders and hubs into sharded networks.

May import: distributed, config.
Must not know: training methods.
"""
