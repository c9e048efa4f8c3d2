"""Owns training data on disk: the parquet format, its rows, the stateless sampler, the loader processes, batches.

May import: config, control (a process of the loader ends with its rank).
Must not know: networks, or how the data were made.
"""
